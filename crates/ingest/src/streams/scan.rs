//! Records of a stream as a table: a stream of rows for each slice, decoded as they are read.

use std::sync::Arc;

use async_trait::async_trait;
use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use tokio::runtime::Handle;

use crate::address::{ADDRESS_COLUMN, Address, address_field};
use crate::files::METADATA_COLUMN;
use crate::rejects::{Reject, Rejects};
use crate::source::StreamSlice;
use crate::streams::decode::Decoded;
use crate::streams::feed::{Feed, FeedRecord};
use crate::streams::metadata;
use crate::streams::options::ReadStream;
use crate::streams::source::place_of;

/// Slices of a stream as a table.
#[derive(Debug)]
pub(crate) struct StreamTable {
    options: ReadStream,
    feed: Arc<dyn Feed>,
    schema: SchemaRef,
    identity: String,
    slices: Vec<StreamSlice>,
    rejects: Arc<Rejects>,
    first_piece: u32,
}

impl StreamTable {
    /// Makes the table. With `first_piece` its rows carry their addresses.
    pub(crate) fn new(
        (options, feed): (ReadStream, Arc<dyn Feed>),
        schema: &SchemaRef,
        (identity, slices): (String, Vec<StreamSlice>),
        rejects: Arc<Rejects>,
        first_piece: Option<u32>,
    ) -> Self {
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        fields.extend(first_piece.map(|_| address_field()));
        let schema = Arc::new(Schema::new(fields));
        Self { options, feed, schema, identity, slices, rejects, first_piece: first_piece.unwrap_or(0) }
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
            let name = format!("{}/{}/{:?}", self.options.name(), slice.partition, slice.from);
            let part = SlicePart {
                options: self.options.clone(),
                feed: Arc::clone(&self.feed),
                schema: Arc::clone(&schema),
                identity: self.identity.clone(),
                slice: slice.clone(),
                piece,
                reports: self.rejects.claim(&name, number),
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
#[derive(Debug, Clone)]
struct SlicePart {
    options: ReadStream,
    feed: Arc<dyn Feed>,
    schema: SchemaRef,
    identity: String,
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
        let (sender, part, handle) = (builder.tx(), self.clone(), Handle::current());
        // Decoding takes long, and reporting may wait.
        builder.spawn_blocking(move || {
            let failed = |error: Error| DataFusionError::External(Box::new(error));
            let opening = part.feed.open(&part.identity, &part.slice, 0);
            let mut reader = handle.block_on(opening).map_err(failed)?;
            while let Some(records) = handle.block_on(reader.next()).map_err(failed)? {
                let rows = part.rows(&records).map_err(failed)?;
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

impl SlicePart {
    /// The rows of some records.
    fn rows(&self, records: &[FeedRecord]) -> Result<RecordBatch> {
        let data: Vec<Option<&[u8]>> = records.iter().map(|record| record.data.as_deref()).collect();
        let rescue = self.options.rescue.is_some();
        let decoded = self.options.codec.decode(&self.options.columns, rescue, &data)?;
        if self.reports {
            let rejected: Vec<Reject> = decoded
                .rejected
                .iter()
                .map(|(index, reason)| self.reject(&records[*index], reason))
                .collect::<Result<_>>()?;
            self.rejects.count(decoded.kept.len());
            self.rejects.report(&rejected)?;
        }
        let kept: Vec<&FeedRecord> = decoded.kept.iter().map(|index| &records[*index]).collect();
        let arrays = self
            .schema
            .fields()
            .iter()
            .map(|field| self.column(field.name(), &decoded, &kept))
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(kept.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| Error::new(Code::INTERNAL, "records do not fit their columns").because(error))
    }

    fn column(&self, name: &str, decoded: &Decoded, kept: &[&FeedRecord]) -> Result<ArrayRef> {
        if name == ADDRESS_COLUMN {
            let places = kept.iter().map(|record| Address::new(self.piece, record.place).0);
            return Ok(Arc::new(places.collect::<UInt64Array>()));
        }
        match self.options.columns.index_of(name) {
            Ok(index) => Ok(Arc::clone(&decoded.columns[index])),
            Err(_) if name == METADATA_COLUMN => {
                let columns = self.feed.metadata(&self.slice, kept)?;
                metadata::column(self.feed.metadata_fields(), columns)
            }
            Err(_) => Ok(Arc::new(StringArray::from(decoded.rescued.clone()))),
        }
    }

    fn reject(&self, record: &FeedRecord, reason: &str) -> Result<Reject> {
        Ok(Reject {
            source: self.options.name(),
            file: place_of(self.feed.as_ref(), &self.options, &self.slice, record)?,
            offset: None,
            row: record.ordinal,
            reason: reason.to_owned(),
            record: record.data.as_deref().map(crate::files::readable),
            header: None,
        })
    }
}
