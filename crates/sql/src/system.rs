//! The platform's own tables, `system.*`, computed when they are read.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use catchment_catalog::{Notification, NotificationStatus, Store};
use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

type Compute = dyn Fn() -> Result<RecordBatch> + Send + Sync;

/// A table whose rows are computed each time it is read.
pub struct ComputedTable {
    schema: SchemaRef,
    compute: Arc<Compute>,
}

impl ComputedTable {
    /// Makes a table of a schema and what computes its rows.
    pub fn new(schema: SchemaRef, compute: impl Fn() -> Result<RecordBatch> + Send + Sync + 'static) -> Self {
        Self { schema, compute: Arc::new(compute) }
    }
}

impl fmt::Debug for ComputedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComputedTable").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for ComputedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let rows = (self.compute)().map_err(|error| DataFusionError::External(Box::new(error)))?;
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![vec![rows]])?;
        table.scan(session, projection, filters, limit).await
    }
}

/// The tables that are kept in the catalog database, by their name in schema `system`.
#[must_use]
pub fn system_tables(store: &Arc<dyn Store>) -> Vec<(&'static str, Arc<dyn TableProvider>)> {
    type Rows = fn(&dyn Store) -> Result<Vec<ArrayRef>>;
    let table = |fields: &[(&str, DataType)], rows: Rows| -> Arc<dyn TableProvider> {
        let schema = Arc::new(Schema::new(
            fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>(),
        ));
        let (store, columns) = (Arc::clone(store), Arc::clone(&schema));
        Arc::new(ComputedTable::new(schema, move || {
            RecordBatch::try_new(Arc::clone(&columns), rows(store.as_ref())?).map_err(|error| {
                Error::new(Code::INTERNAL, "could not compute a system table").because(error)
            })
        }))
    };
    let text = DataType::Utf8;
    let count = DataType::UInt64;
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    vec![
        (
            "runs",
            table(
                &[
                    ("run", text.clone()),
                    ("status", text.clone()),
                    ("started_at", time.clone()),
                    ("finished_at", time.clone()),
                    ("error", text.clone()),
                ],
                runs,
            ),
        ),
        (
            "datasets",
            table(
                &[
                    ("run", text.clone()),
                    ("dataset", text.clone()),
                    ("status", text.clone()),
                    ("rows_in", count.clone()),
                    ("rows_out", count.clone()),
                    ("quarantined", count.clone()),
                    ("dropped", count.clone()),
                    ("version", count.clone()),
                    ("milliseconds", count.clone()),
                    ("error", text.clone()),
                ],
                datasets,
            ),
        ),
        (
            "flows",
            table(
                &[
                    ("flow", text.clone()),
                    ("dataset", text.clone()),
                    ("epoch", count.clone()),
                    ("number", count.clone()),
                    ("version", count.clone()),
                    ("run", text.clone()),
                    ("rows_in", count.clone()),
                    ("rows_out", count.clone()),
                    ("quarantined", count.clone()),
                    ("dropped", count.clone()),
                    ("spilled_bytes", count.clone()),
                    ("files", count.clone()),
                    ("planned_at", time.clone()),
                    ("committed_at", time.clone()),
                    ("undone", DataType::Boolean),
                ],
                flows,
            ),
        ),
        (
            "expectations",
            table(
                &[
                    ("dataset", text.clone()),
                    ("flow", text.clone()),
                    ("expectation", text.clone()),
                    ("rule", text.clone()),
                    ("action", text.clone()),
                    ("passed", count.clone()),
                    ("failed", count.clone()),
                    ("version", count.clone()),
                    ("epoch", count.clone()),
                    ("number", count.clone()),
                    ("committed_at", time.clone()),
                    ("undone", DataType::Boolean),
                ],
                expectations,
            ),
        ),
        (
            "rules",
            table(
                &[
                    ("dataset", text.clone()),
                    ("flow", text.clone()),
                    ("rule", text.clone()),
                    ("outcome", text.clone()),
                    ("value", DataType::Float64),
                    ("action", text.clone()),
                    ("version", count.clone()),
                    ("epoch", count.clone()),
                    ("number", count.clone()),
                    ("committed_at", time.clone()),
                    ("undone", DataType::Boolean),
                ],
                rules,
            ),
        ),
        (
            "queries",
            table(
                &[
                    ("asked_at", time.clone()),
                    ("query", text.clone()),
                    ("milliseconds", count.clone()),
                    ("rows", count.clone()),
                    ("table_name", text.clone()),
                    ("filters", text.clone()),
                    ("files_read", count.clone()),
                    ("files", count.clone()),
                    ("bytes_read", count.clone()),
                    ("bytes", count.clone()),
                ],
                queries,
            ),
        ),
        (
            "alerts",
            table(
                &[
                    ("alert", text.clone()),
                    ("id", text.clone()),
                    ("severity", text.clone()),
                    ("key", text.clone()),
                    ("row", text.clone()),
                    ("raised_at", time.clone()),
                    ("resolved_at", time.clone()),
                    ("repeats", count.clone()),
                ],
                alerts,
            ),
        ),
        (
            "notifications",
            table(
                &[
                    ("alert", text.clone()),
                    ("id", text.clone()),
                    ("target", text.clone()),
                    ("status", text.clone()),
                    ("attempts", count.clone()),
                    ("next_at", time.clone()),
                    ("settled_at", time.clone()),
                    ("error", text.clone()),
                ],
                notifications,
            ),
        ),
        (
            "lineage",
            table(
                &[
                    ("dataset", text.clone()),
                    ("version", count.clone()),
                    ("column_name", text.clone()),
                    ("input", text.clone()),
                    ("input_version", count),
                    ("input_column", text.clone()),
                    ("flow", text),
                ],
                lineage,
            ),
        ),
    ]
}

