//! Delta tables: the only code that writes a Delta log.
//!
//! A [`Lake`] is a folder of tables. Reading needs nothing else; writing needs the lake's lease,
//! which [`Lake::own`] takes, and goes through one [`TableWriter`] per table.
//!
//! **Never**: makes a DataFusion session (it is given one), knows flows beyond their names and
//! positions, or reports a commit that is not durable.

mod cached;
mod compact;
mod failure;
mod files;
mod header;
mod lake;
mod layout;
mod lease;
mod line;
mod local;
mod log;
mod maintain;
mod merge;
mod release;
mod restore;
mod schema;
mod stats;
mod store;
mod table;
mod vacuum;
mod writer;

#[cfg(test)]
mod tests;

pub use compact::{Compacted, FileCondition, rows_of};
pub use deltalake::kernel::Add;
pub use failure::storage_error;
pub use files::{FileOptions, FileWriter, WrittenFiles};
pub use lake::{Lake, Owner};
pub use layout::{Layout, OWN_FOLDER};
pub use lease::{Lease, RENEW_MILLIS};
pub use line::Line;
pub use local::LocalFile;
pub use log::{BATCH_KEY, Entry, OWNER_APPLICATION};
pub use maintain::{Maintenance, MaintenanceOptions};
pub use merge::{Merge, merge_planner};
pub use release::Release;
pub use schema::{parse_schema_text, schema_text, storable_schema, to_stored, widens};
pub use stats::Indexed;
pub use stats::{ColumnRange, may_hold};
pub use store::{DurableStore, open_bucket};
pub use table::{Snapshot, Table};
pub use vacuum::{Pins, Vacuumed};
pub use writer::{CLUSTER_BY, Outcome, Publication, TableSpec, TableWriter};
