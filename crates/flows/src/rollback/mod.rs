//! Takes datasets back to older versions, with all that follows from them.
//!
//! Restoring a table brings its rows back and not the positions of its flows, so the next run would skip
//! what was taken away. A rollback therefore opens a new epoch for every flow that wrote the table, which
//! goes on from the batch that was the last one then; input that was taken since is taken again. What was
//! made from the rows that go (quarantine, datasets downstream) goes with them.
//!
//! A rollback is planned from what the lake holds, shown, written down, and then done: a crash leaves the
//! record, and whoever owns the lake next finishes it first.

mod apply;
mod plan;
mod settle;

use catchment_core::TableName;
use serde::{Deserialize, Serialize};

use crate::records::BatchPlan;

pub use apply::{apply_rollback, finish_rollback};
pub use plan::{RollbackRequest, plan_rollback};

/// A rollback, planned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollback {
    /// What happens to each dataset, those first that others read.
    pub steps: Vec<RollbackStep>,
}

/// What a rollback does to one dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollbackStep {
    /// The dataset.
    pub dataset: TableName,
    /// The dataset whose rollback is the reason for this one, `None` when it was asked for.
    pub because_of: Option<TableName>,
    /// What happens to its tables: its quarantine, then its own.
    pub tables: Vec<TableStep>,
    /// The plans that open new epochs for its flows.
    pub openings: Vec<BatchPlan>,
    /// Files that are going to be read again.
    pub files: usize,
    /// Those of them that changed since they were read: what they hold now is going to be read.
    pub changed: Vec<String>,
}

/// What a rollback does to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStep {
    /// The table.
    pub table: TableName,
    /// The version it has now.
    pub from: u64,
    /// The version that is brought back; `None` when the table is emptied and built anew by the next run.
    pub to: Option<u64>,
    /// Rows now and then, where statistics tell.
    pub rows: (Option<u64>, Option<u64>),
    /// Bytes of data files now and then.
    pub bytes: (u64, u64),
}
