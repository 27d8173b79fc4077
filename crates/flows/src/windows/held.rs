//! The rows of a batch's windows as a table: those held back by earlier batches, and those of this one.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use catchment_core::{Error, FlowName};
use catchment_lake::Lake;
use datafusion::arrow::datatypes::SchemaRef;
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
pub(crate) struct HeldTable {
    pub(crate) lake: Arc<Lake>,
    pub(crate) flow: FlowName,
    pub(crate) schema: SchemaRef,
    pub(crate) runs: Vec<Run>,
    pub(crate) spooled: Vec<Spooled>,
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
        // Files go to the streams in turn.
        let width = self.spooled.len().max(1);
        let parts = (0..width).map(|index| {
            let runs = self.runs.iter().skip(index).step_by(width).cloned().collect();
            Arc::new(HeldPart {
                lake: Arc::clone(&self.lake),
                flow: self.flow.clone(),
                schema: Arc::clone(&schema),
                runs,
                spooled: self.spooled.get(index).cloned(),
            }) as Arc<dyn PartitionStream>
        });
        StreamingTable::try_new(schema.clone(), parts.collect())?.scan(session, None, filters, limit).await
    }
}

struct HeldPart {
    lake: Arc<Lake>,
    flow: FlowName,
    schema: SchemaRef,
    runs: Vec<Run>,
    spooled: Option<Spooled>,
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
            let mut give = |rows: &_| {
                wanted = wanted && sender.blocking_send(Ok(project(rows, &schema)?)).is_ok();
                Ok(())
            };
            for run in &runs {
                let bytes: Bytes = handle.block_on(load(&lake, &flow, run)).map_err(failed)?;
                for rows in read(bytes, &run.file).map_err(failed)? {
                    rows.and_then(|rows| give(&rows)).map_err(failed)?;
                }
            }
            if let Some(spooled) = spooled {
                spooled.each(|rows| give(&rows)).map_err(failed)?;
            }
            Ok(())
        });
        builder.build()
    }
}
