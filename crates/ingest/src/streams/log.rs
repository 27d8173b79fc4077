//! A stream of the project's own log: each shard is read from where the flow stands, parents before their children.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use catchment_core::{Code, Error, Result};
use catchment_log::{Log, Shard, ShardId, Stream, StreamName, StreamState};
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::Fields;

use crate::source::{Limits, StreamPosition, StreamSlice, StreamStanding};
use crate::streams::feed::{Feed, FeedRecord, SliceReader, gone, lost};
use crate::streams::metadata;
use crate::streams::options::InitialPosition;

/// Records read at once, and their bytes.
const BATCH_ROWS: usize = 8_192;
const BATCH_BYTES: usize = 8 << 20;

/// Opens the log when something is to be read of it: a project is checked without it.
pub trait OpenLog: Send + Sync + std::fmt::Debug {
    /// The log.
    ///
    /// # Errors
    /// Returns [`Code::STREAM_OWNED`] when another process has it, and errors of the disk.
    fn log(&self) -> Result<Arc<Log>>;
}

/// A stream of the log.
#[derive(Debug, Clone)]
pub(crate) struct LogFeed {
    pub(crate) stream: StreamName,
    pub(crate) initial: InitialPosition,
    pub(crate) fails_on_loss: bool,
    pub(crate) log: Arc<dyn OpenLog>,
}

/// The shard that a partition of a range is.
fn shard_of(partition: &str) -> Result<ShardId> {
    ShardId::parse(partition)
        .ok_or_else(|| Error::new(Code::PLAN_CORRUPT, format!("{partition:?} is no shard of a stream")))
}

fn ordinal(position: &StreamPosition) -> Result<u64> {
    position.ordinal().ok_or_else(|| Error::new(Code::PLAN_CORRUPT, "a slice of a stream has no numbers"))
}

/// Where to go on in a shard; `None` behind its end.
fn next_of(standing: &StreamStanding, shard: ShardId) -> Option<u64> {
    match standing.next.get(&shard.to_string()) {
        Some(StreamPosition::End) => None,
        Some(position) => position.ordinal(),
        None => Some(1),
    }
}

fn identity(state: &StreamState) -> String {
    state.created_at.to_string()
}

/// Makes sure that what the flow has not read is still there. `standing` is that of a flow that has begun.
fn require_no_loss(stream: &Stream, state: &StreamState, standing: &StreamStanding) -> Result<()> {
    let name = &state.name;
    if standing.identity != identity(state) {
        return lost(format!("stream \"{name}\" is another one than was read: it was deleted and made anew"));
    }
    let is_there = |partition: &str| ShardId::parse(partition).is_some_and(|id| state.shard(id).is_ok());
    let parents = state.shards.iter().flat_map(|shard| &shard.parents).map(ToString::to_string);
    let unread = |partition: &String| {
        standing.next.get(partition) != Some(&StreamPosition::End) && !is_there(partition)
    };
    if let Some(partition) = standing.next.keys().cloned().chain(parents).find(unread) {
        return lost(format!("shard {partition} of stream \"{name}\" is gone before all of it was read"));
    }
    for shard in &state.shards {
        let Some(next) = next_of(standing, shard.id) else { continue };
        let (oldest, head) = (stream.oldest(shard.id)?, stream.head(shard.id));
        if next < oldest {
            return lost(format!(
                "records {next} to {} of shard {} of stream \"{name}\" are gone before they were read",
                oldest - 1,
                shard.id
            ));
        }
        if next > head {
            return lost(format!(
                "shard {} of stream \"{name}\" ends at {head}, and {next} was to be read next",
                shard.id
            ));
        }
    }
    Ok(())
}

/// Where each shard stands when a flow begins.
fn beginning(stream: &Stream, state: &StreamState, initial: InitialPosition) -> Result<StreamStanding> {
    let at = |id: ShardId| match initial {
        InitialPosition::Earliest => stream.oldest(id),
        InitialPosition::Latest => Ok(stream.head(id)),
        InitialPosition::Since(millis) => stream.since(id, millis),
    };
    // Of shards that are gone nothing was missed.
    let gone =
        state.shards.iter().flat_map(|shard| &shard.parents).filter(|parent| state.shard(**parent).is_err());
    let mut next: BTreeMap<String, StreamPosition> =
        gone.map(|parent| (parent.to_string(), StreamPosition::End)).collect();
    for shard in &state.shards {
        next.insert(shard.id.to_string(), StreamPosition::Ordinal(at(shard.id)?));
    }
    Ok(StreamStanding { identity: identity(state), next })
}

impl LogFeed {
    fn stream(&self) -> Result<Arc<Stream>> {
        self.log
            .log()?
            .stream(&self.stream)
            .map_err(|error| error.hint(format!("make it: catchment stream create {}", self.stream)))
    }

    /// Where a flow stands, as far as that is of the stream that there is.
    fn standing(
        &self,
        stream: &Stream,
        state: &StreamState,
        standing: Option<&StreamStanding>,
    ) -> Result<StreamStanding> {
        match standing {
            Some(standing) if self.fails_on_loss => {
                require_no_loss(stream, state, standing)?;
                Ok(standing.clone())
            }
            Some(standing) if standing.identity == identity(state) => Ok(standing.clone()),
            Some(_) => beginning(stream, state, InitialPosition::Earliest),
            None => beginning(stream, state, self.initial),
        }
    }

