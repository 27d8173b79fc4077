//! Holds each row to the conditions of a dataset.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_sql::Planner;
use datafusion::arrow::array::{Array, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::PhysicalExpr;

use crate::expectation::{Action, Expectation, Rule};

/// The most expectations of one dataset: the rules that a row breaks are bits of one number, whose last bit is
/// kept for other uses.
pub const MOST_RULES: usize = 63;

/// The conditions of a dataset, ready to be evaluated.
#[derive(Debug, Clone)]
pub struct RowRules {
    conditions: Vec<(usize, Action, Arc<dyn PhysicalExpr>)>,
}

/// What the rules say about the rows of one batch.
#[derive(Debug)]
pub struct Verdict {
    /// The rows that stay: all rules they break only warn.
    pub kept: BooleanArray,
    /// For each rule with a condition, its index and the rows that hold.
    holds: Vec<(usize, BooleanBuffer)>,
}

impl RowRules {
    /// Plans the conditions over rows of a schema.
    ///
    /// # Errors
    /// Returns errors of names and types, each with its place.
    pub fn plan(planner: &Planner, expectations: &[Expectation], schema: &SchemaRef) -> Result<Self> {
        let mut conditions = Vec::new();
        let mut errors = Vec::new();
        for (index, expectation) in expectations.iter().enumerate() {
            let Rule::Condition(condition) = &expectation.rule else { continue };
            match planner.condition(&condition.text, &condition.expr, condition.span, schema) {
                Ok(expr) => conditions.push((index, expectation.action, expr)),
                Err(error) => errors.extend(error.split()),
            }
        }
        Error::join(errors)?;
        Ok(Self { conditions })
    }

    /// Whether there is nothing to evaluate.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Evaluates all rules on all rows.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when a rule gives something that is no boolean.
    pub fn evaluate(&self, rows: &RecordBatch) -> Result<Verdict> {
        let mut kept = BooleanBuffer::new_set(rows.num_rows());
        let mut holds = Vec::with_capacity(self.conditions.len());
        for (index, action, expr) in &self.conditions {
            let held = hold(expr.as_ref(), rows)?;
            if *action != Action::Warn {
                kept = &kept & &held;
            }
            holds.push((*index, held));
        }
        Ok(Verdict { kept: BooleanArray::new(kept, None), holds })
    }
}

impl Verdict {
    /// For each rule with a condition, its index and how many rows break it.
    pub fn broken_counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.holds.iter().map(|(index, held)| (*index, (held.len() - held.count_set_bits()) as u64))
    }

    /// The rules that a row breaks, as bits.
    #[must_use]
    pub fn broken_by(&self, row: usize) -> u64 {
        self.holds.iter().filter(|(_, held)| !held.value(row)).fold(0, |bits, (index, _)| bits | 1 << index)
    }
}

/// The rows for which a condition is true. When it fails with an error for some row, the rows are
/// halved until that row is alone, so that it takes no other down.
pub(crate) fn hold(expr: &dyn PhysicalExpr, rows: &RecordBatch) -> Result<BooleanBuffer> {
    let count = rows.num_rows();
    let evaluated = expr.evaluate(rows).and_then(|value| value.into_array(count));
    match evaluated {
        Ok(array) => {
            let Some(values) = array.as_boolean_opt() else {
                return Err(Error::new(
                    Code::INTERNAL,
                    format!("an expectation gives {}, not a boolean", array.data_type()),
                ));
            };
            Ok(match values.nulls() {
                Some(nulls) => values.values() & nulls.inner(),
                None => values.values().clone(),
            })
        }
        Err(_) if count <= 1 => Ok(BooleanBuffer::new_unset(count)),
        Err(_) => {
            let half = count / 2;
            let mut joined = BooleanBufferBuilder::new(count);
            joined.append_buffer(&hold(expr, &rows.slice(0, half))?);
            joined.append_buffer(&hold(expr, &rows.slice(half, count - half))?);
            Ok(joined.finish())
        }
    }
}
