//! Serving tables for those who read: by key, by range, and as tables of queries.

use std::sync::Arc;

use catchment_core::{Clock, Code, Error, Result, TableName};
use catchment_flows::{FlowSpec, KeyRange, ServingStanding, ServingTable};
use catchment_sql::{ComputedTable, nearest};
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;

use crate::run::Workspace;
use crate::statement::DatasetKind;

impl Workspace {
    /// The serving table of a name.
    ///
    /// # Errors
    /// Returns [`Code::TABLE_UNKNOWN`] when the project has none or it was not run yet, and errors of the store.
    pub fn serving_table(&self, name: &str) -> Result<Arc<ServingTable>> {
        let known = self
            .project
            .datasets
            .iter()
            .filter(|(_, declared)| declared.body.kind == DatasetKind::ServingTable);
        let known: Vec<String> = known.map(|(name, _)| name.to_string()).collect();
        let parsed = TableName::parse(name, &self.project.config.config.project.schema);
        let full = parsed.as_ref().map_or_else(|| name.to_owned(), ToString::to_string);
        let Some(table) = parsed.filter(|_| known.contains(&full)) else {
            let names: Vec<&str> = known.iter().map(String::as_str).collect();
            let error = Error::new(Code::TABLE_UNKNOWN, format!("no serving table \"{name}\""));
            return Err(match nearest(&full, &names) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error,
            });
        };
        self.serving.table(&table)?.ok_or_else(|| {
            Error::new(Code::TABLE_UNKNOWN, format!("serving table \"{table}\" has not been run yet"))
                .hint("run `catchment run` or `catchment serve` first")
        })
    }

    /// How a serving table stands to how it is defined now; `None` while another process has it.
    ///
    /// # Errors
    /// Returns [`Code::SERVING_CHANGED`] when it cannot go on with what is kept of its rows, and errors of the store.
    pub fn serving_standing(&self, flow: &FlowSpec) -> Result<Option<ServingStanding>> {
        match self.serving.standing(flow) {
            Err(error) if error.code() == Code::SERVING_OWNED => Ok(None),
            other => other.map(Some),
        }
    }

    /// The rows of whole keys that are there, their values as text in the order of the key's columns.
    ///
    /// # Errors
    /// As [`Workspace::serving_table`], and for values that are none of their columns.
    pub fn serving_rows(&self, name: &str, keys: &[Vec<String>]) -> Result<RecordBatch> {
        self.serving_table(name)?.get(keys, self.clock.now_micros())
    }

    /// Rows of one primary key, in the order of the sort key.
    ///
    /// # Errors
    /// As [`Workspace::serving_rows`].
    pub fn serving_range(&self, name: &str, primary: &[String], range: &KeyRange) -> Result<RecordBatch> {
        self.serving_table(name)?.range(primary, range, self.clock.now_micros())
    }

    /// `system.serving_tables`: what each serving table that was run holds, and its last batch.
    pub(crate) fn serving_sizes(&self) -> Result<Arc<dyn TableProvider>> {
        let (mut names, mut sizes, mut batches) = (Vec::new(), Vec::new(), Vec::new());
        for (name, declared) in &self.project.datasets {
            if declared.body.kind == DatasetKind::ServingTable
                && let Some(table) = self.serving.table(name)?
                && let Some(batch) = self.serving.last_batch(name)?
            {
                names.push(name.to_string());
                sizes.push(table.size());
                batches.push(batch);
            }
        }
        let counts = |counts: Vec<u64>| Arc::new(UInt64Array::from(counts)) as ArrayRef;
        let planned = batches.iter().map(|(_, planned_at)| *planned_at);
        let columns: [(&str, ArrayRef); 6] = [
            ("dataset", Arc::new(StringArray::from(names))),
            ("rows", counts(sizes.iter().map(|size| size.rows).collect())),
            ("groups", counts(sizes.iter().map(|size| size.groups).collect())),
            ("bytes", counts(sizes.iter().map(|size| size.bytes).collect())),
            ("batch", counts(batches.iter().map(|(number, _)| *number).collect())),
            (
                "planned_at",
                Arc::new(TimestampMicrosecondArray::from_iter_values(planned).with_timezone("UTC")),
            ),
        ];
        let rows = RecordBatch::try_from_iter(columns).map_err(|error| {
            Error::new(Code::INTERNAL, "could not compute system.serving_tables").because(error)
        })?;
        Ok(Arc::new(ComputedTable::new(rows.schema(), move || Ok(rows.clone()))))
    }

    /// A serving table as a table of queries.
    pub(crate) fn serving_provider(&self, name: &TableName) -> Result<Arc<dyn TableProvider>> {
        let table = self.serving_table(&name.to_string())?;
        let part = Arc::new(Scan { table: Arc::clone(&table), clock: Arc::clone(&self.clock) });
        StreamingTable::try_new(Arc::clone(table.schema()), vec![part])
            .map(|table| Arc::new(table) as Arc<dyn TableProvider>)
            .map_err(catchment_sql::query_error)
    }
}

/// All rows of a table, as they are when they are read.
struct Scan {
    table: Arc<ServingTable>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("table", &self.table).finish_non_exhaustive()
    }
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        self.table.schema()
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(self.table.schema()), 2);
        let (sender, table, now) = (builder.tx(), Arc::clone(&self.table), self.clock.now_micros());
        builder.spawn_blocking(move || -> EngineResult<()> {
            table
                .scan(now, |rows| Ok(sender.blocking_send(Ok(rows)).is_ok()))
                .map_err(|error| DataFusionError::External(Box::new(error)))
        });
        builder.build()
    }
}
