//! Joins of two streams within a stretch of time: `a JOIN b ON a.k = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '1' HOUR`.
//!
//! A pair of rows belongs to the batch in which the watermark passes the later one of them. Both are there then: one that comes
//! before the watermark is late, and the earlier one waits for as long as a row may come that it meets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::functions::core::expr_fn::greatest;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Between, BinaryExpr, Expr, ExprSchemable, Filter, Join, JoinType, LogicalPlan, Operator, lit,
};
use datafusion::scalar::ScalarValue;

use super::WindowShape;
use super::functions::{Closed, closed_function, shift_function};
use super::trace::{WindowedScan, resolve, window_shapes};

/// How the rows of two streams meet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Meeting {
    /// The times, over the columns of the left and of the right side.
    times: (Column, Column),
    /// How far behind a row its partner may be at most: of the left side's, and of the right side's.
    after: (i64, i64),
}

/// Lets each pair of a join of two streams through in the batch that it belongs to. Other plans are returned as they are.
///
/// # Errors
/// Returns [`Code::INTERNAL`] when the plan cannot be made.
pub fn with_meetings(plan: LogicalPlan, streams: &BTreeSet<String>, closed: Closed) -> Result<LogicalPlan> {
    let failed = |error: DataFusionError| {
        Error::new(Code::INTERNAL, "could not plan a join of streams").because(error)
    };
    let plan = plan.transform_up(|node| Ok(Transformed::yes(merged(node, streams))));
    let plan = plan.map_err(failed)?.data;
    plan.transform_up(|node| {
        let LogicalPlan::Join(join) = &node else { return Ok(Transformed::no(node)) };
        let Some(meeting) = meeting(join, streams) else { return Ok(Transformed::no(node)) };
        let (left, right) = (Expr::Column(meeting.times.0), Expr::Column(meeting.times.1));
        // The end of what a pair waits for: the first moment behind the later row.
        let later = call(shift_function(), vec![greatest(vec![left, right]), lit(1_i64)]);
        let closed = call(closed_function(closed), vec![later]);
        Filter::try_new(closed, node.into()).map(|filter| Transformed::yes(LogicalPlan::Filter(filter)))
    })
    .map(|plan| plan.data)
    .map_err(failed)
}

fn call(function: Arc<datafusion::logical_expr::ScalarUDF>, args: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(function, args))
}

/// A condition above a join of two streams belongs to the join.
fn merged(node: LogicalPlan, streams: &BTreeSet<String>) -> LogicalPlan {
    let LogicalPlan::Filter(filter) = &node else { return node };
    let LogicalPlan::Join(join) = filter.input.as_ref() else { return node };
    let is_plain = join.join_type == JoinType::Inner && meeting(join, streams).is_none();
    if !is_plain || streams_of(&join.left, streams).is_empty() || streams_of(&join.right, streams).is_empty()
    {
        return node;
    }
    let mut join = join.clone();
    let conditions = join.filter.into_iter().chain([filter.predicate.clone()]);
    join.filter = conjunction(conditions);
    match meeting(&join, streams) {
        Some(_) => LogicalPlan::Join(join),
        None => node,
    }
}

/// The streams that a plan reads.
fn streams_of(plan: &LogicalPlan, streams: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // The walk cannot fail.
    let _ = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            found.extend(streams.get(scan.table_name.table()).cloned());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// How the rows of a join meet, when both sides are rows of one stream each and their times bound each other.
pub(crate) fn meeting(join: &Join, streams: &BTreeSet<String>) -> Option<Meeting> {
    // Rows of windows meet those of the same window, whatever their times.
    let one = |plan: &LogicalPlan| streams_of(plan, streams).len() == 1 && window_shapes(plan).is_empty();
    if join.join_type != JoinType::Inner || !one(&join.left) || !one(&join.right) {
        return None;
    }
    let mut bounds: BTreeMap<(Column, Column), (Option<i64>, Option<i64>)> = BTreeMap::new();
    let (left, right) = (join.left.schema().as_ref(), join.right.schema().as_ref());
    let schema = join.schema.as_ref();
    let equalities = join.on.iter().map(|(a, b)| (a.clone(), Operator::Eq, b.clone()));
    let of_filter = join.filter.iter().flat_map(split_conjunction).flat_map(comparisons);
    for (a, operator, b) in equalities.chain(of_filter) {
        let (Some(a), Some(b)) = (moved(&a, schema), moved(&b, schema)) else { continue };
        // `earlier + its offset` is not behind `later + its offset`.
        let mut not_behind = |earlier: &(Column, i64), later: &(Column, i64)| {
            let apart = later.1.saturating_sub(earlier.1);
            if is_of(left, &earlier.0) && is_of(right, &later.0) {
                // How far the left row may be behind the right one.
                let known = bounds.entry((earlier.0.clone(), later.0.clone())).or_default();
                known.1 = Some(known.1.map_or(apart, |known| known.min(apart)));
            } else if is_of(right, &earlier.0) && is_of(left, &later.0) {
                let known = bounds.entry((later.0.clone(), earlier.0.clone())).or_default();
                known.0 = Some(known.0.map_or(apart, |known| known.min(apart)));
            }
        };
        match operator {
            Operator::Lt | Operator::LtEq => not_behind(&a, &b),
            Operator::Gt | Operator::GtEq => not_behind(&b, &a),
            Operator::Eq => {
                not_behind(&a, &b);
                not_behind(&b, &a);
            }
            _ => {}
        }
    }
    let is_time = |plan: &LogicalPlan, column: &Column| {
        let resolved = resolve(Expr::Column(column.clone()), plan);
        resolved.is_some_and(|(key, _)| streams.contains(&key))
    };
    let bounded = bounds.into_iter().filter_map(|(times, after)| {
        let meeting = Meeting { times, after: (after.0?.max(0), after.1?.max(0)) };
        let is_of_streams = is_time(&join.left, &meeting.times.0) && is_time(&join.right, &meeting.times.1);
        is_of_streams.then_some(meeting)
    });
    let mut bounded: Vec<Meeting> = bounded.collect();
    // Of several times, those that are equal are keys.
    bounded.sort_by_key(|meeting| meeting.after == (0, 0));
    bounded.into_iter().next()
}

/// Whether a time is a column of a schema.
fn is_of(schema: &DFSchema, column: &Column) -> bool {
    let index = schema.maybe_index_of_column(column);
    let is_time =
        |kind: &DataType| matches!(kind, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    index.is_some_and(|index| is_time(schema.field(index).data_type()))
}

/// The comparisons that a condition consists of.
fn comparisons(condition: &Expr) -> Vec<(Expr, Operator, Expr)> {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            vec![(left.as_ref().clone(), *op, right.as_ref().clone())]
        }
        Expr::Between(Between { expr, negated: false, low, high }) => vec![
            (expr.as_ref().clone(), Operator::GtEq, low.as_ref().clone()),
            (expr.as_ref().clone(), Operator::LtEq, high.as_ref().clone()),
        ],
        _ => Vec::new(),
    }
}

