//! The contract of a source.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use catchment_core::Result;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::files::{FileInfo, SeenFiles};
use crate::records::SourceRecord;
use crate::rejects::Rejects;
use crate::replay::RecordFormat;

/// Something that a flow reads a piece at a time, each piece once.
///
/// A flow does this, over and over:
///
/// ```text
/// range = source.plan(standing, limits)     what comes next, bounded by files and bytes
/// plan file = { range, ... }, made durable  from here on the batch is exactly this range
/// rows = source.read(range)                 may be called again after a crash
/// ... the query runs, its result is staged and published with the batch's position ...
/// standing += range                         only what was published counts as taken
/// ```
///
/// What an implementation must keep:
///
/// * **Nothing twice.** A range that is part of the standing is not planned again, whatever happened to
///   clocks, names or the order of listings.
/// * **Nothing missed.** What appears later is found, even with an old timestamp.
/// * **Repeatable.** `read` of the same range gives the same rows for as long as the source has them.
///   When it no longer has them it says so; it never gives fewer rows in silence.
/// * **Bounded.** A range keeps to the limits, except that it always takes at least one piece, or a flow
///   could stand still. `read` holds a bounded number of rows in memory.
/// * **Loud.** A record that cannot be decoded goes to [`Rejects`] with its place and reason; a piece that is
///   broken as a whole is reported there too, and then none of its rows may be published.
///
/// A source holds no position of its own and starts no task that outlives the streams it handed out; stopping
/// is dropping them. To test an implementation, plan and read with every limit from one piece up, with pieces
/// appearing and vanishing in between, and compare the union of all ranges with reading everything at once.
#[async_trait]
pub trait Source: Send + Sync + std::fmt::Debug {
    /// What people know it by: a table's name or a path.
    fn name(&self) -> String;

    /// The columns of its rows.
    fn schema(&self) -> SchemaRef;

    /// The next range after what has been taken, `None` when there is nothing new. A range without rows
    /// tells only that the standing may be moved on, so that it need not be looked for again.
    ///
    /// # Errors
    /// Returns errors of listing, and [`catchment_core::Code::NOT_APPEND_ONLY`] when taken rows changed.
    async fn plan(&self, standing: &Standing, limits: Limits) -> Result<Option<Range>>;

    /// The rows of a range, as a table that can be scanned once per batch. With `first_piece` each row
    /// carries its [`crate::Address`], the range's pieces being numbered from there; the rows of each
    /// stream of a scan then come in the order of their addresses.
    ///
    /// # Errors
    /// Returns [`catchment_core::Code::INTERNAL`] for a range of another kind of source.
    fn read(
        &self,
        range: &Range,
        rejects: Arc<Rejects>,
        first_piece: Option<u32>,
    ) -> Result<Arc<dyn TableProvider>>;

    /// Records of a range as they stand in the source, by their addresses in ascending order; pieces are
    /// numbered from `first_piece`. Addresses of other ranges are passed over. Called where a thread may wait.
    ///
    /// # Errors
    /// Returns [`catchment_core::Code::FILE_VANISHED`] when the source no longer has them.
    fn records(&self, range: &Range, first_piece: u32, wanted: &[Address]) -> Result<Vec<SourceRecord>>;

    /// How a record of [`Source::records`] becomes a row again.
    fn record_format(&self) -> RecordFormat;

    /// Where a stream ends now, for a source that goes on while it is read.
    ///
    /// # Errors
    /// As [`Source::plan`].
    async fn horizon(&self) -> Result<Option<StreamStanding>> {
        Ok(None)
    }

    /// Where a flow that has taken nothing begins, for people: what it would be built from anew.
    ///
    /// # Errors
    /// As [`Source::plan`].
    async fn begins(&self) -> Result<String> {
        Ok(match (self.leaves_existing(), self.cleans()) {
            (true, _) => format!("what comes to {} from now on", self.name()),
            (false, true) => {
                format!("what {} still holds, whose files are taken away when they were read", self.name())
            }
            (false, false) => format!("all that {} holds", self.name()),
        })
    }

