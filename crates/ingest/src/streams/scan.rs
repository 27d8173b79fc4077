//! Records of a stream as a table: a stream of rows for each piece, decoded as they are read.

use std::sync::Arc;

use async_trait::async_trait;
use catchment_core::{Code, Error, Result};
use catchment_log::{Record, Sequence, ShardId, Stream, StreamName};
use datafusion::arrow::array::{
    ArrayRef, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;

use crate::address::{ADDRESS_COLUMN, Address, address_field};
use crate::files::{Column, FileFormat, Fitted, JsonReader, Line, METADATA_COLUMN, readable};
use crate::rejects::{Reject, Rejects};
use crate::source::StreamSlice;
use crate::streams::options::ReadStream;
use crate::streams::source::{gone, shard_of};

/// Records read at once, and their bytes.
const BATCH_ROWS: usize = 8_192;
const BATCH_BYTES: usize = 8 << 20;

pub(crate) fn metadata_fields() -> Fields {
    Fields::from(vec![
        Field::new("stream", DataType::Utf8, true),
        Field::new("shard_id", DataType::Utf8, true),
        Field::new("sequence_number", DataType::Utf8, true),
        Field::new("partition_key", DataType::Utf8, true),
        Field::new("arrived_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ])
}

/// What is known of records in quarantine, from their places: key and time are not.
pub(crate) fn metadata_of<'a>(places: impl Iterator<Item = &'a str>) -> Result<ArrayRef> {
    let parts: Vec<Vec<&str>> = places.map(|place| place.split('/').collect()).collect();
    let part = |index: usize| -> ArrayRef {
        Arc::new(parts.iter().map(|parts| parts.get(index).copied()).collect::<StringArray>())
    };
    let none: ArrayRef = Arc::new(StringArray::new_null(parts.len()));
    let times = TimestampMicrosecondArray::new_null(parts.len()).with_timezone("UTC");
    metadata(vec![part(0), part(1), part(2), none, Arc::new(times)])
}

fn metadata(columns: Vec<ArrayRef>) -> Result<ArrayRef> {
    StructArray::try_new(metadata_fields(), columns, None)
        .map(|metadata| Arc::new(metadata) as ArrayRef)
        .map_err(|error| Error::new(Code::INTERNAL, "could not describe a record").because(error))
}

/// Where a record is, as quarantine has it.
pub(crate) fn place_of(stream: &StreamName, sequence: &Sequence) -> String {
    format!("{stream}/{}/{sequence}", sequence.shard)
}

/// Slices of a stream as a table.
#[derive(Debug)]
pub(crate) struct StreamTable {
    options: ReadStream,
    stream: Arc<Stream>,
    schema: SchemaRef,
    slices: Vec<StreamSlice>,
    rejects: Arc<Rejects>,
    first_piece: u32,
}

impl StreamTable {
    /// Makes the table. With `first_piece` its rows carry their addresses.
    pub(crate) fn new(
        options: ReadStream,
        stream: Arc<Stream>,
        schema: &SchemaRef,
        slices: Vec<StreamSlice>,
        rejects: Arc<Rejects>,
        first_piece: Option<u32>,
    ) -> Result<Self> {
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        fields.extend(first_piece.map(|_| address_field()));
        let schema = Arc::new(Schema::new(fields));
        Ok(Self { options, stream, schema, slices, rejects, first_piece: first_piece.unwrap_or(0) })
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(projection) => Arc::new(self.schema.project(projection)?),
            None => Arc::clone(&self.schema),
        };
        let number = self.rejects.next_scan();
        let part = |(index, slice): (usize, &StreamSlice)| {
            let piece = self.first_piece.saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
            let part = SlicePart {
                options: self.options.clone(),
                stream: Arc::clone(&self.stream),
                schema: Arc::clone(&schema),
                slice: slice.clone(),
                piece,
                reports: self
                    .rejects
                    .claim(&format!("{}/{}/{}", self.options.stream, slice.partition, slice.from), number),
                rejects: Arc::clone(&self.rejects),
            };
            Arc::new(part) as Arc<dyn PartitionStream>
        };
        let parts: Vec<_> = self.slices.iter().enumerate().map(part).collect();
        if parts.is_empty() {
            let empty = datafusion::datasource::empty::EmptyTable::new(schema);
            return empty.scan(session, None, filters, limit).await;
        }
        StreamingTable::try_new(schema, parts)?.scan(session, None, filters, limit).await
    }
}

/// One slice.
#[derive(Debug)]
struct SlicePart {
    options: ReadStream,
    stream: Arc<Stream>,
    schema: SchemaRef,
    slice: StreamSlice,
    piece: u32,
    reports: bool,
    rejects: Arc<Rejects>,
}

impl PartitionStream for SlicePart {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), 2);
        let sender = builder.tx();
        let reader = Reader {
            options: self.options.clone(),
            stream: Arc::clone(&self.stream),
            schema: Arc::clone(&self.schema),
            slice: self.slice.clone(),
            piece: self.piece,
            rejects: Arc::clone(&self.rejects),
            reports: self.reports,
        };
        builder.spawn_blocking(move || {
            let failed = |error: Error| DataFusionError::External(Box::new(error));
            let mut next = reader.slice.from;
            while next < reader.slice.until {
                let (rows, after) = reader.rows(next).map_err(failed)?;
                next = after;
                // Nobody wants more rows when nobody takes them.
                if rows.num_rows() > 0 && sender.blocking_send(Ok(rows)).is_err() {
                    break;
                }
            }
            Ok(())
        });
        builder.build()
    }
}

