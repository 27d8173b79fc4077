//! The one integration-test binary: the program as users run it, and its tables as others read them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "all of this binary is tests: a failure is a panic that says what was expected"
)]

mod advise;
mod alerts;
mod backfill;
mod backfill_traps;
mod backup;
mod bad_input;
mod bucket;
mod cleaning;
mod clickstream;
mod crash;
mod documents;
mod examples;
mod existing;
mod foreign;
mod joins_of_streams;
mod kinesis;
mod nexmark;
mod objects;
mod output;
mod page;
mod project;
mod proxy;
mod readers;
mod rollback;
mod rollback_traps;
mod serving;
mod serving_changes;
mod slt;
mod time_travel;
mod traces;
mod unique;
mod upkeep;
mod windows;
mod windows_go_on;
mod windows_of_streams;
