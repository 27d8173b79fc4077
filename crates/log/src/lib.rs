//! The stream log: durable streams of records in shards, as Kinesis has them.
//!
//! A [`Log`] is a folder of streams that one process owns. Records go to the shard that the MD5 of their partition key
//! falls into and get a sequence number there; writers that come together share one fsync, and none is answered
//! before it. What is read is always durable. A reshard closes shards and opens their children; retention drops whole
//! segments. After a crash the torn end of the newest segment is dropped and nothing else: what was acknowledged and
//! cannot be read is an error.
//!
//! On disk a stream is `stream.json`, which tells its shards and settings, and segments `<number>.segment`, which
//! hold blocks of records of all its shards in the order they came (see `block.rs`).
//!
//! **Never**: reads or writes tables, listens, links DataFusion, acknowledges what is not synced.

mod block;
mod disk;
mod group;
mod hash;
mod index;
mod log;
mod retention;
mod segment;
mod sequence;
mod shards;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

pub use hash::{HashRange, hash_of};
pub use log::{Log, LogOptions};
pub use sequence::Sequence;
pub use shards::{Reshard, Shard, ShardId};
pub use state::{Consumer, Mode, StreamName, StreamState};
pub use stream::{Appended, Entry, Read, Record, Stream};
