//! A stream as others see it: written to, read, changed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use catchment_core::{Clock, Code, Error, Faults, Result};
use tokio::sync::{oneshot, watch};

use crate::disk::write_file;
use crate::hash::hash_of;
use crate::log::LogOptions;
use crate::segment::Segment;
use crate::sequence::Sequence;
use crate::shards::{Reshard, ShardId, reshard, seconds, towards};
use crate::state::StreamState;
use crate::writer::{Change, Queue, Task, run};

/// Bytes of the longest partition key: 256 characters.
const KEY_BYTES: usize = 1_024;

/// A record to be written.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Decides the shard, unless a hash was given, and stays with the record.
    pub partition_key: String,
    /// What decides the shard.
    pub hash: u128,
    /// What it holds.
    pub data: Bytes,
}

impl Entry {
    /// Makes a record whose key decides its shard.
    #[must_use]
    pub fn new(partition_key: impl Into<String>, data: impl Into<Bytes>) -> Self {
        let partition_key = partition_key.into();
        Self { hash: hash_of(&partition_key), partition_key, data: data.into() }
    }

    /// Bytes that it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.partition_key.len() + self.data.len() + 64
    }
}

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The shard.
    pub shard: ShardId,
    /// Its place there.
    pub sequence: Sequence,
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How many records its shard had with it.
    pub ordinal: u64,
    /// When it arrived, in milliseconds since the Unix epoch; never earlier than the record before.
    pub arrived: i64,
    /// The key that decided its shard.
    pub partition_key: String,
    /// What it holds.
    pub data: Bytes,
}

/// What was read of a shard.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Records, in order.
    pub records: Vec<Record>,
    /// The ordinal to go on from.
    pub next: u64,
    /// The shard takes no more, and this was all of it.
    pub is_end: bool,
    /// Milliseconds between the next record's arrival and now; 0 when there is none.
    pub behind_millis: i64,
}

/// What a stream's readers and its writer share.
pub(crate) struct Shared {
    pub(crate) folder: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) faults: Arc<dyn Faults>,
    pub(crate) queue: Queue,
    /// The time at which the newest record arrived when the stream was opened.
    pub(crate) last_arrival: i64,
    /// The newest segment takes no more.
    pub(crate) is_sealed: AtomicBool,
    state: RwLock<Arc<StreamState>>,
    /// The next ordinal of each shard that has had records.
    heads: RwLock<BTreeMap<ShardId, u64>>,
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    /// Counts changes: of records and of shards.
    changed: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn state(&self) -> Arc<StreamState> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn heads(&self) -> BTreeMap<ShardId, u64> {
        self.heads.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn head(&self, shard: ShardId) -> u64 {
        self.heads.read().unwrap_or_else(PoisonError::into_inner).get(&shard).copied().unwrap_or(1)
    }

    pub(crate) fn set_heads(&self, heads: BTreeMap<ShardId, u64>) {
        *self.heads.write().unwrap_or_else(PoisonError::into_inner) = heads;
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        Arc::clone(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The segment that is written to. A stream has one at any time.
    pub(crate) fn newest(&self) -> Arc<Segment> {
        let segments = self.segments();
        Arc::clone(&segments[segments.len() - 1])
    }

    fn change_segments(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Vec::clone(&segments);
        change(&mut changed);
        *segments = Arc::new(changed);
    }

    pub(crate) fn push_segment(&self, segment: Arc<Segment>) {
        self.change_segments(|segments| segments.push(segment));
    }

    pub(crate) fn drop_segment(&self, number: u64) {
        self.change_segments(|segments| segments.retain(|segment| segment.number != number));
    }

    /// Makes a state durable, then known.
    pub(crate) fn save(&self, state: &StreamState) -> Result<()> {
        save(&self.folder, state, self.faults.as_ref())?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state.clone());
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }
}

/// Writes `stream.json`.
pub(crate) fn save(folder: &std::path::Path, state: &StreamState, faults: &dyn Faults) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(state)
        .map_err(|error| Error::new(Code::INTERNAL, "a stream cannot be described").because(error))?;
    write_file(&folder.join("stream.json"), &bytes, faults)
}

/// A stream of records.
pub struct Stream {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("name", &self.shared.state().name).finish_non_exhaustive()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}