    /// Whether it is a stream, which does not end and keeps its records for a while only.
    fn is_stream(&self) -> bool {
        false
    }

    /// Pieces that were taken and have changed since, though they are not read again: as [`Source::plan`] found them when
    /// it was last asked.
    ///
    /// # Errors
    /// Returns errors of looking at them.
    fn changed(&self, standing: &Standing) -> Result<Vec<String>> {
        let _ = standing;
        Ok(Vec::new())
    }

    /// Whether new pieces may come at any moment without a sign: it is asked as often as commits are wanted.
    fn is_live(&self) -> bool {
        false
    }

    /// Whether pieces that are there when a flow first reads are never read.
    fn leaves_existing(&self) -> bool {
        false
    }

    /// Whether pieces are taken away when they were read: what they held cannot be read again.
    fn cleans(&self) -> bool {
        false
    }

    /// Takes away the pieces that published batches read long enough ago, at a time in microseconds since the Unix
    /// epoch, as [`Source::plan`] found them when it was last asked, and ends with what it has found; gives how many.
    ///
    /// # Errors
    /// Returns errors of removing; what else is due is taken away all the same.
    fn clean(&self, standing: &Standing, now: i64) -> Result<usize> {
        let _ = (standing, now);
        Ok(0)
    }

    /// Whether the pieces of a range are as they were when it was planned, as far as they are still there.
    ///
    /// # Errors
    /// Returns errors of listing.
    async fn is_current(&self, range: &Range) -> Result<bool> {
        let _ = range;
        Ok(true)
    }

    /// Everything the source has now, for reading it as a batch; `None` when it has nothing.
    ///
    /// # Errors
    /// As [`Source::plan`].
    async fn everything(&self) -> Result<Option<Range>> {
        self.plan(&Standing::default(), Limits::NONE).await
    }
}

/// How much one range may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files.
    pub files: usize,
    /// Bytes of input.
    pub bytes: u64,
}

impl Limits {
    /// No limit.
    pub const NONE: Limits = Limits { files: usize::MAX, bytes: u64::MAX };

    /// How many of the pieces, given by their sizes, fit: at least one.
    pub(crate) fn take(self, sizes: impl Iterator<Item = u64>) -> usize {
        let mut bytes = 0_u64;
        let mut taken = 0;
        for size in sizes.take(self.files.max(1)) {
            bytes = bytes.saturating_add(size);
            if taken > 0 && bytes > self.bytes {
                break;
            }
            taken += 1;
        }
        taken
    }
}

/// What a flow has taken from one source.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Files taken, for file sources.
    pub files: Arc<SeenFiles>,
    /// The last file taken from a table.
    pub table: Option<TableStanding>,
    /// The next ordinal of each partition of a stream that was begun.
    pub stream: Option<StreamStanding>,
    /// How far a stream may be read: what came later is for the next run. `None` for all of it.
    pub horizon: Option<Arc<StreamStanding>>,
    /// What happens at a version of a table that computed partitions of it anew.
    pub replaced: Replaced,
}

/// Where a flow stands in a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStanding {
    /// Which stream of its name this is: one that was deleted and made anew is another.
    pub identity: String,
    /// Where to go on in each partition.
    pub next: BTreeMap<String, StreamPosition>,
}

/// A place in a partition of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamPosition {
    /// At the oldest record that is kept.
    Earliest,
    /// At the first record that arrived at this time or later, in milliseconds since the Unix epoch.
    Since(i64),
    /// Behind a record.
    Behind {
        /// The record's sequence number.
        sequence: String,
        /// Everything that had arrived by then has been read, in milliseconds since the Unix epoch.
        complete: i64,
    },
    /// Behind the last record of a partition that takes no more.
    End,
    /// At the record with this number.
    #[serde(untagged)]
    Ordinal(u64),
}

impl StreamPosition {
    /// The number of the record to go on with, for partitions that number their records; `None` behind their end.
    #[must_use]
    pub fn ordinal(&self) -> Option<u64> {
        match self {
            Self::Ordinal(ordinal) => Some(*ordinal),
            _ => None,
        }
    }
}