struct Reader {
    options: ReadStream,
    stream: Arc<Stream>,
    schema: SchemaRef,
    slice: StreamSlice,
    piece: u32,
    rejects: Arc<Rejects>,
    reports: bool,
}

impl Reader {
    /// The rows from an ordinal on, and the ordinal to go on from.
    fn rows(&self, from: u64) -> Result<(RecordBatch, u64)> {
        let id = shard_of(&self.slice.partition)?;
        let most = usize::try_from(self.slice.until - from).unwrap_or(usize::MAX).min(BATCH_ROWS);
        let read = self.stream.read(id, from, most, BATCH_BYTES)?;
        if read.records.first().is_none_or(|first| first.ordinal != from) {
            return Err(gone(&self.options, &self.slice));
        }
        let columns = &self.options.columns;
        let json = JsonReader::new(columns, self.options.rescue.is_some());
        let mut decoded = columns
            .fields()
            .iter()
            .map(|field| Column::new(field.data_type(), 0))
            .collect::<Result<Vec<_>>>()?;
        let (mut rescued, mut kept, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
        for record in &read.records {
            let mut values: Vec<Fitted<'_>> = Vec::new();
            let line = match (self.options.format, simdutf8::basic::from_utf8(&record.data)) {
                (FileFormat::Text, Ok(text)) => {
                    values.push(Fitted::Text(text.into()));
                    Line::Row(None)
                }
                (FileFormat::Text, Err(_)) => Line::Malformed("invalid UTF-8".to_owned()),
                _ => json.read(&record.data, &mut values),
            };
            match line {
                Line::Row(rest) => {
                    decoded.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
                    rescued.push(rest);
                    kept.push(record);
                }
                Line::New(names) => {
                    rejected.push(self.reject(id, record, format!("no columns: {}", names.join(", ")))?)
                }
                Line::Malformed(reason) => rejected.push(self.reject(id, record, reason)?),
            }
        }
        if self.reports {
            self.rejects.count(kept.len());
            self.rejects.report(&rejected)?;
        }
        let arrays = self
            .schema
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                ADDRESS_COLUMN => {
                    let places = kept
                        .iter()
                        .map(|record| Address::new(self.piece, record.ordinal - self.slice.from).0);
                    Ok(Arc::new(places.collect::<UInt64Array>()) as ArrayRef)
                }
                name => match columns.index_of(name) {
                    Ok(index) => decoded[index].finish(),
                    Err(_) if name == METADATA_COLUMN => self.metadata(id, &kept),
                    Err(_) => Ok(Arc::new(StringArray::from(rescued.clone())) as ArrayRef),
                },
            })
            .collect::<Result<Vec<_>>>()?;
        let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(kept.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| Error::new(Code::INTERNAL, "records do not fit their columns").because(error))?;
        Ok((rows, read.next))
    }

    fn reject(&self, id: ShardId, record: &Record, reason: String) -> Result<Reject> {
        let sequence = self.stream.sequence(id, record.ordinal, record.arrived)?;
        Ok(Reject {
            source: self.options.name(),
            file: place_of(&self.options.stream, &sequence),
            offset: None,
            row: Some(record.ordinal),
            reason,
            record: Some(readable(&record.data)),
        })
    }

    fn metadata(&self, id: ShardId, kept: &[&Record]) -> Result<ArrayRef> {
        let texts = |value: String| -> ArrayRef { Arc::new(StringArray::from(vec![value; kept.len()])) };
        let sequences = kept
            .iter()
            .map(|record| {
                self.stream
                    .sequence(id, record.ordinal, record.arrived)
                    .map(|sequence| Some(sequence.to_string()))
            })
            .collect::<Result<StringArray>>()?;
        let keys: StringArray = kept.iter().map(|record| Some(record.partition_key.as_str())).collect();
        let times: TimestampMicrosecondArray =
            kept.iter().map(|record| Some(record.arrived * 1_000)).collect();
        metadata(vec![
            texts(self.options.stream.to_string()),
            texts(id.to_string()),
            Arc::new(sequences),
            Arc::new(keys),
            Arc::new(times.with_timezone("UTC")),
        ])
    }
}
