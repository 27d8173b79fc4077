//! The one thread that changes a stream: it writes what has come together, syncs once, and answers all of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use catchment_core::{Code, Error, FaultPoint, Result};
use tokio::sync::oneshot::Sender;

use crate::group::Gathering;
use crate::retention::{Held, dropped};
use crate::segment::Segment;
use crate::state::StreamState;
use crate::stream::{Appended, Entry, Shared};

/// Changes a stream's state, given the time in milliseconds.
pub(crate) type Change = Box<dyn FnOnce(&mut StreamState, i64) -> Result<()> + Send>;

/// What a writer is asked to do.
pub(crate) enum Task {
    Append(Vec<Entry>, Sender<Result<Vec<Appended>>>),
    Change(Change, Sender<Result<()>>),
    Retain(Sender<Result<()>>),
}

/// What waits for the writer.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    tasks: VecDeque<Task>,
    bytes: usize,
    is_closed: bool,
}

impl Queue {
    /// Adds a task; records only while those that wait have at most `most` bytes.
    pub(crate) fn push(&self, task: Task, bytes: usize, most: usize) -> Result<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_closed {
            return Err(Error::new(Code::STREAM_UNKNOWN, "the stream is gone"));
        }
        if bytes > 0 && waiting.bytes > 0 && waiting.bytes + bytes > most {
            return Err(Error::new(
                Code::STREAM_BUSY,
                format!("{} bytes wait to be written to the stream", waiting.bytes),
            )
            .hint("send again after a moment"));
        }
        waiting.bytes += bytes;
        waiting.tasks.push_back(task);
        self.came.notify_one();
        Ok(())
    }

    /// Takes what waits, up to `most` bytes of records; nothing once the queue is closed and empty.
    fn take(&self, most: usize) -> Vec<Task> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.tasks.is_empty() && !waiting.is_closed {
            waiting = self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(task) = waiting.tasks.front() {
            let size =
                if let Task::Append(entries, _) = task { entries.iter().map(Entry::bytes).sum() } else { 0 };
            if !taken.is_empty() && bytes + size > most {
                break;
            }
            bytes += size;
            taken.extend(waiting.tasks.pop_front());
        }
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        taken
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_closed
    }

    /// Lets the writer end when nothing waits any more.
    pub(crate) fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.came.notify_all();
    }
}

/// Runs until the queue is closed.
pub(crate) fn run(shared: &Shared) {
    let mut writer = Writer { shared, last_arrival: shared.last_arrival, broken: None };
    loop {
        let tasks = shared.queue.take(shared.options.group_bytes);
        if tasks.is_empty() {
            return;
        }
        let mut appends = Vec::new();
        for task in tasks {
            match task {
                Task::Append(entries, reply) => appends.push((entries, reply)),
                Task::Change(change, reply) => {
                    writer.append(std::mem::take(&mut appends));
                    // Nobody may wait for the answer any more.
                    let _ = reply.send(writer.change(change));
                }
                Task::Retain(reply) => {
                    writer.append(std::mem::take(&mut appends));
                    let _ = reply.send(writer.retain());
                }
            }
        }
        writer.append(appends);
    }
}

type Append = (Vec<Entry>, Sender<Result<Vec<Appended>>>);

struct Writer<'a> {
    shared: &'a Shared,
    /// Times of arrival never go back, whatever the clock does.
    last_arrival: i64,
    /// Why nothing can be written any more.
    broken: Option<Error>,
}

