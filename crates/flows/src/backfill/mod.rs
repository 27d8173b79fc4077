//! Computes partitions of a table anew, from everything that its flows have taken so far.
//!
//! All flows of the table take part, each with a batch of its own, and one commit puts their rows in the
//! place of those partitions. Files of other partitions stay as they are. What that means for a row:
//!
//! * A record in quarantine stays there, since a replay publishes it; its rows are left out.
//! * A key that must be unique belongs to the partition that has it, unless that is computed anew.
//! * A file that changed since it was read is read as it is now. When all of its rows are in the
//!   partitions asked for it counts as read, and what its old content left in quarantine goes.

mod condition;
mod held;
mod plan;
mod publish;
mod replacing;

use catchment_core::{Code, Error, Result};

use crate::runtime::{FlowReport, Progress, Runtime};
use crate::spec::{FlowKind, FlowSpec};

pub use condition::PartitionCondition;
pub(crate) use replacing::Replacing;

/// Which partitions are to be computed anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplaceRequest {
    /// Those of one commit, as a condition on partition columns.
    pub condition: String,
    /// All that are asked for, of which the commit is a part.
    pub within: String,
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
        let plans = self.plan_replacement(specs, request).await?;
        let staged = self.stage_replacement(specs, &plans).await?;
        self.publish_replacement(specs, &plans, &staged, progress, &mut report).await?;
        let table = self.owner.lake().table(&lead.target);
        report.version = table.latest().await?.map(|snapshot| snapshot.version());
        Ok(report)
    }
}
