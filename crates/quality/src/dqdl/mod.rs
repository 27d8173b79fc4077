//! DQDL, the data quality definition language of AWS Glue: rulesets as text, parsed and written again.
//!
//! Language: the AWS Glue documentation, "Data Quality Definition Language (DQDL) reference", and the
//! grammar of the Apache-licensed package awslabs/dqdl. All of it is parsed; what is evaluated so far stands in
//! `docs/reference/quality.md`.

mod ast;
mod format;
mod kinds;
mod parse;
mod token;
mod walk;

#[cfg(test)]
mod tests;

pub use ast::{Analyzer, Comparison, Condition, Label, Operand, Parameter, Rule, RuleNode, Ruleset, Sources};
pub use kinds::{KINDS, Kind};
pub use parse::{parse_analyzer, parse_rule, parse_ruleset};