impl Writer<'_> {
    fn append(&mut self, appends: Vec<Append>) {
        if appends.is_empty() {
            return;
        }
        let written = match &self.broken {
            Some(error) => Err(error.clone()),
            None => self.write(&appends),
        };
        match written {
            Ok(results) => {
                let synced = self.shared.faults.reach(FaultPoint::LogSynced);
                for ((_, reply), result) in appends.into_iter().zip(results) {
                    let _ = reply.send(synced.clone().and(result));
                }
            }
            Err(error) => appends.into_iter().for_each(|(_, reply)| {
                let _ = reply.send(Err(error.clone()));
            }),
        }
    }

    /// Writes and syncs a group; each writer's own answer is within.
    fn write(&mut self, appends: &[Append]) -> Result<Vec<Result<Vec<Appended>>>> {
        let segment = self.segment()?;
        let state = self.shared.state();
        self.last_arrival = self.last_arrival.max(self.shared.clock.now_millis());
        let mut heads = self.shared.heads();
        let mut gathering = Gathering::new(&state, &heads, self.last_arrival);
        let results = appends.iter().map(|(entries, _)| gathering.add(entries)).collect();
        let group = gathering.finish(segment.length(), segment.salt);
        if let Err(error) = segment.write(&group.bytes, self.shared.faults.as_ref()) {
            // What was written of it must not be found behind a later group. A disk whose sync failed may have lost
            // what it was to write, so the segment is not written to again.
            self.broken = segment.cut().err();
            if self.broken.is_none() {
                self.shared.is_sealed.store(true, Ordering::Release);
            }
            return Err(error);
        }
        segment.publish(&group.blocks, group.bytes.len() as u64)?;
        for (_, header) in &group.blocks {
            heads.insert(header.shard, header.first + u64::from(header.count));
        }
        self.shared.set_heads(heads);
        Ok(results)
    }

    /// The segment to write to: a new one when the newest is full.
    fn segment(&mut self) -> Result<Arc<Segment>> {
        let newest = self.shared.newest();
        let is_full = newest.length() >= self.shared.options.segment_bytes;
        if is_full || self.shared.is_sealed.load(Ordering::Acquire) {
            self.begin(newest.number + 1)
        } else {
            Ok(newest)
        }
    }

    fn begin(&mut self, number: u64) -> Result<Arc<Segment>> {
        self.last_arrival = self.last_arrival.max(self.shared.clock.now_millis());
        let starts = self.shared.heads().into_iter().collect();
        let faults = self.shared.faults.as_ref();
        let segment =
            Arc::new(Segment::begin(&self.shared.folder, number, starts, self.last_arrival, faults)?);
        self.shared.push_segment(Arc::clone(&segment));
        self.shared.is_sealed.store(false, Ordering::Release);
        Ok(segment)
    }

    fn change(&mut self, change: Change) -> Result<()> {
        let mut state = StreamState::clone(&self.shared.state());
        change(&mut state, self.shared.clock.now_millis())?;
        self.shared.save(&state)
    }

    /// Drops segments and shards that are older than what is kept, and begins a new segment when the newest gets
    /// old, so that it can be dropped in time as well.
    fn retain(&mut self) -> Result<()> {
        let state = self.shared.state();
        let now = self.shared.clock.now_millis();
        let kept = i64::from(state.retention_hours) * 3_600_000;
        let newest = self.shared.newest();
        let has_records = newest.holds_records()?;
        if has_records && newest.begun_at <= now - kept / 4 {
            self.begin(newest.number + 1)?;
        }
        let segments = self.shared.segments();
        let held: Vec<Held> = segments
            .iter()
            .map(|segment| Held { begun_at: segment.begun_at, bytes: segment.length() })
            .collect();
        let count = dropped(&held, now - kept, self.shared.options.retention_bytes);
        // The oldest first: a crash in between leaves no gap.
        for segment in segments.iter().take(count) {
            segment.remove()?;
            self.shared.drop_segment(segment.number);
        }
        let is_gone = |closed_at: Option<i64>| closed_at.is_some_and(|closed_at| closed_at <= now - kept);
        if state.shards.iter().any(|shard| is_gone(shard.closed_at)) {
            let mut state = StreamState::clone(&state);
            state.shards.retain(|shard| !is_gone(shard.closed_at));
            let mut heads: BTreeMap<_, _> = self.shared.heads();
            heads.retain(|id, _| state.shard(*id).is_ok());
            self.shared.save(&state)?;
            self.shared.set_heads(heads);
        }
        Ok(())
    }
}
