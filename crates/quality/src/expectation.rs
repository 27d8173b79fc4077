//! Expectations: named rules that rows are held to, and what becomes of rows that break them.

use std::fmt;
use std::sync::Arc;

use catchment_sql::SqlText;
use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::tokenizer::Span;

/// A named rule and what becomes of rows that break it.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// Its name.
    pub name: String,
    /// What rows are held to.
    pub rule: Rule,
    /// What becomes of rows that break it.
    pub action: Action,
}

/// What rows are held to.
#[derive(Debug, Clone)]
pub enum Rule {
    /// A condition that each row meets. A row for which it is null or fails with an error breaks it.
    Condition(Condition),
    /// Columns whose values together occur once. Rows with a null among them are not compared.
    Unique(Vec<String>),
    /// The same, where rows are compared only with those that are close in time.
    UniqueWithin(Vec<String>, Horizon),
}

/// How close in time rows are that are compared with each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// The column that holds the time, of the dataset; empty until it is known.
    pub column: String,
    /// How far apart the times may be, in microseconds.
    pub micros: i64,
}

impl Rule {
    /// The columns that are to be unique, and how close rows must be to count.
    #[must_use]
    pub fn unique(&self) -> Option<(&[String], Option<&Horizon>)> {
        match self {
            Rule::Condition(_) => None,
            Rule::Unique(columns) => Some((columns, None)),
            Rule::UniqueWithin(columns, horizon) => Some((columns, Some(horizon))),
        }
    }
}

/// A condition as it was written.
#[derive(Debug, Clone)]
pub struct Condition {
    /// The file.
    pub text: Arc<SqlText>,
    /// Where it stands there.
    pub span: Span,
    /// Its syntax.
    pub expr: Box<Expr>,
}

/// What becomes of rows that break a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// They are counted and kept.
    Warn,
    /// They are counted and left out.
    Drop,
    /// The batch fails, and nothing of it is published.
    Fail,
    /// They are counted and kept apart, in the quarantine of the dataset.
    Quarantine,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Warn => "warn",
            Action::Drop => "drop row",
            Action::Fail => "fail update",
            Action::Quarantine => "quarantine",
        })
    }
}

impl Expectation {
    /// The rule as a person would write it.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.rule {
            Rule::Condition(condition) => condition.text.slice(condition.span.start, condition.span.end),
            Rule::Unique(columns) => format!("UNIQUE ({})", columns.join(", ")),
            Rule::UniqueWithin(columns, horizon) => format!(
                "UNIQUE ({}) WITHIN {} s of {}",
                columns.join(", "),
                horizon.micros as f64 / 1e6,
                horizon.column
            ),
        }
    }
}