/// A column and how many microseconds it is moved by, when an expression is that and nothing else.
fn moved(expr: &Expr, schema: &DFSchema) -> Option<(Column, i64)> {
    match expr {
        Expr::Column(column) => Some((column.clone(), 0)),
        Expr::Alias(alias) => moved(&alias.expr, schema),
        Expr::Cast(cast) if keeps_time(&cast.expr.get_type(schema).ok()?, cast.field.data_type()) => {
            moved(&cast.expr, schema)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let by = |expr: &Expr| match expr {
                Expr::Literal(value, _) => length(value),
                _ => None,
            };
            match op {
                Operator::Plus => match (moved(left, schema), by(right)) {
                    (Some((column, known)), Some(by)) => Some((column, known.checked_add(by)?)),
                    _ => moved(right, schema)
                        .zip(by(left))
                        .map(|((column, known), by)| (column, known.saturating_add(by))),
                },
                Operator::Minus => {
                    let (column, known) = moved(left, schema)?;
                    Some((column, known.checked_sub(by(right)?)?))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a time is the same one when it was cast: neither rounded nor in another zone.
fn keeps_time(from: &DataType, to: &DataType) -> bool {
    let zone = |zone: &Option<Arc<str>>| zone.as_deref().is_none_or(|zone| zone == "UTC" || zone == "+00:00");
    match (from, to) {
        (DataType::Timestamp(_, a), DataType::Timestamp(unit, b)) => {
            matches!(unit, TimeUnit::Microsecond | TimeUnit::Nanosecond) && (a == b || zone(a) && zone(b))
        }
        _ => false,
    }
}

/// An interval of fixed length, in microseconds; one that is finer is longer by the rest.
fn length(value: &ScalarValue) -> Option<i64> {
    const DAY: i64 = 86_400_000_000;
    match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 => {
            i64::from(interval.days).checked_mul(DAY)?.checked_add(interval.nanoseconds.div_euclid(1_000))
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            i64::from(interval.days).checked_mul(DAY)?.checked_add(i64::from(interval.milliseconds) * 1_000)
        }
        _ => None,
    }
}

/// The streams whose rows wait for those of another, by their keys.
#[must_use]
pub fn meeting_scans(plan: &LogicalPlan, streams: &BTreeSet<String>) -> BTreeMap<String, Vec<WindowedScan>> {
    let mut found: BTreeMap<String, Vec<WindowedScan>> = BTreeMap::new();
    // The walk cannot fail.
    let _ = plan.apply(|node| {
        if let LogicalPlan::Join(join) = node
            && let Some(meeting) = meeting(join, streams)
        {
            let sides = [
                (&join.left, meeting.times.0, meeting.after.0),
                (&join.right, meeting.times.1, meeting.after.1),
            ];
            for (side, column, after) in sides {
                if let Some((key, time)) = resolve(Expr::Column(column), side) {
                    let shape = WindowShape::Meeting { after };
                    found.entry(key).or_default().push(WindowedScan { time, shape });
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// Whether a join is one of two streams whose rows meet within a stretch of time.
#[must_use]
pub fn is_meeting(join: &Join, streams: &BTreeSet<String>) -> bool {
    meeting(join, streams).is_some()
}
