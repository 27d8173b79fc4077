//! The times of rows and the windows that they are in.

use std::sync::Arc;

use catchment_core::Result;
use catchment_sql::{Planner, WindowShape, query_error};
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::physical_plan::PhysicalExpr;

use super::EventTime;
use super::state::Run;
use crate::spec::{FlowSpec, InputKind};
use crate::within::micros;

impl EventTime {
    /// The columns that are held back, as a schema in the order of the input's own.
    pub(crate) fn schema(&self, of: &SchemaRef) -> SchemaRef {
        let fields = of.fields().iter().filter(|field| self.columns.contains(field.name()));
        Arc::new(Schema::new(fields.cloned().collect::<Vec<Arc<Field>>>()))
    }

    /// The columns that are held back, with their types as text.
    pub(crate) fn typed_columns(&self, spec: &FlowSpec, input: &str) -> Vec<(String, String)> {
        let source = spec.inputs.iter().find_map(|known| match &known.kind {
            InputKind::Stream(source, _) if known.name == input => Some(source.schema()),
            _ => None,
        });
        let schema = source.map(|schema| self.schema(&schema)).unwrap_or_else(|| Arc::new(Schema::empty()));
        schema.fields().iter().map(|field| (field.name().clone(), field.data_type().to_string())).collect()
    }
}

/// Computes the times of rows.
#[derive(Debug, Clone)]
pub(super) struct RowTimes {
    time: Arc<dyn PhysicalExpr>,
    shape: WindowShape,
}

impl RowTimes {
    /// Plans it over rows with the columns of a schema.
    pub(super) fn plan(planner: &Planner, event_time: &EventTime, schema: &SchemaRef) -> Result<Self> {
        Ok(Self { time: planner.physical_expression(&event_time.time, schema)?, shape: event_time.shape })
    }

    /// The time of each row in microseconds, null where it has none.
    pub(super) fn times(&self, rows: &RecordBatch) -> Result<Int64Array> {
        let values = self
            .time
            .evaluate(rows)
            .and_then(|value| value.into_array(rows.num_rows()))
            .map_err(query_error)?;
        micros(&values)
    }

    /// Whether an event comes too late.
    pub(super) fn is_late(&self, time: i64, watermark: Option<i64>) -> bool {
        watermark.is_some_and(|watermark| self.shape.is_late(time, watermark))
    }

    /// Whether a row, by the end of its last window, or a file, by the greatest of its rows', is in a window that is open. Where
    /// that depends on other rows, it may be.
    pub(super) fn may_be_open(&self, last: i64, watermark: Option<i64>) -> bool {
        self.is_of_others() || watermark.is_none_or(|watermark| last > watermark)
    }

    /// Whether which rows are in a window is known only from other rows.
    pub(super) fn is_of_others(&self) -> bool {
        self.shape.is_of_others()
    }

    /// How many windows are open that rows of some files lie in, by their times.
    pub(super) fn open_windows(&self, runs: &[Run], watermark: Option<i64>) -> Option<u64> {
        let step = match self.shape {
            WindowShape::Tumble { size: step, .. }
            | WindowShape::Hop { slide: step, .. }
            | WindowShape::Cumulate { step, .. } => step,
            WindowShape::Session { .. } | WindowShape::Stagger { .. } | WindowShape::Meeting { .. } => {
                return None;
            }
        };
        let Some(first) = runs.iter().map(|run| run.first_end).min() else { return Some(0) };
        let last = runs.iter().map(|run| run.last_end).max().unwrap_or(first);
        // The first end behind the watermark: those before are closed.
        let closed = watermark.filter(|watermark| *watermark >= first);
        let closed = closed.map_or(0, |watermark| watermark.saturating_sub(first) / step + 1);
        let all = last.saturating_sub(first) / step + 1;
        u64::try_from(all - closed).ok()
    }

    /// The ends of the first and of the last window of each row.
    pub(super) fn ends(&self, times: &Int64Array) -> (Int64Array, Int64Array) {
        let first = times.unary(|time| self.shape.ends(time).0);
        let last = times.unary(|time| self.shape.ends(time).1);
        (first, last)
    }
}
