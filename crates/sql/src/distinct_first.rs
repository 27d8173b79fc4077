//! Exact distinct counts beside other aggregates: rows are grouped by the counted value first, then the groups are counted.
//!
//! The engine does this only where nothing but distinct aggregates stand. Otherwise it keeps a set for each group: for
//! 10 million events in one-minute windows, 45 CPU seconds and 2.8 GB instead of 17 and 0.85 GB (measured). Grouped rows
//! also spill.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_aggregate::expr_fn::{count, max, min, sum};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, Projection, lit};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// The counted value, as a column of the inner groups.
const VALUE: &str = "__distinct_value";

/// The rule; see the head of this file.
#[derive(Debug, Default)]
pub(crate) struct DistinctFirst;

impl OptimizerRule for DistinctFirst {
    fn name(&self) -> &str {
        "distinct_first"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Aggregate(aggregate) => match grouped(aggregate)? {
                Some(grouped) => Ok(Transformed::yes(grouped)),
                None => Ok(Transformed::no(plan)),
            },
            _ => Ok(Transformed::no(plan)),
        }
    }
}

/// An aggregate that can be computed from groups of groups.
enum Part {
    /// A distinct count of this value.
    Distinct(Expr),
    /// What is computed within the inner groups, and how these are put together.
    Other(Expr, fn(Expr) -> Expr),
}

/// The sum of counts, which is never null: an outer group has an inner one.
fn sum_of_counts(counts: Expr) -> Expr {
    sum(counts)
}

fn part(expr: &Expr, input: &LogicalPlan) -> Option<Part> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias() else {
        return None;
    };
    let [value] = params.args.as_slice() else { return None };
    if params.filter.is_some() || !params.order_by.is_empty() || params.null_treatment.is_some() {
        return None;
    }
    if params.distinct {
        let counts = func.name() == "count" && !matches!(value, Expr::Literal(..));
        return counts.then(|| Part::Distinct(value.clone()));
    }
    let inner = expr.clone().unalias();
    match func.name() {
        "count" => Some(Part::Other(inner, sum_of_counts)),
        "min" => Some(Part::Other(inner, min)),
        "max" => Some(Part::Other(inner, max)),
        // Sums of these have the type of what they sum, however often.
        "sum" => match inner.get_type(input.schema()).ok()? {
            DataType::Int64 | DataType::UInt64 | DataType::Float64 => Some(Part::Other(inner, sum)),
            _ => None,
        },
        _ => None,
    }
}

fn grouped(aggregate: &Aggregate) -> Result<Option<LogicalPlan>> {
    let keys = aggregate.group_expr.len();
    if keys == 0 || aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
        return Ok(None);
    }
    let parts: Option<Vec<Part>> =
        aggregate.aggr_expr.iter().map(|expr| part(expr, &aggregate.input)).collect();
    let Some(parts) = parts else { return Ok(None) };
    let mut values = parts.iter().filter_map(|part| match part {
        Part::Distinct(value) => Some(value),
        Part::Other(..) => None,
    });
    let Some(value) = values.next().cloned() else { return Ok(None) };
    // Several values would need several groupings; without others the engine has a rule of its own.
    if values.any(|other| *other != value) || parts.iter().all(|part| matches!(part, Part::Distinct(_))) {
        return Ok(None);
    }

    let mut groups = aggregate.group_expr.clone();
    groups.push(value.alias(VALUE));
    let name = |index: usize| format!("__distinct_part_{index}");
    let inner_parts = parts.iter().enumerate().filter_map(|(index, part)| match part {
        Part::Distinct(_) => None,
        Part::Other(inner, _) => Some(inner.clone().alias(name(index))),
    });
    let inner = Aggregate::try_new(Arc::clone(&aggregate.input), groups, inner_parts.collect())?;

    let group_columns: Vec<Expr> =
        (0..keys).map(|index| Expr::Column(Column::from(inner.schema.qualified_field(index)))).collect();
    let outer_parts = parts.iter().enumerate().map(|(index, part)| match part {
        Part::Distinct(_) => count(Expr::Column(Column::new_unqualified(VALUE))).alias(name(index)),
        Part::Other(_, outer) => outer(Expr::Column(Column::new_unqualified(name(index)))).alias(name(index)),
    });
    let outer_parts = outer_parts.collect();
    let outer =
        Aggregate::try_new(Arc::new(LogicalPlan::Aggregate(inner)), group_columns.clone(), outer_parts)?;

    let mut results = group_columns;
    for (index, part) in parts.iter().enumerate() {
        let column = Expr::Column(Column::new_unqualified(name(index)));
        let is_count =
            matches!(part, Part::Other(Expr::AggregateFunction(of), _) if of.func.name() == "count");
        let result = if is_count { coalesce(vec![column, lit(0_i64)]) } else { column };
        let (qualifier, field) = aggregate.schema.qualified_field(keys + index);
        results.push(result.alias_qualified(qualifier.cloned(), field.name()));
    }
    Projection::try_new(results, Arc::new(LogicalPlan::Aggregate(outer)))
        .map(|projection| Some(LogicalPlan::Projection(projection)))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::physical_plan::displayable;

    use crate::tests::{plan, planner, rows};

    #[tokio::test]
    async fn distinct_counts_beside_others_are_what_they_were() {
        let values = "(VALUES ('a', 1, 2.5), ('a', 1, 1.5), ('a', NULL, 4), ('b', NULL, 1), ('b', 3, NULL), ('b', 4, 2)) AS t(k, x, y)";
        let wanted = format!(
            "SELECT k, (SELECT count(DISTINCT x) FROM {values} WHERE t.k = o.k) AS u, n, m, s, least, most
             FROM (SELECT k, count(*) AS n, count(y) AS m, sum(x) AS s, min(y) AS least, max(x) AS most FROM {values} GROUP BY k) o ORDER BY k"
        );
        let mixed = format!(
            "SELECT k, count(DISTINCT x) AS u, count(*) AS n, count(y) AS m, sum(x) AS s, min(y) AS least, max(x) AS most
             FROM {values} GROUP BY k HAVING count(DISTINCT x) < 10 ORDER BY k"
        );
        let text = |batches: &[_]| pretty_format_batches(batches).unwrap().to_string();
        let found = text(&rows(&planner(1), &mixed).await);
        assert_eq!(found, text(&rows(&planner(1), &wanted).await));
        assert_eq!(found.lines().count(), 6, "{found}");
    }

    #[tokio::test]
    async fn rows_are_grouped_by_the_counted_value_first_where_that_is_right() {
        for (sql, first) in [
            ("SELECT name, count(DISTINCT id) AS u, count(*) AS n FROM t GROUP BY name", true),
            ("SELECT name, count(DISTINCT id) AS u, avg(amount) AS n FROM t GROUP BY name", false),
            (
                "SELECT name, count(DISTINCT id) FILTER (WHERE id > 1) AS u, count(*) AS n FROM t GROUP BY name",
                false,
            ),
            ("SELECT name, count(DISTINCT id) AS u, count(DISTINCT amount) AS n FROM t GROUP BY name", false),
            ("SELECT count(DISTINCT id) AS u, count(*) AS n FROM t", false),
            ("SELECT name, count(DISTINCT id) AS u, count(*) AS n FROM t GROUP BY ROLLUP (name)", false),
        ] {
            let planner = planner(1);
            let physical = planner.physical(&plan(&planner, sql).await.unwrap()).await.unwrap();
            let shown = displayable(physical.as_ref()).indent(false).to_string();
            assert_eq!(shown.contains("__distinct_value"), first, "{sql}\n{shown}");
        }
    }
}