fn texts<T: Into<String>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.map(|value| value.map(Into::into)).collect::<StringArray>())
}

fn counts(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.collect::<UInt64Array>())
}

fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn runs(store: &dyn Store) -> Result<Vec<ArrayRef>> {
    let rows = store.runs(usize::MAX)?;
    Ok(vec![
        texts(rows.iter().map(|row| Some(row.id.as_str()))),
        texts(rows.iter().map(|row| Some(row.status.as_str()))),
        times(rows.iter().map(|row| Some(row.started_at))),
        times(rows.iter().map(|row| row.finished_at)),
        texts(rows.iter().map(|row| row.error.as_deref())),
    ])
}

fn datasets(store: &dyn Store) -> Result<Vec<ArrayRef>> {
    let rows = store.outcomes()?;
    Ok(vec![
        texts(rows.iter().map(|row| Some(row.run.as_str()))),
        texts(rows.iter().map(|row| Some(row.dataset.to_string()))),
        texts(rows.iter().map(|row| Some(row.status.as_str()))),
        counts(rows.iter().map(|row| Some(row.rows_in))),
        counts(rows.iter().map(|row| Some(row.rows_out))),
        counts(rows.iter().map(|row| Some(row.quarantined))),
        counts(rows.iter().map(|row| Some(row.dropped))),
        counts(rows.iter().map(|row| row.version)),
        counts(rows.iter().map(|row| Some(row.milliseconds))),
        texts(rows.iter().map(|row| row.error.as_deref())),
    ])
}

fn flows(store: &dyn Store) -> Result<Vec<ArrayRef>> {
    let rows = store.batches(usize::MAX)?;
    Ok(vec![
        texts(rows.iter().map(|row| Some(row.flow.as_str()))),
        texts(rows.iter().map(|row| Some(row.dataset.to_string()))),
        counts(rows.iter().map(|row| Some(u64::from(row.position.epoch)))),
        counts(rows.iter().map(|row| Some(row.position.number))),
        counts(rows.iter().map(|row| Some(row.version))),
        texts(rows.iter().map(|row| row.run.as_deref())),
        counts(rows.iter().map(|row| Some(row.rows_in))),
        counts(rows.iter().map(|row| Some(row.rows_out))),
        counts(rows.iter().map(|row| Some(row.quarantined))),
        counts(rows.iter().map(|row| Some(row.dropped))),
        counts(rows.iter().map(|row| Some(row.spilled_bytes))),
        counts(rows.iter().map(|row| Some(row.files))),
        times(rows.iter().map(|row| Some(row.planned_at))),
        times(rows.iter().map(|row| Some(row.committed_at))),
        Arc::new(rows.iter().map(|row| Some(row.undone)).collect::<BooleanArray>()),
    ])
}

fn expectations(store: &dyn Store) -> Result<Vec<ArrayRef>> {
    let batches = store.batches(usize::MAX)?;
    let rows: Vec<_> =
        batches.iter().flat_map(|batch| batch.expectations.iter().map(move |one| (batch, one))).collect();
    Ok(vec![
        texts(rows.iter().map(|(batch, _)| Some(batch.dataset.to_string()))),
        texts(rows.iter().map(|(batch, _)| Some(batch.flow.as_str()))),
        texts(rows.iter().map(|(_, one)| Some(one.name.as_str()))),
        texts(rows.iter().map(|(_, one)| Some(one.rule.as_str()))),
        texts(rows.iter().map(|(_, one)| Some(one.action.as_str()))),
        counts(rows.iter().map(|(_, one)| Some(one.passed))),
        counts(rows.iter().map(|(_, one)| Some(one.failed))),
        counts(rows.iter().map(|(batch, _)| Some(batch.version))),
        counts(rows.iter().map(|(batch, _)| Some(u64::from(batch.position.epoch)))),
        counts(rows.iter().map(|(batch, _)| Some(batch.position.number))),
        times(rows.iter().map(|(batch, _)| Some(batch.committed_at))),
        Arc::new(rows.iter().map(|(batch, _)| Some(batch.undone)).collect::<BooleanArray>()),
    ])
}