/// What a reader does at a version of a table that computed partitions anew: the rows that it has handed out are not
/// those of the table any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Replaced {
    /// It is an error, as is any version that takes rows away.
    #[default]
    Refused,
    /// Nothing is read from there on: whatever was made of the rows is going to be made anew.
    Ends,
    /// The versions of this backfill are passed over, for a batch that makes anew what was made of them.
    Passed(String),
}

/// What a version is to a reader.
pub(crate) enum Meeting {
    Passed,
    End,
    Other,
}

impl Replaced {
    pub(crate) fn of(&self, batch: &serde_json::Value) -> Meeting {
        if !batch["replaces"].is_string() {
            return Meeting::Other;
        }
        match self {
            Replaced::Refused => Meeting::Other,
            Replaced::Ends => Meeting::End,
            Replaced::Passed(id) if batch["backfill"] == serde_json::json!(id) => Meeting::Passed,
            Replaced::Passed(_) => Meeting::Other,
        }
    }
}

/// A piece of a source: what one batch reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Range {
    /// Files, in the order in which they are read.
    Files {
        /// The files.
        files: Vec<FileInfo>,
    },
    /// Records out of quarantine.
    Quarantine {
        /// The version of the quarantine table that holds them.
        version: u64,
        /// How many there are.
        records: usize,
    },
    /// Records of a stream.
    Stream {
        /// Where the flow stands in each partition when the range is taken.
        upto: StreamStanding,
        /// The pieces, parents before their children.
        slices: Vec<StreamSlice>,
    },
    /// Data files that versions of a table added.
    Table {
        /// The last file of the range.
        upto: TableStanding,
        /// The files.
        files: Vec<AddedFile>,
    },
}

/// Records of one partition of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSlice {
    /// The partition, such as `shardId-000000000001`.
    pub partition: String,
    /// Where the slice begins.
    pub from: StreamPosition,
    /// Where it ends.
    pub until: StreamPosition,
    /// How many records it has, of a stream whose positions do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
}

/// A place in the files of a table: the first snapshot's, then those that each later version added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStanding {
    /// The version.
    pub version: u64,
    /// The index of the last file read, counting those of the version.
    pub last: usize,
    /// Whether the index counts all files of the version, or those that it added.
    pub snapshot: bool,
}

/// A data file of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedFile {
    /// The path below the table's root.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Values of the partition columns as the log writes them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partition: BTreeMap<String, Option<String>>,
}

impl Range {
    /// Adds this range to what was taken.
    pub fn advance(&self, standing: &mut Standing) {
        match self {
            Range::Files { files } => Arc::make_mut(&mut standing.files).extend(files),
            Range::Table { upto, .. } => standing.table = Some(*upto),
            Range::Stream { upto, .. } => standing.stream = Some(upto.clone()),
            Range::Quarantine { .. } => {}
        }
    }

    /// How many pieces the range has.
    #[must_use]
    pub fn pieces(&self) -> usize {
        match self {
            Range::Files { files } => files.len(),
            Range::Table { files, .. } => files.len(),
            Range::Stream { slices, .. } => slices.len(),
            Range::Quarantine { .. } => 1,
        }
    }

    /// Whether the range holds no rows and only moves the standing on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Range::Files { .. } | Range::Quarantine { .. } => false,
            Range::Table { files, .. } => files.is_empty(),
            // Also one that only moves on is kept: what is known of a stream's partitions is nowhere else.
            Range::Stream { .. } => false,
        }
    }

    /// The files of a file source.
    #[must_use]
    pub fn files(&self) -> &[FileInfo] {
        match self {
            Range::Files { files } => files,
            Range::Table { .. } | Range::Stream { .. } | Range::Quarantine { .. } => &[],
        }
    }
}

/// A file that cannot be read as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenFile {
    /// The file, as it was when it was tried.
    pub file: FileInfo,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it was gone when it was to be read. Such a file counts as not taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub vanished: bool,
}