impl Stream {
    pub(crate) fn open(
        folder: PathBuf,
        state: StreamState,
        segments: Vec<Arc<Segment>>,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        faults: Arc<dyn Faults>,
    ) -> Result<Self> {
        let Some(newest) = segments.last() else {
            return Err(Error::new(Code::INTERNAL, "a stream has no segment"));
        };
        let heads: BTreeMap<ShardId, u64> = newest.ends()?.into_iter().collect();
        let arrivals = heads.iter().map(|(shard, next)| newest.arrival(*shard, next.saturating_sub(1)));
        let last_arrival =
            arrivals.collect::<Result<Vec<_>>>()?.into_iter().flatten().fold(newest.begun_at, i64::max);
        let shared = Arc::new(Shared {
            folder,
            options,
            clock,
            faults,
            queue: Queue::default(),
            last_arrival,
            is_sealed: AtomicBool::new(false),
            state: RwLock::new(Arc::new(state)),
            heads: RwLock::new(heads),
            segments: RwLock::new(Arc::new(segments)),
            changed: watch::Sender::new(0),
        });
        let of_writer = Arc::clone(&shared);
        let writer =
            std::thread::Builder::new().name("stream-writer".into()).spawn(move || run(&of_writer)).map_err(
                |error| Error::new(Code::INPUT_OUTPUT, "could not start a stream's writer").because(error),
            )?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)) })
    }

    /// Takes no more, and waits until what was taken is written.
    pub(crate) fn close(&self) {
        self.shared.queue.close();
        // Those who wait for records learn that there will be none.
        self.shared.changed.send_modify(|count| *count += 1);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A writer that panicked has nothing to say any more.
            let _ = writer.join();
        }
    }

    /// Whether it takes no more: it was deleted, or the log is being closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.queue.is_closed()
    }

    /// Its shards and settings.
    #[must_use]
    pub fn state(&self) -> Arc<StreamState> {
        self.shared.state()
    }

    /// Writes records. When this returns they are on disk, all of them; their order in each shard is that of `entries`.
    ///
    /// # Errors
    /// Returns [`Code::RECORD_LARGE`] for a record, or for more records together, than the stream takes, [`Code::STREAM_BUSY`] when
    /// too much waits to be written, and errors of the disk. After the first two and [`Code::DISK_FULL`] none of the records is there; after others some may be.
    pub async fn append(&self, entries: Vec<Entry>) -> Result<Vec<Appended>> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let most = self.state().record_bytes;
        let is_large = |entry: &&Entry| {
            entry.partition_key.len() > KEY_BYTES || entry.partition_key.len() + entry.data.len() > most
        };
        if let Some(large) = entries.iter().find(is_large) {
            let (key, data) = (large.partition_key.len(), large.data.len());
            return Err(Error::new(
                Code::RECORD_LARGE,
                format!("a record has a key of {key} bytes and data of {data}"),
            )
            .hint(format!("a key has at most {KEY_BYTES} bytes, and both together {most}")));
        }
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        if bytes > self.shared.options.waiting_bytes {
            return Err(Error::new(
                Code::RECORD_LARGE,
                format!("{} records are too many to be written together", entries.len()),
            )
            .hint("write them in parts"));
        }
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(Task::Append(entries, reply), bytes, self.shared.options.waiting_bytes)?;
        answer.await.map_err(|_| gone())?
    }

    /// Changes settings; durable when this returns.
    ///
    /// # Errors
    /// Returns the error of `change`, which then has changed nothing, and errors of the disk.
    pub async fn change(
        &self,
        change: impl FnOnce(&mut StreamState, i64) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let change: Change = Box::new(change);
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(Task::Change(change, reply), 0, usize::MAX)?;
        answer.await.map_err(|_| gone())?
    }

    /// Splits or merges shards: records that are written after this go to the children.
    ///
    /// # Errors
    /// Returns [`Code::SHARD_UNKNOWN`] for a shard that is not there, [`Code::RESHARD_INVALID`] for one that is closed, for a hash
    /// that does not lie well inside of the shard and for shards that do not meet, and errors of the disk.
    pub async fn reshard(&self, change: Reshard) -> Result<()> {
        self.change(move |state, now| apply(state, change, now)).await
    }

    /// Splits and merges shards, in one step, until `count` of them are open.
    ///
    /// # Errors
    /// Returns errors of the disk.
    pub async fn scale(&self, count: usize) -> Result<()> {
        self.change(move |state, now| {
            loop {
                let steps = towards(&state.shards, count.max(1));
                if steps.is_empty() {
                    return Ok(());
                }
                for change in steps {
                    apply(state, change, now)?;
                }
            }
        })
        .await
    }

    /// Drops what is older than the stream keeps.
    ///
    /// # Errors
    /// Returns errors of the disk.
    pub async fn retain(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(Task::Retain(reply), 0, usize::MAX)?;
        answer.await.map_err(|_| gone())?
    }

    /// Reads a shard from an ordinal on; from the oldest record when that one is gone. At most `records`, and about
    /// `bytes`, but at least one record if there is one. Reads from disk: call it where that may block.
    ///
    /// # Errors
    /// Returns [`Code::SHARD_UNKNOWN`], [`Code::STREAM_CORRUPT`] and errors of the disk.
    pub fn read(&self, shard: ShardId, from: u64, records: usize, bytes: usize) -> Result<Read> {
        // Its end is looked at first: what comes later is not part of this.
        let is_closed = !self.state().shard(shard)?.is_open();
        let head = self.shared.head(shard);
        let from = from.max(self.oldest(shard)?);
        let mut read = Read { next: from, ..Read::default() };
        let mut size = 0;
        while read.next < head && read.records.len() < records && size < bytes {
            let Some(segment) = self.segment_of(shard, read.next) else { break };
            let more = segment.read(shard, read.next, records - read.records.len(), bytes - size)?;
            let Some(last) = more.last() else { break };
            read.next = last.ordinal + 1;
            size += more.iter().map(|record| record.data.len() + record.partition_key.len()).sum::<usize>();
            read.records.extend(more);
        }
        read.is_end = is_closed && read.next >= head;
        if let Some(segment) = self.segment_of(shard, read.next).filter(|_| read.next < head)
            && let Some(arrived) = segment.arrival(shard, read.next)?
        {
            read.behind_millis = (self.shared.clock.now_millis() - arrived).max(0);
        }
        Ok(read)
    }

    /// Up to which ordinal a shard can be read from another one within so many bytes: at least to the end of one block if there is
    /// one.
    ///
    /// # Errors
    /// Returns errors of reading.
    pub fn reach(&self, shard: ShardId, from: u64, bytes: u64) -> Result<u64> {
        let head = self.shared.head(shard);
        let (mut reached, mut left) = (from, bytes);
        while reached < head && (left > 0 || reached == from) {
            let Some(segment) = self.segment_of(shard, reached) else { break };
            let (next, rest) = segment.reach(shard, reached, left)?;
            if next == reached {
                break;
            }
            (reached, left) = (next, rest);
        }
        Ok(reached.min(head))
    }

    /// The ordinal that the next record of a shard gets.
    #[must_use]
    pub fn head(&self, shard: ShardId) -> u64 {
        self.shared.head(shard)
    }

    /// The ordinal of the oldest record of a shard that is kept, or that of the next one.
    ///
    /// # Errors
    /// Returns errors of reading.
    pub fn oldest(&self, shard: ShardId) -> Result<u64> {
        let state = self.state();
        let kept_since = self.shared.clock.now_millis() - i64::from(state.retention_hours) * 3_600_000;
        self.since(shard, kept_since)
    }

    /// The ordinal of the first record of a shard that arrived at a time, in milliseconds since the Unix epoch, or later; that of
    /// the next record when there is none.
    ///
    /// # Errors
    /// Returns errors of reading.
    pub fn since(&self, shard: ShardId, millis: i64) -> Result<u64> {
        let segments = self.shared.segments();
        // All that a segment holds came before its successor was begun.
        let first = segments.windows(2).take_while(|pair| pair[1].begun_at < millis).count();
        for segment in segments.iter().skip(first) {
            if let Some((ordinal, _)) = segment.since(shard, millis)? {
                return Ok(ordinal);
            }
        }
        Ok(self.shared.head(shard))
    }

    /// The number of a record, for those who know it by its ordinal.
    ///
    /// # Errors
    /// Returns [`Code::SHARD_UNKNOWN`].
    pub fn sequence(&self, shard: ShardId, ordinal: u64, arrived_millis: i64) -> Result<Sequence> {
        let created = self.state().shard(shard)?.created;
        Ok(Sequence { shard_created: created, shard, ordinal, arrived: seconds(arrived_millis) })
    }

    /// Is told whenever there are records or shards more.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Bytes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.segments().iter().map(|segment| segment.length()).sum()
    }

    /// The segment that holds an ordinal of a shard: the last one that was begun at or before it. A segment that knows nothing
    /// of a shard is older than the shard.
    fn segment_of(&self, shard: ShardId, ordinal: u64) -> Option<Arc<Segment>> {
        let segments = self.shared.segments();
        let later = segments.partition_point(|segment| segment.start(shard).unwrap_or(1) <= ordinal);
        segments.get(later.checked_sub(1)?).cloned()
    }
}

fn apply(state: &mut StreamState, change: Reshard, now_millis: i64) -> Result<()> {
    let before = state.shards.len();
    state.shards = reshard(&state.shards, change, state.next_shard, now_millis)?;
    state.next_shard += u32::try_from(state.shards.len() - before).unwrap_or(0);
    Ok(())
}

fn gone() -> Error {
    Error::new(Code::STREAM_UNKNOWN, "the stream is gone")
}
