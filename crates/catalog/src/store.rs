//! What a catalog database can do.

use std::path::Path;

use catchment_core::{FlowName, Position, Result, TableName};

use crate::alerts::{Alert, Evaluation, Notification};
use crate::keys::AccessKey;
use crate::model::{BatchRecord, DatasetOutcome, LineageEdge, QueryRecord, RunRecord};

/// A catalog database. All calls are short; a write returns when it is durable.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Writes a run, or replaces what was known of it.
    ///
    /// # Errors
    /// Returns [`catchment_core::Code::CATALOG`] when the database fails; so do all others here.
    fn put_run(&self, run: &RunRecord) -> Result<()>;

    /// Writes what a run did for its datasets.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn put_outcomes(&self, outcomes: &[DatasetOutcome]) -> Result<()>;

    /// Writes a published batch; one that is known already is left as it is.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn put_batch(&self, batch: &BatchRecord) -> Result<()>;

    /// Notes which of a dataset's batches a rollback undid, by the versions that hold them.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn mark_undone(&self, dataset: &TableName, is_undone: &dyn Fn(u64) -> bool) -> Result<()>;

    /// Writes all that the database holds to a new file, as of one moment.
    ///
    /// # Errors
    /// As [`Store::put_run`]; also when the file is there already.
    fn backup(&self, to: &Path) -> Result<()>;

    /// The last batch recorded for a flow.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn last_position(&self, flow: &FlowName) -> Result<Option<Position>>;

    /// Runs, newest first, at most `limit`.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn runs(&self, limit: usize) -> Result<Vec<RunRecord>>;

    /// What runs did for datasets, newest run first.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn outcomes(&self) -> Result<Vec<DatasetOutcome>>;

    /// Published batches, newest first, at most `limit`.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn batches(&self, limit: usize) -> Result<Vec<BatchRecord>>;

    /// Writes an access key.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn put_key(&self, key: &AccessKey) -> Result<()>;

    /// Removes an access key; whether there was one.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn remove_key(&self, id: &str) -> Result<bool>;

    /// All access keys, oldest first.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn keys(&self) -> Result<Vec<AccessKey>>;

    /// Writes a query that was asked. Only the last ten thousand are kept.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn put_query(&self, query: &QueryRecord) -> Result<()>;

    /// Queries that were asked, newest first, at most `limit`.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn queries(&self, limit: usize) -> Result<Vec<QueryRecord>>;

    /// Enters what an alert's query has now, with what is to be told of it; gives how many alerts were raised.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn evaluate_alert(&self, found: &Evaluation<'_>, new_id: &dyn Fn() -> String) -> Result<usize>;

    /// Ends the alerts that are not among `names`, and gives up what waits for targets that are not among `targets`.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn forget_alerts(&self, names: &[String], targets: &[String], at: i64) -> Result<()>;

    /// Alerts that were raised, newest first.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn alerts(&self) -> Result<Vec<Alert>>;

    /// Alerts whose rows are there, newest first, at most `limit`.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn open_alerts(&self, limit: usize) -> Result<Vec<Alert>>;

    /// Notifications of alerts, newest first.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn notifications(&self) -> Result<Vec<Notification>>;

    /// Notifications for a target that are to be sent by now: new ones of each alert in turn, then the longest waiting.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn due_notifications(&self, target: &str, at: i64, limit: usize) -> Result<Vec<Notification>>;

    /// Notes how a notification stands now.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn settle_notification(&self, notification: &Notification) -> Result<()>;

    /// Lets notifications that were given up be sent again; gives how many.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn revive_notifications(&self, at: i64) -> Result<usize>;

    /// Where columns come from, by dataset and version.
    ///
    /// # Errors
    /// As [`Store::put_run`].
    fn lineage(&self) -> Result<Vec<LineageEdge>> {
        Ok(self.batches(usize::MAX)?.iter().flat_map(edges).collect())
    }
}

/// The lineage of one batch: an edge per column, and one per input that gives no column.
fn edges(batch: &BatchRecord) -> Vec<LineageEdge> {
    let edge = |input: &str, column: Option<&str>, input_column: Option<&str>| LineageEdge {
        dataset: batch.dataset.clone(),
        version: batch.version,
        flow: batch.flow.clone(),
        column: column.map(str::to_owned),
        input: input.to_owned(),
        input_version: batch.inputs.iter().find(|known| known.name == input).and_then(|known| known.version),
        input_column: input_column.map(str::to_owned),
    };
    let unused =
        batch.inputs.iter().filter(|input| batch.columns.iter().all(|source| source.input != input.name));
    batch
        .columns
        .iter()
        .map(|source| edge(&source.input, Some(&source.column), Some(&source.input_column)))
        .chain(unused.map(|input| edge(&input.name, None, None)))
        .collect()
}
