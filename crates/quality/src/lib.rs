//! What rows must be: expectations on single rows, keys that must be unique.
//!
//! **Never**: writes a table, decides what becomes of a flow, or lets one row's error take others down.

pub mod dqdl;
mod expectation;
mod key_filter;
mod key_hash;
mod key_set;
mod row_rules;
mod rule_sql;
mod ruleset;

#[cfg(test)]
mod tests;

pub use expectation::{Action, Condition, Expectation, Horizon, Rule};
pub use key_hash::{KeyHasher, require_key_type};
pub use key_set::{KeySet, Seen};
pub use row_rules::{MOST_RULES, RowRules, Verdict};
pub use rule_sql::row_expectations;
pub use ruleset::{RuleOutcome, RulesetPlan, RulesetState};
