//! The runtime of flows: plan, compute and stage, publish, recover.
//!
//! **Never**: recomputes a batch that is staged, publishes one twice, or lets bookkeeping lead the data.

mod ancestry;
mod backfill;
mod bookmarks;
mod carry;
mod clean;
mod finder;
mod incremental;
mod judge;
mod ordered;
mod passed;
mod pins;
mod quarantine;
mod records;
mod reenter;
mod replay;
mod report;
mod resume;
mod rollback;
mod rules;
mod runtime;
mod serving;
mod spec;
mod spool;
mod stage;
mod steps;
mod unique;
mod windows;
mod within;

pub use backfill::{ALL_PARTITIONS, PartitionCondition, ReplaceRequest, Settles, cancel_replacement};
pub use bookmarks::{Bookmark, bookmarks, stream_standings, window_state};
pub use finder::KeyCache;
pub use incremental::require_incremental;
pub use pins::pins;
pub use quarantine::quarantine_spec;
pub use records::{BatchPlan, Replacement, StagedBatch, StagedOutput};
pub use reenter::reenter;
pub use replay::replay_flow;
pub use report::{FlowReport, Phase, Phases};
pub use resume::{Resume, resume};
pub use rollback::{
    Rollback, RollbackRequest, RollbackStep, TableStep, apply_rollback, finish_rollback, plan_rollback,
};
pub use runtime::{CatchUp, Progress, Runtime, RuntimeOptions};
pub use serving::{
    KeyRange, RowKey, Serving, ServingFolder, ServingSize, ServingStanding, ServingStore, ServingTable,
};
pub use spec::{FlowKind, FlowSpec, Input, InputKind};
pub use windows::{Allows, EventTime, InputState, PartitionTime, Run, WindowState, held_rows};
