//! A stream of the log as a source: each shard is read from where the flow stands, parents before their children.

use std::sync::Arc;

use async_trait::async_trait;
use catchment_core::{Code, Error, Result};
use catchment_log::{Log, ShardId, Stream, StreamState};
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

/// Makes sure that no shard is gone of which records were not read. `standing` is that of a flow that has begun.
fn require_no_loss(state: &StreamState, standing: &StreamStanding) -> Result<()> {
    let is_there = |partition: &str| ShardId::parse(partition).is_some_and(|id| state.shard(id).is_ok());
    let parents = state.shards.iter().flat_map(|shard| &shard.parents).map(ToString::to_string);
    let unread = |partition: &String| standing.get(partition) != Some(&FINISHED) && !is_there(partition);
    match standing.keys().cloned().chain(parents).find(unread) {
        Some(partition) => Err(Error::new(
            Code::HISTORY_GONE,
            format!("shard {partition} of stream \"{}\" is gone before all of it was read", state.name),
        )
        .hint("keep records longer, or go on without them: failOnDataLoss => false")),
        None => Ok(()),
    }
}

/// Where each shard stands when a flow begins.
fn beginning(stream: &Stream, state: &StreamState, initial: InitialPosition) -> Result<StreamStanding> {
    let at = |id: ShardId| match initial {
        InitialPosition::Earliest => stream.oldest(id),
        InitialPosition::Latest => Ok(stream.head(id)),
    };
    state.shards.iter().map(|shard| Ok((shard.id.to_string(), at(shard.id)?))).collect()
}

fn plan(
    options: &ReadStream,
    stream: &Stream,
    (standing, horizon): (Option<&StreamStanding>, Option<&StreamStanding>),
    limits: Limits,
) -> Result<Option<Range>> {
    let state = stream.state();
    let mut upto = match standing {
        Some(standing) => standing.clone(),
        None => beginning(stream, &state, options.initial)?,
    };
    if options.fails_on_loss
        && let Some(standing) = standing
    {
        require_no_loss(&state, standing)?;
    }
    let share = limits.bytes / (state.open().count().max(1) as u64);
    let mut slices = Vec::new();
    // Children have higher numbers than their parents.
    for shard in &state.shards {
        let partition = shard.id.to_string();
        let is_open = |parent: &ShardId| {
            state.shard(*parent).is_ok() && upto.get(&parent.to_string()) != Some(&FINISHED)
        };
        if shard.parents.iter().any(is_open) || upto.get(&partition) == Some(&FINISHED) {
            continue;
        }
        let from = upto.get(&partition).copied().unwrap_or(1);
        let oldest = stream.oldest(shard.id)?;
        let from = match from < oldest {
            true if options.fails_on_loss && standing.is_some() => {
                return Err(Error::new(
                    Code::HISTORY_GONE,
                    format!("records {from} to {} of shard {partition} of stream \"{}\" are gone before they were read", oldest - 1, state.name),
                )
                .hint("keep records longer, or go on without them: failOnDataLoss => false"));
            }
            true => oldest,
            false => from,
        };
        let end = horizon.map_or(u64::MAX, |horizon| horizon.get(&partition).copied().unwrap_or(1));
        let until = stream.reach(shard.id, from, share.max(1))?.min(end);
        if until > from {
            slices.push(StreamSlice { partition: partition.clone(), from, until });
        }
        let next = until.max(from);
        let is_finished = !shard.is_open() && next >= stream.head(shard.id);
        upto.insert(partition, if is_finished { FINISHED } else { next });
    }
    // Of shards that are gone only the parents of others need to be remembered.
    let is_known = |partition: &String, _: &mut u64| {
        state.shards.iter().any(|shard| {
            shard.id.to_string() == *partition
                || shard.parents.iter().any(|parent| parent.to_string() == *partition)
        })
    };
    upto.retain(is_known);
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
        let Range::Stream { slices, .. } = range else { return Err(foreign()) };
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

    fn horizon(&self) -> Result<Option<StreamStanding>> {
        let stream = self.stream()?;
        let state = stream.state();
        Ok(Some(state.shards.iter().map(|shard| (shard.id.to_string(), stream.head(shard.id))).collect()))
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
    .hint("keep records longer; to go on without them, remove the flow's newest plan, or refresh the dataset")
}

fn foreign() -> Error {
    Error::new(Code::INTERNAL, "a range of another source was given to a stream")
}