fn rules(store: &dyn Store) -> Result<Vec<ArrayRef>> {
    let batches = store.batches(usize::MAX)?;
    let rows: Vec<_> =
        batches.iter().flat_map(|batch| batch.rules.iter().map(move |rule| (batch, rule))).collect();
    let outcome = |passed| if passed { "passed" } else { "failed" };
    Ok(vec![
        texts(rows.iter().map(|(batch, _)| Some(batch.dataset.to_string()))),
        texts(rows.iter().map(|(batch, _)| Some(batch.flow.as_str()))),
        texts(rows.iter().map(|(_, rule)| Some(rule.rule.as_str()))),
        texts(rows.iter().map(|(_, rule)| Some(outcome(rule.passed)))),
        Arc::new(rows.iter().map(|(_, rule)| rule.value).collect::<Float64Array>()),
        texts(rows.iter().map(|(_, rule)| Some(rule.action.as_str()))),
        counts(rows.iter().map(|(batch, _)| Some(batch.version))),
        counts(rows.iter().map(|(batch, _)| Some(u64::from(batch.position.epoch)))),
        counts(rows.iter().map(|(batch, _)| Some(batch.position.number))),
        times(rows.iter().map(|(batch, _)| Some(batch.committed_at))),
        Arc::new(rows.iter().map(|(batch, _)| Some(batch.undone)).collect::<BooleanArray>()),
    ])
}

fn queries(store: &dyn Store) -> Result<Vec<ArrayRef>> {
    let queries = store.queries(usize::MAX)?;
    let rows: Vec<_> =
        queries.iter().flat_map(|query| query.scans.iter().map(move |scan| (query, scan))).collect();
    Ok(vec![
        times(rows.iter().map(|(query, _)| Some(query.asked_at))),
        texts(rows.iter().map(|(query, _)| Some(query.query.as_str()))),
        counts(rows.iter().map(|(query, _)| Some(query.milliseconds))),
        counts(rows.iter().map(|(query, _)| Some(query.rows))),
        texts(rows.iter().map(|(_, scan)| Some(scan.table.to_string()))),
        texts(rows.iter().map(|(_, scan)| Some(scan.filters.join(", ")))),
        counts(rows.iter().map(|(_, scan)| Some(scan.files.0))),
        counts(rows.iter().map(|(_, scan)| Some(scan.files.1))),
        counts(rows.iter().map(|(_, scan)| Some(scan.bytes.0))),
        counts(rows.iter().map(|(_, scan)| Some(scan.bytes.1))),
    ])
}

fn alerts(store: &dyn Store) -> Result<Vec<ArrayRef>> {
    let rows = store.alerts()?;
    Ok(vec![
        texts(rows.iter().map(|row| Some(row.alert.as_str()))),
        texts(rows.iter().map(|row| Some(row.id.as_str()))),
        texts(rows.iter().map(|row| Some(row.severity.as_str()))),
        texts(rows.iter().map(|row| Some(row.key.as_str()))),
        texts(rows.iter().map(|row| Some(row.record.as_str()))),
        times(rows.iter().map(|row| Some(row.raised_at))),
        times(rows.iter().map(|row| row.resolved_at)),
        counts(rows.iter().map(|row| Some(row.repeats))),
    ])
}

fn notifications(store: &dyn Store) -> Result<Vec<ArrayRef>> {
    let rows = store.notifications()?;
    let is_waiting = |row: &&Notification| row.status == NotificationStatus::Waiting;
    Ok(vec![
        texts(rows.iter().map(|row| Some(row.alert.alert.as_str()))),
        texts(rows.iter().map(|row| Some(row.alert.id.as_str()))),
        texts(rows.iter().map(|row| Some(row.target.as_str()))),
        texts(rows.iter().map(|row| Some(row.status.as_str()))),
        counts(rows.iter().map(|row| Some(u64::from(row.attempts)))),
        times(rows.iter().map(|row| Some(row).filter(is_waiting).map(|row| row.next_at))),
        times(rows.iter().map(|row| row.settled_at)),
        texts(rows.iter().map(|row| row.error.as_deref())),
    ])
}

fn lineage(store: &dyn Store) -> Result<Vec<ArrayRef>> {
    let rows = store.lineage()?;
    Ok(vec![
        texts(rows.iter().map(|row| Some(row.dataset.to_string()))),
        counts(rows.iter().map(|row| Some(row.version))),
        texts(rows.iter().map(|row| row.column.as_deref())),
        texts(rows.iter().map(|row| Some(row.input.as_str()))),
        counts(rows.iter().map(|row| row.input_version)),
        texts(rows.iter().map(|row| row.input_column.as_deref())),
        texts(rows.iter().map(|row| Some(row.flow.as_str()))),
    ])
}
