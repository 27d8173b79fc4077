//! Files as a source: `read_files(...)`.

pub(crate) mod avro;
mod cells;
mod clean;
mod csv;
mod discover;
mod infer;
mod json;
mod options;
pub(crate) mod parquet;
pub(crate) mod path_columns;
mod queue;
mod quick;
mod reader;
mod scan;
mod seen;
mod source;
mod stores;
#[cfg(test)]
mod tests;
mod units;

pub use discover::FileInfo;
pub use options::{CleanAction, Cleaning, FileFormat, ReadFiles, SchemaEvolution};
pub use seen::{SeenFile, SeenFiles, SeenRun};
pub use source::FileSource;
pub use stores::FileStores;

pub(crate) use cells::{Cell, Column, Fitted, fit};
pub(crate) use csv::{CsvReader, CsvRecords, header_of as csv_header_of, record_of, record_text};
pub(crate) use json::{JsonReader, Line, json_records};
pub(crate) use parquet::fit_rows;
pub(crate) use reader::{Failure, is_compressed, open, readable};
pub(crate) use scan::{METADATA_COLUMN, metadata_fields};
pub(crate) use units::{Body, Cut, Unit, UnitQueue, lines};
