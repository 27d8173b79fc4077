//! A stream of the log as a source: each shard is read from where the flow stands, parents before their children.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use catchment_core::{Code, Error, Result};
use catchment_log::{Log, Shard, ShardId, Stream, StreamState};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;

use crate::address::Address;
use crate::files::{Cut, METADATA_COLUMN, readable};
use crate::records::{SourceRecord, by_piece};
use crate::rejects::Rejects;
use crate::replay::RecordFormat;
use crate::source::{Limits, Range, Source, Standing, StreamSlice, StreamStanding};
use crate::streams::options::{InitialPosition, ReadStream};
use crate::streams::scan::{StreamTable, metadata_fields, place_of};

/// Opens the log when something is to be read of it: a project is checked without it.
pub trait OpenLog: Send + Sync + std::fmt::Debug {
    /// The log.
    ///
    /// # Errors
    /// Returns [`Code::STREAM_OWNED`] when another process has it, and errors of the disk.
    fn log(&self) -> Result<Arc<Log>>;
}

/// A stream of this project's log.
#[derive(Debug)]
pub struct StreamSource {
    options: ReadStream,
    log: Arc<dyn OpenLog>,
    schema: SchemaRef,
}

impl StreamSource {
    /// Makes the source of a call of `read_stream`.
    #[must_use]
    pub fn new(options: ReadStream, log: Arc<dyn OpenLog>) -> Self {
        let mut fields: Vec<_> = options.columns.fields().iter().cloned().collect();
        fields.extend(options.rescue.iter().map(|name| Arc::new(Field::new(name, DataType::Utf8, true))));
        fields.push(Arc::new(Field::new(METADATA_COLUMN, DataType::Struct(metadata_fields()), true)));
        Self { options, log, schema: Arc::new(Schema::new(fields)) }
    }

    fn stream(&self) -> Result<Arc<Stream>> {
        self.log
            .log()?
            .stream(&self.options.stream)
            .map_err(|error| error.hint(format!("make it: catchment stream create {}", self.options.stream)))
    }
}

/// The shard that a partition of a range is.
pub(super) fn shard_of(partition: &str) -> Result<ShardId> {
    ShardId::parse(partition)
        .ok_or_else(|| Error::new(Code::PLAN_CORRUPT, format!("{partition:?} is no shard of a stream")))
}

/// What a flow's standing says of a shard that takes no more and is read to its end.
const FINISHED: u64 = u64::MAX;

