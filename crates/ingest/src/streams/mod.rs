//! Streams as a source: `read_stream(...)`, `read_kinesis(...)` and `read_kafka(...)`.

mod avro;
mod decode;
mod feed;
mod kafka;
mod kinesis;
mod log;
mod metadata;
mod options;
mod protobuf;
mod scan;
mod schema;
mod source;
#[cfg(test)]
mod tests;

pub use log::OpenLog;
pub(crate) use metadata::of_places;
pub use options::{InitialPosition, Origin, ReadStream};
pub use schema::RecordSchema;
pub use source::{Connections, StreamSource};
