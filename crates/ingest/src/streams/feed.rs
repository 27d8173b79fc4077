//! The contract of what a stream is read from: the project's log, a Kinesis endpoint, a Kafka cluster.

use async_trait::async_trait;
use bytes::Bytes;
use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::Fields;

use crate::source::{Limits, StreamSlice, StreamStanding};

/// A record of a slice.
#[derive(Debug, Clone)]
pub(crate) struct FeedRecord {
    /// How far it is from the beginning of its slice, by which it is found again.
    pub(crate) place: u64,
    /// Its number in its partition, where partitions number their records.
    pub(crate) ordinal: Option<u64>,
    /// Its sequence number, where that does not follow from its number.
    pub(crate) sequence: Option<String>,
    /// The key that decided its partition.
    pub(crate) key: Option<String>,
    /// When it arrived, in milliseconds since the Unix epoch.
    pub(crate) arrived: i64,
    /// What it holds; `None` of one that only tells that its key holds nothing any more.
    pub(crate) data: Option<Bytes>,
}

/// Something whose partitions hold records in order.
#[async_trait]
pub(crate) trait Feed: Send + Sync + std::fmt::Debug {
    /// What comes next after a standing, up to a horizon: the new standing, and the slices that lie between, parents
    /// before their children; `None` when nothing has moved.
    async fn plan(
        &self,
        standing: Option<&StreamStanding>,
        horizon: Option<&StreamStanding>,
        limits: Limits,
    ) -> Result<Option<(StreamStanding, Vec<StreamSlice>)>>;

    /// Opens a slice of the stream of that identity, at a place in it.
    async fn open(&self, identity: &str, slice: &StreamSlice, place: u64) -> Result<Box<dyn SliceReader>>;

    /// Whether slices can be read as they were planned.
    async fn holds(&self, standing: &StreamStanding, slices: &[StreamSlice]) -> Result<bool>;

    /// Where the stream ends now.
    async fn horizon(&self) -> Result<StreamStanding>;

    /// A record's sequence number, as people know it.
    fn sequence(&self, slice: &StreamSlice, record: &FeedRecord) -> Result<String>;

    /// The fields of `_metadata`.
    fn metadata_fields(&self) -> Fields;

    /// The columns of `_metadata`.
    fn metadata(&self, slice: &StreamSlice, records: &[&FeedRecord]) -> Result<Vec<ArrayRef>>;
}

/// Reads a slice from beginning to end.
#[async_trait]
pub(crate) trait SliceReader: Send {
    /// The next records, `None` behind the last; never fewer in all than the slice has.
    async fn next(&mut self) -> Result<Option<Vec<FeedRecord>>>;
}

/// The error of a slice that cannot be read as it was planned.
pub(crate) fn gone(source: &str, slice: &StreamSlice) -> Error {
    let partition = &slice.partition;
    Error::new(
        Code::HISTORY_GONE,
        format!("records of {partition} of {source} are gone that a batch was going to read"),
    )
    .hint("keep records longer; the next run plans anew")
}

/// The error of records that were gone before they were planned.
pub(crate) fn lost<T>(what: String) -> Result<T> {
    Err(Error::new(Code::HISTORY_GONE, what)
        .hint("keep records longer, or go on with what is there: failOnDataLoss => false"))
}