/// Makes sure that what the flow has not read is still there. `standing` is that of a flow that has begun.
fn require_no_loss(stream: &Stream, state: &StreamState, standing: &StreamStanding) -> Result<()> {
    let name = &state.name;
    let lost = |what: String| {
        Err(Error::new(Code::HISTORY_GONE, what)
            .hint("keep records longer, or go on with what is there: failOnDataLoss => false"))
    };
    if standing.created_at != state.created_at {
        return lost(format!("stream \"{name}\" is another one than was read: it was deleted and made anew"));
    }
    let is_there = |partition: &str| ShardId::parse(partition).is_some_and(|id| state.shard(id).is_ok());
    let parents = state.shards.iter().flat_map(|shard| &shard.parents).map(ToString::to_string);
    let unread = |partition: &String| standing.next.get(partition) != Some(&FINISHED) && !is_there(partition);
    if let Some(partition) = standing.next.keys().cloned().chain(parents).find(unread) {
        return lost(format!("shard {partition} of stream \"{name}\" is gone before all of it was read"));
    }
    for shard in &state.shards {
        let next = standing.next.get(&shard.id.to_string()).copied().unwrap_or(1);
        let (oldest, head) = (stream.oldest(shard.id)?, stream.head(shard.id));
        if next < oldest {
            return lost(format!(
                "records {next} to {} of shard {} of stream \"{name}\" are gone before they were read",
                oldest - 1,
                shard.id
            ));
        }
        if next != FINISHED && next > head {
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
    };
    // Of shards that are gone nothing was missed.
    let gone =
        state.shards.iter().flat_map(|shard| &shard.parents).filter(|parent| state.shard(**parent).is_err());
    let mut next: BTreeMap<String, u64> = gone.map(|parent| (parent.to_string(), FINISHED)).collect();
    for shard in &state.shards {
        next.insert(shard.id.to_string(), at(shard.id)?);
    }
    Ok(StreamStanding { created_at: state.created_at, next })
}

/// Where a flow stands, as far as that is of the stream that there is.
fn standing_of(
    options: &ReadStream,
    stream: &Stream,
    state: &StreamState,
    standing: Option<&StreamStanding>,
) -> Result<StreamStanding> {
    match standing {
        Some(standing) if options.fails_on_loss => {
            require_no_loss(stream, state, standing)?;
            Ok(standing.clone())
        }
        Some(standing) if standing.created_at == state.created_at => Ok(standing.clone()),
        Some(_) => beginning(stream, state, InitialPosition::Earliest),
        None => beginning(stream, state, options.initial),
    }
}

fn plan(
    options: &ReadStream,
    stream: &Stream,
    (standing, horizon): (Option<&StreamStanding>, Option<&StreamStanding>),
    limits: Limits,
) -> Result<Option<Range>> {
    let state = stream.state();
    let mut upto = standing_of(options, stream, &state, standing)?;
    let waits =
        |shard: &&Shard| upto.next.get(&shard.id.to_string()).copied().unwrap_or(1) < stream.head(shard.id);
    let share = limits.bytes / (state.shards.iter().filter(waits).count().max(1) as u64);
    let mut slices = Vec::new();
    // Children have higher numbers than their parents.
    for shard in &state.shards {
        let partition = shard.id.to_string();
        let is_open = |parent: &ShardId| {
            state.shard(*parent).is_ok() && upto.next.get(&parent.to_string()) != Some(&FINISHED)
        };
        if shard.parents.iter().any(is_open) || upto.next.get(&partition) == Some(&FINISHED) {
            continue;
        }
        let head = stream.head(shard.id);
        let from = upto.next.get(&partition).copied().unwrap_or(1).max(stream.oldest(shard.id)?).min(head);
        let end = horizon.map_or(u64::MAX, |horizon| horizon.next.get(&partition).copied().unwrap_or(1));
        let until = stream.reach(shard.id, from, share.max(1))?.min(end);
        if until > from {
            slices.push(StreamSlice { partition: partition.clone(), from, until });
        }
        let next = until.max(from);
        let is_finished = !shard.is_open() && next >= stream.head(shard.id);
        upto.next.insert(partition, if is_finished { FINISHED } else { next });
    }
    // Of shards that are gone only the parents of others need to be remembered.
    upto.next.retain(|partition, _| {
        let is = |id: &ShardId| id.to_string() == *partition;
        state.shards.iter().any(|shard| is(&shard.id) || shard.parents.iter().any(is))
    });
    let is_news = standing.is_none_or(|standing| *standing != upto);
    Ok(is_news.then_some(Range::Stream { upto, slices }))
}

#[async_trait]
impl Source for StreamSource {
    fn name(&self) -> String {
        self.options.name()
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn plan(&self, standing: &Standing, limits: Limits) -> Result<Option<Range>> {
        let (options, stream) = (self.options.clone(), self.stream()?);
        let (standing, horizon) = (standing.stream.clone(), standing.horizon.clone());
        tokio::task::spawn_blocking(move || {
            plan(&options, &stream, (standing.as_ref(), horizon.as_deref()), limits)
        })
        .await
        .map_err(|error| Error::new(Code::INTERNAL, "planning ended early").because(error))?
    }

    fn read(
        &self,
        range: &Range,
        rejects: Arc<Rejects>,
        first_piece: Option<u32>,
    ) -> Result<Arc<dyn TableProvider>> {
        let Range::Stream { upto, slices } = range else { return Err(foreign()) };
        if let Some(slice) = slices
            .first()
            .filter(|_| self.stream().is_ok_and(|stream| stream.state().created_at != upto.created_at))
        {
            return Err(gone(&self.options, slice));
        }
        let table = StreamTable::new(
            self.options.clone(),
            self.stream()?,
            &self.schema,
            slices.clone(),
            rejects,
            first_piece,
        )?;
        Ok(Arc::new(table))
    }

    fn records(&self, range: &Range, first_piece: u32, wanted: &[Address]) -> Result<Vec<SourceRecord>> {
        let Range::Stream { slices, .. } = range else { return Err(foreign()) };
        let stream = self.stream()?;
        let mut found = Vec::new();
        for addresses in by_piece(wanted) {
            let index = addresses[0].piece().checked_sub(first_piece.into());
            let Some(slice) = index.and_then(|index| slices.get(usize::try_from(index).ok()?)) else {
                continue;
            };
            let shard = shard_of(&slice.partition)?;
            for address in addresses {
                let ordinal = slice.from + address.place();
                let read = stream.read(shard, ordinal, 1, 1)?;
                let Some(record) = read.records.first().filter(|record| record.ordinal == ordinal) else {
                    return Err(gone(&self.options, slice));
                };
                found.push(SourceRecord {
                    address: *address,
                    file: place_of(&self.options.stream, &stream.sequence(shard, ordinal, record.arrived)?),
                    byte_offset: None,
                    row_number: Some(ordinal),
                    record: readable(&record.data),
                });
            }
        }
        Ok(found)
    }

    fn is_current(&self, range: &Range) -> Result<bool> {
        let Range::Stream { upto, slices } = range else { return Ok(false) };
        let stream = self.stream()?;
        if stream.state().created_at != upto.created_at {
            return Ok(false);
        }
        for slice in slices {
            let id = shard_of(&slice.partition)?;
            if stream.state().shard(id).is_err() || stream.oldest(id)? > slice.from {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn horizon(&self) -> Result<Option<StreamStanding>> {
        let stream = self.stream()?;
        let state = stream.state();
        let next = state.shards.iter().map(|shard| (shard.id.to_string(), stream.head(shard.id))).collect();
        Ok(Some(StreamStanding { created_at: state.created_at, next }))
    }

    fn record_format(&self) -> RecordFormat {
        RecordFormat {
            name: self.name(),
            columns: Arc::clone(&self.options.columns),
            path_columns: Arc::new(Schema::empty()),
            cut: Cut { format: self.options.format, header: false, delimiter: b',', multi_line: false },
            rescue: self.options.rescue.clone(),
            project: std::path::PathBuf::new(),
        }
    }
}

pub(crate) fn gone(options: &ReadStream, slice: &StreamSlice) -> Error {
    Error::new(
        Code::HISTORY_GONE,
        format!(
            "records of shard {} of stream \"{}\" are gone that a batch was going to read",
            slice.partition, options.stream
        ),
    )
    .hint("keep records longer; the next run plans anew")
}

fn foreign() -> Error {
    Error::new(Code::INTERNAL, "a range of another source was given to a stream")
}
