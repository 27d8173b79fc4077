//! Leaves rows out that have no time for their window, or one too far ahead: a table that is not in the lake has no quarantine
//! for them, so they are counted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use catchment_core::Result;
use catchment_sql::{query_error, windowed_scans};
use datafusion::arrow::array::{Array, BooleanArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, Result as EngineResult};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Volatility, create_udf,
};

use crate::within::micros;

/// The plan over rows of streams, by their keys, whose time is known and at most `latest`, in microseconds; and how many others
/// it has met when it has run.
pub(crate) fn timely_rows(
    plan: LogicalPlan,
    streams: &BTreeSet<&str>,
    latest: i64,
) -> Result<(LogicalPlan, Arc<AtomicU64>)> {
    let refused = Arc::new(AtomicU64::new(0));
    let scans = windowed_scans(&plan);
    let plan = plan.transform_up(|node| {
        let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
        let Some(windows) = scans.get(scan.table_name.table()) else { return Ok(Transformed::no(node)) };
        if !streams.contains(scan.table_name.table()) {
            return Ok(Transformed::no(node));
        }
        let name = scan.table_name.clone();
        let mut times: Vec<&Expr> = windows.iter().map(|window| &window.time).collect();
        times.dedup();
        let mut rows = LogicalPlanBuilder::from(node);
        for time in times {
            let of_scan = time.clone().transform(|part| {
                Ok(match part {
                    Expr::Column(column) => {
                        Transformed::yes(Expr::Column(Column::new(Some(name.clone()), column.name)))
                    }
                    other => Transformed::no(other),
                })
            })?;
            let kind = of_scan.data.get_type(rows.schema())?;
            rows = rows.filter(is_timely(kind, latest, &refused).call(vec![of_scan.data]))?;
        }
        Ok(Transformed::yes(rows.build()?))
    });
    Ok((plan.map_err(query_error)?.data, refused))
}

/// A function that tells whether a row's time is known and at most `latest`, and counts those of which it is not.
fn is_timely(kind: DataType, latest: i64, refused: &Arc<AtomicU64>) -> datafusion::logical_expr::ScalarUDF {
    let refused = Arc::clone(refused);
    let judge = move |arguments: &[ColumnarValue]| -> EngineResult<ColumnarValue> {
        let times = ColumnarValue::values_to_arrays(arguments)?.remove(0);
        let times = micros(&times).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let timely: BooleanArray =
            (0..times.len()).map(|row| Some(times.is_valid(row) && times.value(row) <= latest)).collect();
        refused.fetch_add((timely.len() - timely.true_count()) as u64, Ordering::Relaxed);
        Ok(ColumnarValue::Array(Arc::new(timely)))
    };
    // Each call counts, so none may be left out or made twice.
    create_udf("__timely", vec![kind], DataType::Boolean, Volatility::Volatile, Arc::new(judge))
}
