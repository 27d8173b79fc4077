//! What a ruleset is made of.

use catchment_core::Place;

/// A ruleset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ruleset {
    /// The version of the language, from `Metadata`.
    pub version: Option<String>,
    /// The tables that rules are about.
    pub sources: Option<Sources>,
    /// Labels of every rule that does not set them itself.
    pub default_labels: Vec<Label>,
    /// Rules.
    pub rules: Vec<RuleNode>,
    /// Metrics that are computed and not judged.
    pub analyzers: Vec<Analyzer>,
}

/// `DataSources`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    /// The table that rules are about.
    pub primary: Option<String>,
    /// Tables that it is compared with.
    pub additional: Option<Vec<String>>,
}

/// A rule, or several joined by `and` or `or`.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleNode {
    /// One rule.
    One(Box<Rule>),
    /// All must hold.
    And(Vec<RuleNode>),
    /// One must hold.
    Or(Vec<RuleNode>),
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its type, such as `IsComplete`.
    pub kind: String,
    /// Columns, patterns or queries that it is about.
    pub parameters: Vec<Parameter>,
    /// What its metric must be.
    pub condition: Option<Condition>,
    /// The rows that it looks at, as SQL.
    pub filter: Option<String>,
    /// The share of rows that must meet the condition.
    pub threshold: Option<Condition>,
    /// Settings after `with`, by name.
    pub tags: Vec<(String, String)>,
    /// Labels, without those of the ruleset.
    pub labels: Vec<Label>,
    /// Where it stands.
    pub place: Place,
}

/// A metric that is computed and not judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Analyzer {
    /// Its type.
    pub kind: String,
    /// What it is about.
    pub parameters: Vec<Parameter>,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// The text, without quotation marks.
    pub text: String,
    /// Whether it was quoted.
    pub quoted: bool,
    /// The word before it, `of` or `and`, which only reads well.
    pub connector: Option<String>,
}

/// A word and a value that outcomes carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The word.
    pub key: String,
    /// The value.
    pub value: String,
}

/// A comparison and what is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// How.
    pub comparison: Comparison,
    /// With what: one operand, two for `between`, any number for `in`.
    pub operands: Vec<Operand>,
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `between a and b`; both ends are left out, as AWS documents it.
    Between,
    /// `not between a and b`
    NotBetween,
    /// `in [...]`
    In,
    /// `not in [...]`
    NotIn,
    /// `matches "expression"`
    Matches,
    /// `not matches "expression"`
    NotMatches,
}

/// What a value is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A number as it was written.
    Number(String),
    /// A text, a date or a time of day.
    Text(String),
    /// `NULL`, `EMPTY` or `WHITESPACES_ONLY`.
    Keyword(String),
    /// `now()`, or a time before or after it: the sign is of the amount.
    Now(Option<(i64, String)>),
    /// An amount of time or of bytes: `3 days`, `5 MB`.
    Quantity(String, String),
    /// An expression over the history of the metric, as it was written.
    History(String),
}
