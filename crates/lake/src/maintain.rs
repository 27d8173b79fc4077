//! Keeps a table quick to open and to read: checkpoints, log clean-up, compaction.
//!
//! This runs beside commits and never inside one. It takes at most a twentieth of the time: after a
//! pass that took long, the next one waits longer, except that checkpoints are written when they get far behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use catchment_core::{FaultPoint, Result};
use deltalake::checkpoints;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::failure::log_error;
use crate::release::releases;
use crate::writer::TableWriter;

/// When a table is maintained.
#[derive(Debug, Clone, Copy)]
pub struct MaintenanceOptions {
    /// Versions after which a checkpoint is written.
    pub checkpoint_after: u64,
    /// Small files in one partition from which they are joined.
    pub minimum_files: usize,
    /// The size of a file that is large enough, in bytes.
    pub target_bytes: usize,
}

impl Default for MaintenanceOptions {
    fn default() -> Self {
        Self { checkpoint_after: 100, minimum_files: 16, target_bytes: 128 << 20 }
    }
}

/// The share of time maintenance leaves to others: it waits this many times as long as it worked.
const REST: u32 = 19;

/// A checkpoint that is so many times overdue does not wait for the rest to end.
const BEHIND: u64 = 10;

/// Looks after one table in the background while others commit to it.
#[derive(Debug)]
pub(crate) struct Maintainer {
    newest: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Maintainer {
    /// Starts to look after a table. Needs a Tokio runtime.
    ///
    /// What fails is logged and tried again later: the data is published, only upkeep is late.
    #[must_use]
    pub(crate) fn start(writer: Arc<TableWriter>, options: MaintenanceOptions) -> Self {
        let (newest, mut told) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut maintenance = Maintenance::new(writer, options);
            // Commits that come during a pass are told together; the last ones before the end are seen too.
            while told.changed().await.is_ok() {
                let version = *told.borrow_and_update();
                if let Err(error) = maintenance.tick(version).await {
                    let table = maintenance.writer.table().name();
                    tracing::warn!(%table, error = %error.one_line(), "maintenance failed");
                }
            }
        });
        Self { newest, task }
    }

    /// Tells that a version was committed.
    pub(crate) fn committed(&self, version: u64) {
        self.newest.send_replace(version);
    }

    /// Waits for what is due by now, and ends; what is not done by then is left undone, as if the process had ended.
    pub(crate) async fn stop(mut self, until: tokio::time::Instant) {
        drop(self.newest);
        match tokio::time::timeout_at(until, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the maintainer of a table ended early"),
            Err(_) => self.task.abort(),
        }
    }
}

/// The maintenance of one table, a pass at a time; [`Maintainer`] calls it.
#[derive(Debug)]
pub struct Maintenance {
    writer: Arc<TableWriter>,
    options: MaintenanceOptions,
    done_at: Option<u64>,
    rest_until: Option<Instant>,
}

impl Maintenance {
    /// Makes the maintenance of a table.
    #[must_use]
    pub fn new(writer: Arc<TableWriter>, options: MaintenanceOptions) -> Self {
        Self { writer, options, done_at: None, rest_until: None }
    }

    /// Does what is due at version `newest`: joins small files, writes a checkpoint, removes expired log entries.
    ///
    /// Returns whether anything was done; it is cheap when nothing is due.
    ///
    /// # Errors
    /// Returns errors of reading and writing; the table is then as it was.
    pub async fn tick(&mut self, newest: u64) -> Result<bool> {
        let rests = self.rest_until.is_some_and(|until| Instant::now() < until);
        let done_at = match self.done_at {
            Some(version) => version,
            None => *self.done_at.insert(self.writer.table().last_checkpoint().await?),
        };
        let after = self.options.checkpoint_after;
        let due = if rests { after.saturating_mul(BEHIND) } else { after };
        if newest < done_at.saturating_add(due) {
            return Ok(false);
        }
        if rests {
            // Files can wait to be joined. Whoever opens the table reads every entry since the checkpoint.
            self.done_at = Some(self.writer.checkpoint().await?);
            return Ok(true);
        }
        let started = Instant::now();
        self.writer.compact(self.options.minimum_files, self.options.target_bytes).await?;
        let version = self.writer.checkpoint().await?;
        self.done_at = Some(version);
        let worked = started.elapsed();
        tracing::debug!(table = %self.writer.table().name(), version, ?worked, "maintained");
        self.rest_until =
            Instant::now().checked_add(worked.saturating_mul(REST).min(Duration::from_secs(600)));
        Ok(true)
    }
}

impl TableWriter {
    /// Writes a checkpoint of the newest version and removes log entries past their retention.
    ///
    /// # Errors
    /// Returns errors of reading and writing; the log is then as it was, or longer than needed.
    pub async fn checkpoint(&self) -> Result<u64> {
        let snapshot = self.table().existing().await?;
        let delta = snapshot.delta();
        let attempt = || format!("could not write a checkpoint of table \"{}\"", self.table().name());
        checkpoints::create_checkpoint(delta, None).await.map_err(|error| log_error(attempt(), error))?;
        self.faults.reach(FaultPoint::CheckpointWritten)?;
        // A version that has a name must stay readable, and its log with it.
        let releases = releases(&self.store, &self.releases).await?;
        if releases.iter().any(|release| release.version(self.table().name()).is_some()) {
            return Ok(snapshot.version());
        }
        checkpoints::cleanup_metadata(delta, None).await.map_err(|error| log_error(attempt(), error))?;
        Ok(snapshot.version())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use catchment_core::{NoFaults, SystemClock, TableName};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::{BEHIND, Maintenance, MaintenanceOptions};
    use crate::{Lake, Publication, TableSpec};

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_rests_does_not_let_checkpoints_fall_far_behind() {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open(folder.path(), Arc::new(SystemClock), Arc::new(NoFaults)).unwrap();
        let owner = lake.own().await.unwrap();
        let table = TableName::new("raw", "t");
        let writer = owner.writer(&table);
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let spec = TableSpec { schema, partition_columns: Vec::new(), comment: None, properties: Vec::new() };
        writer.ensure(&spec).await.unwrap();
        let options = MaintenanceOptions { checkpoint_after: 3, ..MaintenanceOptions::default() };
        let mut maintenance = Maintenance::new(Arc::clone(&writer), options);
        maintenance.rest_until = Instant::now().checked_add(Duration::from_secs(3_600));
        let mut written = Vec::new();
        for version in 1..=70 {
            writer.append(Publication::default()).await.unwrap();
            if maintenance.tick(version).await.unwrap() {
                written.push(version);
            }
        }
        assert_eq!(written, [3 * BEHIND, 6 * BEHIND]);
        assert_eq!(lake.table(&table).last_checkpoint().await.unwrap(), 6 * BEHIND);
    }
}
