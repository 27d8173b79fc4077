//! Files as a source: `read_files(...)`.

mod cells;
mod csv;
mod discover;
mod infer;
mod json;
mod options;
mod parquet;
mod reader;
mod scan;
mod seen;
mod source;
#[cfg(test)]
mod tests;

pub use discover::FileInfo;
pub use options::{FileFormat, ReadFiles};
pub use seen::{SeenFile, SeenFiles, SeenRun};
pub use source::FileSource;
