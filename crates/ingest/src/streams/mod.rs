//! Streams as a source: `read_stream(...)`.

mod options;
mod scan;
mod source;
#[cfg(test)]
mod tests;

pub use options::{InitialPosition, ReadStream};
pub(crate) use scan::{metadata_fields, metadata_of};
pub use source::{OpenLog, StreamSource};