    fn plan_now(
        &self,
        (standing, horizon): (Option<&StreamStanding>, Option<&StreamStanding>),
        limits: Limits,
    ) -> Result<Option<(StreamStanding, Vec<StreamSlice>)>> {
        let stream = self.stream()?;
        let state = stream.state();
        let mut upto = self.standing(&stream, &state, standing)?;
        let waits =
            |shard: &&Shard| next_of(&upto, shard.id).is_some_and(|next| next < stream.head(shard.id));
        let share = limits.bytes / (state.shards.iter().filter(waits).count().max(1) as u64);
        let mut slices = Vec::new();
        // Children have higher numbers than their parents.
        for shard in &state.shards {
            let partition = shard.id.to_string();
            let is_open =
                |parent: &ShardId| state.shard(*parent).is_ok() && next_of(&upto, *parent).is_some();
            let Some(next) = next_of(&upto, shard.id) else { continue };
            if shard.parents.iter().any(is_open) {
                continue;
            }
            let head = stream.head(shard.id);
            let from = next.max(stream.oldest(shard.id)?).min(head);
            let end = horizon.map_or(u64::MAX, |horizon| next_of(horizon, shard.id).unwrap_or(u64::MAX));
            let until = stream.reach(shard.id, from, share.max(1))?.min(end);
            if until > from {
                slices.push(StreamSlice {
                    partition: partition.clone(),
                    from: StreamPosition::Ordinal(from),
                    until: StreamPosition::Ordinal(until),
                    records: None,
                });
            }
            let next = until.max(from);
            let is_finished = !shard.is_open() && next >= stream.head(shard.id);
            let position = if is_finished { StreamPosition::End } else { StreamPosition::Ordinal(next) };
            upto.next.insert(partition, position);
        }
        // Of shards that are gone only the parents of others need to be remembered.
        upto.next.retain(|partition, _| {
            let is = |id: &ShardId| id.to_string() == *partition;
            state.shards.iter().any(|shard| is(&shard.id) || shard.parents.iter().any(is))
        });
        let is_news = standing.is_none_or(|standing| *standing != upto);
        Ok(is_news.then_some((upto, slices)))
    }
}

#[async_trait]
impl Feed for LogFeed {
    async fn plan(
        &self,
        standing: Option<&StreamStanding>,
        horizon: Option<&StreamStanding>,
        limits: Limits,
    ) -> Result<Option<(StreamStanding, Vec<StreamSlice>)>> {
        let (feed, standing, horizon) = (self.clone(), standing.cloned(), horizon.cloned());
        tokio::task::spawn_blocking(move || feed.plan_now((standing.as_ref(), horizon.as_ref()), limits))
            .await
            .map_err(|error| Error::new(Code::INTERNAL, "planning ended early").because(error))?
    }

    async fn open(
        &self,
        identity_planned: &str,
        slice: &StreamSlice,
        place: u64,
    ) -> Result<Box<dyn SliceReader>> {
        let stream = self.stream()?;
        let name = format!("stream \"{}\"", self.stream);
        if identity(&stream.state()) != identity_planned {
            return Err(gone(&name, slice));
        }
        let from = ordinal(&slice.from)?;
        Ok(Box::new(LogReader {
            shard: shard_of(&slice.partition)?,
            from,
            next: from + place,
            until: ordinal(&slice.until)?,
            slice: slice.clone(),
            stream,
            name,
        }))
    }

    async fn holds(&self, standing: &StreamStanding, slices: &[StreamSlice]) -> Result<bool> {
        let stream = self.stream()?;
        let state = stream.state();
        if identity(&state) != standing.identity {
            return Ok(false);
        }
        for slice in slices {
            let id = shard_of(&slice.partition)?;
            if state.shard(id).is_err() || stream.oldest(id)? > ordinal(&slice.from)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn horizon(&self) -> Result<StreamStanding> {
        let stream = self.stream()?;
        let state = stream.state();
        let head = |shard: &Shard| (shard.id.to_string(), StreamPosition::Ordinal(stream.head(shard.id)));
        Ok(StreamStanding { identity: identity(&state), next: state.shards.iter().map(head).collect() })
    }

    fn sequence(&self, slice: &StreamSlice, record: &FeedRecord) -> Result<String> {
        let ordinal = record.ordinal.unwrap_or_default();
        Ok(self.stream()?.sequence(shard_of(&slice.partition)?, ordinal, record.arrived)?.to_string())
    }

    fn metadata_fields(&self) -> Fields {
        metadata::of_shards()
    }

    fn metadata(&self, slice: &StreamSlice, records: &[&FeedRecord]) -> Result<Vec<ArrayRef>> {
        let (stream, shard) = (self.stream()?, shard_of(&slice.partition)?);
        let sequences = records
            .iter()
            .map(|record| {
                let ordinal = record.ordinal.unwrap_or_default();
                Ok(stream.sequence(shard, ordinal, record.arrived)?.to_string())
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(metadata::shard_columns(self.stream.as_str(), &slice.partition, sequences, records))
    }
}

/// Reads a slice of a shard.
struct LogReader {
    stream: Arc<Stream>,
    name: String,
    slice: StreamSlice,
    shard: ShardId,
    from: u64,
    next: u64,
    until: u64,
}

#[async_trait]
impl SliceReader for LogReader {
    async fn next(&mut self) -> Result<Option<Vec<FeedRecord>>> {
        if self.next >= self.until {
            return Ok(None);
        }
        let most = usize::try_from(self.until - self.next).unwrap_or(usize::MAX).min(BATCH_ROWS);
        let read = self.stream.read(self.shard, self.next, most, BATCH_BYTES)?;
        if read.records.first().is_none_or(|first| first.ordinal != self.next) {
            return Err(gone(&self.name, &self.slice));
        }
        self.next = read.next;
        let record = |record: catchment_log::Record| FeedRecord {
            place: record.ordinal - self.from,
            ordinal: Some(record.ordinal),
            sequence: None,
            key: Some(record.partition_key),
            arrived: record.arrived,
            data: Some(record.data),
        };
        Ok(Some(read.records.into_iter().map(record).collect()))
    }
}
