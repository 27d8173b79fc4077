//! The catalog database: what ran, what each batch did, where columns come from.
//!
//! Rows here follow data and never lead it: a batch is recorded after its commit, and what a crash
//! kept from being recorded is reconciled from commit metadata at the next start.
//!
//! **Never**: decides what a flow does next (the Delta log and the flow's plans do), holds rows of
//! users' tables, links DataFusion.

mod alerts;
mod keys;
mod model;
mod sqlite;
mod store;
#[cfg(test)]
mod tests;

pub use alerts::{Alert, Evaluation, Notification, NotificationStatus};
pub use keys::{AccessKey, MasterKey};
pub use model::{
    BatchRecord, ColumnSource, DatasetOutcome, DatasetStatus, ExpectationCount, InputVersion, LineageEdge,
    QueryRecord, RuleRecord, RunRecord, RunStatus, ScanRecord,
};
pub use sqlite::SqliteStore;
pub use store::Store;
