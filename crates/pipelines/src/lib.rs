//! Projects: configuration, statements, the graph of datasets, checking and running them, reading them.
//!
//! **Never**: touches data before the whole project is checked, or runs a dataset whose input failed.

mod access;
mod advise;
mod alerts;
mod backfill;
mod backup;
mod check;
mod cleaning;
mod columns;
mod config;
mod dashboards;
mod declare_alert;
mod declare_expectation;
mod declare_serving;
mod declare_stream;
mod diff;
mod event_time;
mod expectations;
mod graph;
mod keep;
mod lag;
mod optimize;
mod place;
mod project;
mod readers;
mod releases;
mod remembered;
mod resolve;
mod rollback;
mod rulesets;
mod run;
mod scan_size;
mod serving;
mod serving_table;
mod sources;
mod statement;
mod streams;
#[cfg(test)]
mod tests;
mod time_range;
mod upkeep;
mod views;
mod windows_table;

pub use access::{Access, HistoryRow, Planned};
pub use advise::Advice;
pub use alerts::{AlertReport, alert_text};
pub use backfill::{Backfill, BackfillOptions, BackfillReport, BackfillStep, Partitions};
pub use backup::restore_catalog;
pub use catchment_ingest::streams::{OpenLog, RecordSchema};
pub use catchment_lake::Release;
pub use check::{Checked, Dataset, check};
pub use config::{CONFIG_FILE, Config, LoadedConfig};
pub use dashboards::{ChartKind, Dashboard, Panel};
pub use diff::{Diff, DiffOptions, Difference};
pub use graph::{Graph, order};
pub use keep::{KeepOptions, Listener};
pub use lag::Lag;
pub use optimize::OptimizeOptions;
pub use place::Machine;
pub use project::{Declared, Project};
pub use readers::Readers;
pub use rollback::{RollbackOptions, RollbackReport};
pub use run::{RunOptions, RunReport, Workspace, select};
pub use scan_size::{ScanSize, scan_sizes};
pub use statement::{
    Body, DatasetKind, DatasetStatement, FlowStatement, Statement, ViewStatement, parse_statements,
};
pub use streams::{Streams, open_log};
pub use time_range::{Step, TimeRange};
pub use upkeep::{RETENTION, UpkeepReport};
