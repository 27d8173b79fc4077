//! Sorts a stream of rows within the session's memory, spilling what does not fit.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use catchment_core::{Code, Error, Result};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use crate::session::Planner;

impl Planner {
    /// The rows of a stream in the order of some of its columns, nulls first.
    ///
    /// # Errors
    /// Returns [`Code::COLUMN_UNKNOWN`] for a column that is not there.
    pub fn sorted(
        &self,
        rows: SendableRecordBatchStream,
        columns: &[String],
    ) -> Result<SendableRecordBatchStream> {
        let schema = rows.schema();
        let keys = columns.iter().map(|name| {
            let index = schema.index_of(name).map_err(|error| {
                Error::new(Code::COLUMN_UNKNOWN, format!("no column \"{name}\" to sort by")).because(error)
            })?;
            Ok(PhysicalSortExpr::new_default(Arc::new(Column::new(name, index))))
        });
        let Some(ordering) = LexOrdering::new(keys.collect::<Result<Vec<_>>>()?) else { return Ok(rows) };
        let failed =
            |error: DataFusionError| Error::new(Code::INTERNAL, "could not sort rows").because(error);
        let input = Arc::new(Once { schema: Arc::clone(&schema), rows: Mutex::new(Some(rows)) });
        let scan = StreamingTableExec::try_new(schema, vec![input], None, Vec::new(), false, None)
            .map_err(failed)?;
        self.run(Arc::new(SortExec::new(ordering, Arc::new(scan))))
    }
}

/// A stream that can be read once.
struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        rows.unwrap_or_else(|| {
            let read = DataFusionError::Internal("a stream was read twice".to_owned());
            Box::pin(RecordBatchStreamAdapter::new(
                Arc::clone(&self.schema),
                futures::stream::once(async { Err(read) }),
            ))
        })
    }
}
