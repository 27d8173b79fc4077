//! The one integration-test binary: the program as users run it, and its tables as others read them.

mod bad_input;
mod crash;
mod examples;
mod project;
mod readers;
mod slt;
