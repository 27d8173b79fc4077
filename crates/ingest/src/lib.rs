//! Sources: what can be read from a position, and the decoders that turn it into rows.
//!
//! **Never**: remembers how far a flow got (the flow's plans do), writes a table, or drops a record
//! without telling.

mod address;
pub mod files;
mod records;
mod rejects;
mod replay;
mod source;
pub mod streams;
mod table;
mod types;

pub use address::{ADDRESS_COLUMN, Address, address_field, first_piece};
pub use records::{SourceRecord, json_lines};
pub use rejects::{Reject, RejectSink, Rejects, reject_batch, reject_schema};
pub use replay::{RecordFormat, ReplaySource};
pub use source::{
    AddedFile, BrokenFile, Limits, Range, Replaced, Source, Standing, StreamPosition, StreamSlice,
    StreamStanding, TableStanding,
};
pub use table::TableSource;
pub use types::{arrow_type, parse_schema, sql_name};
