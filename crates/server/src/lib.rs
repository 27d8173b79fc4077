//! What listens: the Amazon Kinesis Data Streams API over the stream log, rows of serving tables by key, and a page for people.
//!
//! One address takes everything, by HTTP/1.1 and by HTTP/2 with prior knowledge. Requests are bounded in size, and those
//! that change or read streams are signed, unless the service was told to be open. A socket beside the streams takes the
//! commands of this machine's own processes.
//!
//! **Never**: writes tables, decides what a record means, answers before what it answers for is durable.

mod control;
mod credentials;
mod ingest;
mod kinesis;
mod page;
mod serve;
mod sigv4;
mod tables;

pub use control::{
    AnswerQuery, RecordPlace, RecordRead, RecordsRead, ShardChange, ShardDescription, StreamCommand,
    StreamDescription, Streams, require_small, take_commands,
};
pub use credentials::Credentials;
pub use ingest::RecordCheck;
pub use kinesis::{Incoming, Kinesis, KinesisOptions};
pub use page::{ALERTS_SHOWN, AlertRow, Cell, Chart, DatasetRow, MakePage, Page, Panel, PanelContent};
pub use serve::{Metrics, Services, serve};
pub use sigv4::{SignatureFault, SignedRequest, Signer};
pub use tables::{ReadTable, TableRequest};
