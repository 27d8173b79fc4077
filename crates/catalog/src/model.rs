//! The rows of the catalog.

use std::fmt;
use std::str::FromStr;

use catchment_core::{FlowName, Position, TableName};
use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(into = "&'static str")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// The word for it, the same in SQL, JSON and on the screen.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl From<$name> for &'static str {
            fn from(value: $name) -> Self { value.as_str() }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.as_str()) }
        }

        impl FromStr for $name {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($text => Ok($name::$variant),)* _ => Err(()) }
            }
        }
    };
}

pub(crate) use words;

words! {
    /// How a run stands.
    RunStatus {
        /// It has not ended, or its process died.
        Running = "running",
        /// Everything is up to date.
        Succeeded = "succeeded",
        /// Everything ran, but a file or rows sit in quarantine with an error.
        Quarantined = "quarantined",
        /// At least one dataset failed.
        Failed = "failed",
    }
}

words! {
    /// What a run did for a dataset.
    DatasetStatus {
        /// New rows or a new result were published.
        Updated = "updated",
        /// There was nothing to do.
        UpToDate = "up to date",
        /// It failed; its table is as it was after the last published batch.
        Failed = "failed",
        /// It was not tried, because something it reads failed.
        Skipped = "skipped",
    }
}

/// One `catchment run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunRecord {
    /// A time-ordered id.
    pub id: String,
    /// How it stands.
    pub status: RunStatus,
    /// Microseconds since the Unix epoch.
    pub started_at: i64,
    /// Microseconds since the Unix epoch; `None` while it runs or when its process died.
    pub finished_at: Option<i64>,
    /// What went wrong, in one line.
    pub error: Option<String>,
}

/// What a run did for one dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetOutcome {
    /// The run.
    pub run: String,
    /// The dataset.
    #[serde(serialize_with = "as_text")]
    pub dataset: TableName,
    /// What it did.
    pub status: DatasetStatus,
    /// Rows read from sources.
    pub rows_in: u64,
    /// Rows published.
    pub rows_out: u64,
    /// Rows and files put into quarantine.
    pub quarantined: u64,
    /// Rows left out by expectations that drop them.
    pub dropped: u64,
    /// The version the table has afterwards, `None` while there is no table.
    pub version: Option<u64>,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// What went wrong or why it was skipped, in one line.
    pub error: Option<String>,
}

/// One published batch of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRecord {
    /// The flow.
    pub flow: FlowName,
    /// The dataset it writes.
    pub dataset: TableName,
    /// The batch.
    pub position: Position,
    /// The version of the dataset's table that holds it.
    pub version: u64,
    /// The run that published it, `None` when it was reconciled after a crash.
    pub run: Option<String>,
    /// Rows read from sources.
    pub rows_in: u64,
    /// Rows published.
    pub rows_out: u64,
    /// Rows and files put into quarantine.
    pub quarantined: u64,
    /// Rows left out by expectations that drop them.
    #[serde(default)]
    pub dropped: u64,
    /// Bytes written to disk for want of memory.
    #[serde(default)]
    pub spilled_bytes: u64,
    /// Files taken from file sources.
    pub files: u64,
    /// When the batch was planned, in microseconds since the Unix epoch.
    pub planned_at: i64,
    /// When it was committed, in microseconds since the Unix epoch.
    pub committed_at: i64,
    /// The versions of the tables it read.
    pub inputs: Vec<InputVersion>,
    /// Where the dataset's columns come from.
    pub columns: Vec<ColumnSource>,
    /// How many rows met each expectation.
    #[serde(default)]
    pub expectations: Vec<ExpectationCount>,
    /// What became of the rules of the dataset's ruleset.
    #[serde(default)]
    pub rules: Vec<RuleRecord>,
    /// Whether a rollback undid the batch.
    #[serde(default)]
    pub undone: bool,
}

/// What became of a rule of a ruleset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleRecord {
    /// The rule, as written.
    pub rule: String,
    /// Whether it held.
    pub passed: bool,
    /// The value that was judged, where there is one.
    pub value: Option<f64>,
    /// What a broken rule does.
    pub action: String,
}

impl Eq for RuleRecord {}

/// How many rows of a batch met an expectation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectationCount {
    /// The expectation's name.
    pub name: String,
    /// What it asks for, as written.
    pub rule: String,
    /// What becomes of rows that do not meet it.
    pub action: String,
    /// Rows that met it.
    pub passed: u64,
    /// Rows that did not.
    pub failed: u64,
}

/// A table that a batch read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputVersion {
    /// The table, or the location of a file source.
    pub name: String,
    /// The version read up to; `None` for files.
    pub version: Option<u64>,
}

/// One column and one column that it is computed from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ColumnSource {
    /// The dataset's column.
    pub column: String,
    /// The table or file source read.
    pub input: String,
    /// The column read.
    pub input_column: String,
}

/// A row of `system.lineage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineageEdge {
    /// The dataset.
    pub dataset: TableName,
    /// The version of its table.
    pub version: u64,
    /// The flow that made it.
    pub flow: FlowName,
    /// The dataset's column, `None` for an input of which no column is used.
    pub column: Option<String>,
    /// The table or file source read.
    pub input: String,
    /// The version read up to; `None` for files.
    pub input_version: Option<u64>,
    /// The column read.
    pub input_column: Option<String>,
}

fn as_text<S: serde::Serializer>(name: &TableName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

/// A query that was asked, for advice about the layout of what it read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryRecord {
    /// When it was asked, in microseconds since the Unix epoch.
    pub asked_at: i64,
    /// Its text.
    pub query: String,
    /// How long it took.
    pub milliseconds: u64,
    /// Rows that it gave.
    pub rows: u64,
    /// The tables that it read.
    pub scans: Vec<ScanRecord>,
}

/// What a query read of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanRecord {
    /// The table.
    pub table: TableName,
    /// The columns that it was filtered by.
    pub filters: Vec<String>,
    /// Files read, and all there were.
    pub files: (u64, u64),
    /// Bytes of the files read, and of all.
    pub bytes: (u64, u64),
}
