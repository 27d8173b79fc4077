//! The types of rules, and what each of them takes.

/// What may be compared with a rule's metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compares {
    /// The rule is a statement and takes no condition.
    Nothing,
    /// Numbers and expressions over the history.
    Numbers,
    /// Names of types.
    Texts,
    /// Numbers, texts, dates or keywords.
    Values,
    /// Amounts of time.
    Durations,
    /// Dates and times of day.
    Times,
    /// Amounts of bytes.
    Sizes,
    /// Checksums, or nothing when two paths are given.
    Checksums,
    /// A number; or nothing, or a share of rows.
    Query,
}

/// A type of rule.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// The least and greatest number of parameters.
    pub(crate) parameters: (usize, usize),
    pub(crate) compares: Compares,
    /// Whether `where` may follow.
    pub(crate) filters: bool,
    /// Whether `with threshold` may follow.
    pub(crate) thresholds: bool,
    /// Whether it can stand among the rules, and among the analyzers.
    pub(crate) is: (bool, bool),
}

const fn kind(
    name: &'static str,
    parameters: (usize, usize),
    compares: Compares,
    filters: bool,
    thresholds: bool,
    is: (bool, bool),
) -> Kind {
    Kind { name, parameters, compares, filters, thresholds, is }
}

const MANY: usize = 64;
const BOTH: (bool, bool) = (true, true);
const RULE: (bool, bool) = (true, false);

/// All types of rules and analyzers.
pub const KINDS: &[Kind] = {
    use Compares as C;
    &[
        kind("AggregateMatch", (2, 2), C::Numbers, false, false, BOTH),
        kind("AllStatistics", (1, 1), C::Nothing, false, false, (false, true)),
        kind("ColumnCorrelation", (2, 2), C::Numbers, true, false, BOTH),
        kind("ColumnCount", (0, 0), C::Numbers, false, false, BOTH),
        kind("ColumnDataType", (1, 1), C::Texts, true, true, RULE),
        kind("ColumnExists", (1, 1), C::Nothing, false, false, RULE),
        kind("ColumnLength", (1, 1), C::Numbers, true, true, BOTH),
        kind("ColumnNamesMatchPattern", (1, 1), C::Nothing, false, false, RULE),
        kind("ColumnValues", (1, 1), C::Values, true, true, BOTH),
        kind("Completeness", (1, 1), C::Numbers, true, false, BOTH),
        kind("CustomSql", (1, 1), C::Query, false, true, BOTH),
        kind("DataFreshness", (1, 1), C::Durations, true, false, RULE),
        kind("DatasetMatch", (2, 3), C::Numbers, false, false, BOTH),
        kind("DetectAnomalies", (1, MANY), C::Nothing, false, false, RULE),
        kind("DistinctValuesCount", (1, 1), C::Numbers, true, false, BOTH),
        kind("Entropy", (1, 1), C::Numbers, true, false, BOTH),
        kind("FileFreshness", (0, 1), C::Times, false, true, RULE),
        kind("FileMatch", (0, 2), C::Checksums, false, false, RULE),
        kind("FileSize", (0, 1), C::Sizes, false, true, RULE),
        kind("FileUniqueness", (0, 1), C::Numbers, false, false, RULE),
        kind("InterquartileRange", (1, 1), C::Numbers, true, false, BOTH),
        kind("IsComplete", (1, 1), C::Nothing, true, false, RULE),
        kind("IsPrimaryKey", (1, MANY), C::Nothing, true, false, RULE),
        kind("IsUnique", (1, MANY), C::Nothing, true, false, RULE),
        kind("Mean", (1, 1), C::Numbers, true, false, BOTH),
        kind("Range", (1, 1), C::Numbers, true, false, BOTH),
        kind("ReferentialIntegrity", (2, 2), C::Numbers, false, false, BOTH),
        kind("RowCount", (0, 0), C::Numbers, true, false, BOTH),
        kind("RowCountMatch", (1, 1), C::Numbers, false, false, BOTH),
        kind("SchemaMatch", (1, 1), C::Numbers, false, false, BOTH),
        kind("Skewness", (1, 1), C::Numbers, true, false, BOTH),
        kind("StandardDeviation", (1, 1), C::Numbers, true, false, BOTH),
        kind("Sum", (1, 1), C::Numbers, true, false, BOTH),
        kind("Uniqueness", (1, MANY), C::Numbers, true, false, BOTH),
        kind("UniqueValueRatio", (1, MANY), C::Numbers, true, false, BOTH),
        kind("Variance", (1, 1), C::Numbers, true, false, BOTH),
    ]
};

impl Kind {
    /// The type of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}
