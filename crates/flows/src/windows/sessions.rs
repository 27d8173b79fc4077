//! Where the oldest session begins that is open after a batch: no row before it is needed any more.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_sql::{Closed, Planner, WINDOW_END, WINDOW_START, query_error, session_rows};
use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::functions_aggregate::expr_fn::min;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use futures::TryStreamExt;

use crate::within::micros;

/// The beginning of the oldest open session of a query that is about to run, in microseconds. All rows may be needed when
/// no window closes, and none when no session is open.
pub(crate) async fn oldest_open(planner: &Planner, plan: &LogicalPlan, closed: Closed) -> Result<i64> {
    if closed.until <= closed.behind {
        return Ok(i64::MIN);
    }
    let mut oldest = i64::MAX;
    for rows in session_rows(plan) {
        let column = |name: &str| -> Result<(Expr, ScalarValue)> {
            let index = rows.schema().index_of_column_by_name(None, name).ok_or_else(lost)?;
            let (qualifier, field) = rows.schema().qualified_field(index);
            // The same instant, whatever zone the column is in.
            let zone = match field.data_type() {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            let until = ScalarValue::TimestampMicrosecond(Some(closed.until), zone);
            Ok((Expr::Column(Column::new(qualifier.cloned(), field.name())), until))
        };
        let ((start, _), (end, until)) = (column(WINDOW_START)?, column(WINDOW_END)?);
        let question = LogicalPlanBuilder::from(rows.clone())
            .filter(end.gt(lit(until)))
            .and_then(|open| open.aggregate(Vec::<Expr>::new(), vec![min(start)]))
            .and_then(LogicalPlanBuilder::build)
            .map_err(query_error)?;
        let mut answer = planner.run(planner.physical(&question).await?)?;
        while let Some(batch) = answer.try_next().await.map_err(query_error)? {
            let begins: &ArrayRef = batch.column(0);
            if begins.is_valid(0) {
                oldest = oldest.min(micros(&Arc::clone(begins))?.value(0));
            }
        }
    }
    Ok(oldest)
}

fn lost() -> Error {
    Error::new(Code::INTERNAL, "sessions have no bounds")
}
