//! A stream as a source.

use std::sync::Arc;

use async_trait::async_trait;
use catchment_core::{Code, Error, Result, timestamp_text};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use tokio::runtime::Handle;

use crate::address::Address;
use crate::files::{Cut, FileFormat, METADATA_COLUMN};
use crate::records::{SourceRecord, by_piece};
use crate::rejects::Rejects;
use crate::replay::RecordFormat;
use crate::source::{Limits, Range, Source, Standing, StreamSlice, StreamStanding};
use crate::streams::feed::{Feed, FeedRecord, gone};
use crate::streams::kafka::KafkaFeed;
use crate::streams::kinesis::KinesisFeed;
use crate::streams::log::{LogFeed, OpenLog};
use crate::streams::options::{Origin, ReadStream};
use crate::streams::scan::StreamTable;

/// How far apart two records may be that are looked up in one reading.
const NEAR: u64 = 8_192;

/// A stream of this project's log, of a Kinesis endpoint or of a Kafka cluster.
#[derive(Debug)]
pub struct StreamSource {
    options: ReadStream,
    feed: Arc<dyn Feed>,
    schema: SchemaRef,
}

/// What a project has for the streams that it reads.
pub trait Connections: OpenLog {
    /// The value of a variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;

    /// The time, in milliseconds since the Unix epoch.
    fn now_millis(&self) -> i64;
}

impl StreamSource {
    /// Makes the source of a call of `read_stream`, `read_kinesis` or `read_kafka`. Nothing is opened before it is read.
    #[must_use]
    pub fn new(options: ReadStream, connections: Arc<dyn Connections>) -> Self {
        let (initial, fails_on_loss) = (options.initial, options.fails_on_loss);
        let feed: Arc<dyn Feed> = match &options.origin {
            Origin::Log(stream) => {
                Arc::new(LogFeed { stream: stream.clone(), initial, fails_on_loss, log: connections })
            }
            Origin::Kinesis(of) => {
                Arc::new(KinesisFeed::new(of.clone(), initial, fails_on_loss, connections))
            }
            Origin::Kafka(of) => Arc::new(KafkaFeed::new(of.clone(), initial, fails_on_loss, connections)),
        };
        let mut fields: Vec<_> = options.columns.fields().iter().cloned().collect();
        fields.extend(options.rescue.iter().map(|name| Arc::new(Field::new(name, DataType::Utf8, true))));
        fields.push(Arc::new(Field::new(METADATA_COLUMN, DataType::Struct(feed.metadata_fields()), true)));
        Self { options, feed, schema: Arc::new(Schema::new(fields)) }
    }

    /// The records at these addresses of one slice.
    async fn look_up(
        &self,
        identity: &str,
        slice: &StreamSlice,
        addresses: &[Address],
    ) -> Result<Vec<SourceRecord>> {
        let mut found = Vec::with_capacity(addresses.len());
        for near in addresses.chunk_by(|a, b| b.place() - a.place() < NEAR) {
            let mut reader = self.feed.open(identity, slice, near[0].place()).await?;
            let mut wanted = near.iter().peekable();
            while wanted.peek().is_some() {
                let Some(records) = reader.next().await? else {
                    return Err(gone(&self.name(), slice));
                };
                for record in records {
                    if let Some(address) = wanted.next_if(|address| address.place() == record.place) {
                        found.push(self.record(slice, *address, &record)?);
                    }
                }
            }
        }
        Ok(found)
    }

    fn record(&self, slice: &StreamSlice, address: Address, record: &FeedRecord) -> Result<SourceRecord> {
        Ok(SourceRecord {
            address,
            file: place_of(self.feed.as_ref(), &self.options, slice, record)?,
            byte_offset: None,
            row_number: record.ordinal,
            record: self.options.codec.text_of(&self.options.columns, record.data.as_deref()),
            header: None,
        })
    }
}

/// Where a record is, as quarantine has it.
pub(crate) fn place_of(
    feed: &dyn Feed,
    options: &ReadStream,
    slice: &StreamSlice,
    record: &FeedRecord,
) -> Result<String> {
    let name = options.name();
    let stream = name.split_once(':').map_or(name.as_str(), |(_, stream)| stream);
    Ok(format!("{stream}/{}/{}", slice.partition, feed.sequence(slice, record)?))
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
        let planned = self.feed.plan(standing.stream.as_ref(), standing.horizon.as_deref(), limits).await?;
        Ok(planned.map(|(upto, slices)| Range::Stream { upto, slices }))
    }

    fn read(
        &self,
        range: &Range,
        rejects: Arc<Rejects>,
        first_piece: Option<u32>,
    ) -> Result<Arc<dyn TableProvider>> {
        let Range::Stream { upto, slices } = range else { return Err(foreign()) };
        let table = StreamTable::new(
            (self.options.clone(), Arc::clone(&self.feed)),
            &self.schema,
            (upto.identity.clone(), slices.clone()),
            rejects,
            first_piece,
        );
        Ok(Arc::new(table))
    }

    fn records(&self, range: &Range, first_piece: u32, wanted: &[Address]) -> Result<Vec<SourceRecord>> {
        let Range::Stream { upto, slices } = range else { return Err(foreign()) };
        let handle = Handle::try_current()
            .map_err(|error| Error::new(Code::INTERNAL, "records are looked up in no task").because(error))?;
        let mut found = Vec::new();
        for addresses in by_piece(wanted) {
            let index = addresses[0].piece().checked_sub(first_piece.into());
            let Some(slice) = index.and_then(|index| slices.get(usize::try_from(index).ok()?)) else {
                continue;
            };
            found.extend(handle.block_on(self.look_up(&upto.identity, slice, addresses))?);
        }
        Ok(found)
    }

    fn is_live(&self) -> bool {
        // The log itself tells when something has come.
        !matches!(self.options.origin, Origin::Log(_))
    }

    async fn is_current(&self, range: &Range) -> Result<bool> {
        match range {
            Range::Stream { upto, slices } => self.feed.holds(upto, slices).await,
            _ => Ok(false),
        }
    }

    async fn horizon(&self) -> Result<Option<StreamStanding>> {
        self.feed.horizon().await.map(Some)
    }

    async fn begins(&self) -> Result<String> {
        let name = self.name();
        let first = Limits { files: 1, bytes: 1 };
        let Some((upto, slices)) = self.feed.plan(None, None, first).await? else {
            return Ok(format!("what comes to {name} from now on"));
        };
        let mut oldest: Option<i64> = None;
        for slice in &slices {
            let records = self.feed.open(&upto.identity, slice, 0).await?.next().await?.unwrap_or_default();
            oldest = records.iter().map(|record| record.arrived).chain(oldest).min();
        }
        Ok(match oldest {
            Some(arrived) => format!("{name} from its record of {} on", timestamp_text(arrived * 1_000)),
            None => format!("what comes to {name} from now on"),
        })
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn record_format(&self) -> RecordFormat {
        let format = if self.options.codec.is_text() { FileFormat::Text } else { FileFormat::Json };
        RecordFormat {
            name: self.name(),
            columns: Arc::clone(&self.options.columns),
            path_columns: Arc::new(Schema::empty()),
            cut: Cut { format, header: false, delimiter: b',', multi_line: false },
            rescue: self.options.rescue.clone(),
            stores: Arc::default(),
            held_to: self.options.codec.schema(),
        }
    }
}

fn foreign() -> Error {
    Error::new(Code::INTERNAL, "a range of another source was given to a stream")
}
