//! The rows of a batch's windows as a table: those held back by earlier batches, and those of this one.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use catchment_core::{Code, Error, FlowName, Result};
use catchment_ingest::ADDRESS_COLUMN;
use catchment_lake::Lake;
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use tokio::runtime::Handle;

use super::runs::{load, read};
use super::state::Run;
use crate::spool::{Spooled, project};

/// Rows that were put aside and rows in files; it has the columns that were kept, and others only by name.
#[derive(Clone)]
pub(crate) struct HeldTable {
    pub(crate) lake: Arc<Lake>,
    pub(crate) flow: FlowName,
    pub(crate) schema: SchemaRef,
    /// Whether the rows tell their numbers, from zero on, in the column of addresses: those in files first.
    pub(super) numbered: bool,
    pub(crate) runs: Vec<Run>,
    pub(crate) spooled: Vec<Spooled>,
}

impl HeldTable {
    /// How many rows it has.
    pub(crate) fn rows(&self) -> usize {
        let in_files: u64 = self.runs.iter().map(|run| run.rows).sum();
        let aside: usize = self.spooled.iter().map(|rows| rows.rows).sum();
        usize::try_from(in_files).unwrap_or(usize::MAX).saturating_add(aside)
    }

    /// The same rows, with their numbers.
    pub(super) fn numbered(&self) -> Self {
        Self { numbered: true, ..self.clone() }
    }
}

impl fmt::Debug for HeldTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldTable")
            .field("flow", &self.flow)
            .field("runs", &self.runs)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for HeldTable {
    fn schema(&self) -> SchemaRef {
        if !self.numbered {
            return Arc::clone(&self.schema);
        }
        let number = Arc::new(Field::new(ADDRESS_COLUMN, DataType::UInt64, false));
        Arc::new(Schema::new(self.schema.fields().iter().cloned().chain([number]).collect::<Vec<_>>()))
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
            Some(projection) => Arc::new(TableProvider::schema(self).project(projection)?),
            None => TableProvider::schema(self),
        };
        // Files go to the streams in turn.
        let width = self.spooled.len().max(1);
        let mut first = 0;
        let mut number = |rows: u64| {
            first += rows;
            first - rows
        };
        let runs: Vec<(u64, Run)> = self.runs.iter().map(|run| (number(run.rows), run.clone())).collect();
        let spooled: Vec<(u64, Spooled)> =
            self.spooled.iter().map(|rows| (number(rows.rows as u64), rows.clone())).collect();
        let parts = (0..width).map(|index| {
            let runs = runs.iter().skip(index).step_by(width).cloned().collect();
            Arc::new(HeldPart {
                lake: Arc::clone(&self.lake),
                flow: self.flow.clone(),
                schema: Arc::clone(&schema),
                runs,
                spooled: spooled.get(index).cloned(),
            }) as Arc<dyn PartitionStream>
        });
        StreamingTable::try_new(schema.clone(), parts.collect())?.scan(session, None, filters, limit).await
    }
}

struct HeldPart {
    lake: Arc<Lake>,
    flow: FlowName,
    schema: SchemaRef,
    /// Files and rows that were put aside, each with the number of its first row.
    runs: Vec<(u64, Run)>,
    spooled: Option<(u64, Spooled)>,
}

impl fmt::Debug for HeldPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldPart").field("runs", &self.runs).finish_non_exhaustive()
    }
}

impl PartitionStream for HeldPart {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), 2);
        let (sender, handle) = (builder.tx(), Handle::current());
        let (lake, flow, schema) = (Arc::clone(&self.lake), self.flow.clone(), Arc::clone(&self.schema));
        let (runs, spooled) = (self.runs.clone(), self.spooled.clone());
        builder.spawn_blocking(move || {
            let failed = |error: Error| DataFusionError::External(Box::new(error));
            // Nobody wants more rows when nobody takes them.
            let mut wanted = true;
            let mut give = |rows: &RecordBatch, number: &mut u64| {
                let given = numbered(rows, &schema, *number)?;
                *number += rows.num_rows() as u64;
                wanted = wanted && sender.blocking_send(Ok(given)).is_ok();
                Ok(())
            };
            for (mut number, run) in runs {
                let bytes: Bytes = handle.block_on(load(&lake, &flow, &run)).map_err(failed)?;
                for rows in read(bytes, &run.file).map_err(failed)? {
                    rows.and_then(|rows| give(&rows, &mut number)).map_err(failed)?;
                }
            }
            if let Some((mut number, spooled)) = spooled {
                spooled.each(|rows| give(&rows, &mut number)).map_err(failed)?;
            }
            Ok(())
        });
        builder.build()
    }
}

/// The columns of rows, with their numbers where these are wanted.
fn numbered(rows: &RecordBatch, schema: &SchemaRef, first: u64) -> Result<RecordBatch> {
    let Some((_, number)) = schema.column_with_name(ADDRESS_COLUMN) else { return project(rows, schema) };
    let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(first..first + rows.num_rows() as u64));
    let fields = rows.schema().fields().iter().cloned().chain([Arc::new(number.clone())]).collect::<Vec<_>>();
    let columns = rows.columns().iter().cloned().chain([numbers]).collect();
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|error| Error::new(Code::INTERNAL, "rows that wait could not be numbered").because(error))?;
    project(&rows, schema)
}
