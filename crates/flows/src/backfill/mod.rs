//! Computes partitions of a table anew, from everything that its flows have taken so far.
//!
//! All flows of the table take part, each with a batch of its own, and one commit puts their rows in the
//! place of those partitions. Files of other partitions stay as they are. What that means for a row:
//!
//! * A record in quarantine stays there, since a replay publishes it; its rows are left out.
//! * A key that must be unique belongs to the partition that has it, unless that is computed anew.
//! * A file that changed since it was read is read as it is now, and what its old content left in quarantine
//!   goes. It counts as read when whoever asks says so and none of its rows is outside of what is asked for.

mod condition;
mod held;
mod plan;
mod publish;
mod replacing;

use catchment_core::{Code, Error, FlowName, Result};
use catchment_ingest::files::FileInfo;

use crate::records::{Records, StagedBatch};
use crate::replay::replay_flow;
use crate::report::FlowReport;
use crate::runtime::{Progress, Runtime};
use crate::spec::{FlowKind, FlowSpec};

pub use condition::PartitionCondition;
pub use publish::cancel_replacement;
pub(crate) use replacing::Replacing;

/// The condition that all partitions meet.
pub const ALL_PARTITIONS: &str = "TRUE";

/// Which partitions are to be computed anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplaceRequest {
    /// Those of one commit, as a condition on partition columns.
    pub condition: String,
    /// All that are asked for, of which the commit is a part.
    pub within: String,
    /// The name of the backfill.
    pub backfill: String,
    /// Which files that changed count as read, as they are now, when none of their rows is outside of all
    /// partitions asked for.
    pub settles: Settles,
}

/// Files that changed since they were read and are to count as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settles {
    /// None: rows of what they held may stand in other partitions, or other commits are to come.
    Nothing,
    /// All.
    All,
    /// These, as they were seen by the commits before.
    Seen(Vec<FileInfo>),
}

impl Runtime {
    /// Computes partitions anew and puts them in the place of those that are there. The flows, which are
    /// all flows of one table, must have caught up.
    ///
    /// # Errors
    /// Returns [`Code::HISTORY_GONE`] when a source does not hold any more what a flow has taken, and errors of
    /// reading, computing and writing. Nothing is published then.
    pub async fn replace_partitions(
        &self,
        specs: &[FlowSpec],
        request: &ReplaceRequest,
        progress: &dyn Progress,
    ) -> Result<FlowReport> {
        let mut report = FlowReport::default();
        let Some(lead) = specs.first() else { return Ok(report) };
        if let Some(other) = specs.iter().find(|spec| spec.kind == FlowKind::Replace) {
            return Err(Error::new(
                Code::FLOW_TARGET,
                format!(
                    "\"{}\" is computed as a whole each time; it has no partitions to fill",
                    other.target
                ),
            ));
        }
        self.require_known_writers(specs).await?;
        let plans = self.plan_replacement(specs, request).await?;
        let staged = self.stage_replacement(specs, &plans, &request.settles).await?;
        report.again = staged.iter().flat_map(|(_, again)| again.iter().cloned()).collect();
        let staged: Vec<StagedBatch> = staged.into_iter().map(|(staged, _)| staged).collect();
        self.publish_replacement(specs, &plans, &staged, progress, &mut report).await?;
        let table = self.owner.lake().table(&lead.target);
        report.version = table.latest().await?.map(|snapshot| snapshot.version());
        Ok(report)
    }

    /// Refuses a table that flows have written which are not there any more: nothing would make their rows again.
    async fn require_known_writers(&self, specs: &[FlowSpec]) -> Result<()> {
        let Some(target) = specs.first().map(|spec| &spec.target) else { return Ok(()) };
        let known =
            |flow: &FlowName| specs.iter().any(|spec| spec.name == *flow || replay_flow(&spec.name) == *flow);
        let batches = self.store.batches(usize::MAX)?;
        let of_table = || batches.iter().filter(|batch| batch.dataset == *target && !batch.undone);
        let mut emptied = None;
        for batch in of_table().filter(|batch| batch.position.number == 0 && batch.rows_out == 0) {
            let plan = Records::new(self.owner.lake(), &batch.flow).kept_plan(batch.position).await?;
            if plan.is_some_and(|plan| plan.is_reset()) {
                emptied = emptied.max(Some(batch.version));
            }
        }
        let lost = of_table()
            .find(|batch| batch.rows_out > 0 && Some(batch.version) > emptied && !known(&batch.flow));
        match lost {
            None => Ok(()),
            Some(batch) => Err(Error::new(
                Code::HISTORY_GONE,
                format!(
                    "partitions of \"{target}\" cannot be computed anew: flow \"{}\" has written rows and is not part of the project any more",
                    batch.flow
                ),
            )
            .hint("bring the flow back, or build the dataset anew with `catchment run --full-refresh`")),
        }
    }
}
