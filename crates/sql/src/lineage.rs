//! Where the columns of a query come from, read off its logical plan.

use std::collections::BTreeSet;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Distinct, Expr, JoinType, LogicalPlan};

/// A column of a relation: the relation's key and the column's name.
pub type Origin = (String, String);

/// For each column of the plan, in order, the columns of relations that its value is computed from.
///
/// Columns that only decide whether a row is there (filters, join keys, groups) are not origins of others.
#[must_use]
pub fn column_origins(plan: &LogicalPlan) -> Vec<(String, BTreeSet<Origin>)> {
    plan.schema()
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| (field.name().clone(), trace(plan, index, 0)))
        .collect()
}

/// The columns of the plan whose values are those of a relation's column as they are, row by row.
#[must_use]
pub fn kept_columns(plan: &LogicalPlan) -> Vec<(String, Origin)> {
    let fields = plan.schema().fields().iter().enumerate();
    fields.filter_map(|(index, field)| Some((field.name().clone(), kept(plan, index, 0)?))).collect()
}

/// The columns of relations that conditions of the plan look at as they are.
#[must_use]
pub fn filtered_columns(plan: &LogicalPlan) -> BTreeSet<Origin> {
    let mut found = BTreeSet::new();
    // Filters of subqueries count, too. The walk cannot fail.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Filter(filter) = node {
            let schema: &DFSchema = filter.input.schema();
            let columns = filter.predicate.column_refs();
            let indexes = columns.into_iter().filter_map(|column| schema.maybe_index_of_column(column));
            found.extend(indexes.filter_map(|index| kept(&filter.input, index, 0)));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn kept(plan: &LogicalPlan, index: usize, depth: usize) -> Option<Origin> {
    if depth > DEPTH {
        return None;
    }
    let next = depth + 1;
    match plan {
        LogicalPlan::Projection(node) => match node.expr.get(index)?.clone().unalias() {
            Expr::Column(column) => {
                let schema: &DFSchema = node.input.schema();
                kept(&node.input, schema.maybe_index_of_column(&column)?, next)
            }
            _ => None,
        },
        LogicalPlan::Join(_) | LogicalPlan::TableScan(_) => match trace_side(plan, index) {
            Some((side, index)) => kept(side, index, next),
            None => trace(plan, index, next).into_iter().next(),
        },
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::SubqueryAlias(_) => kept(plan.inputs().first()?, index, next),
        _ => None,
    }
}

/// The input of a join that a column comes from, and its index there.
fn trace_side(plan: &LogicalPlan, index: usize) -> Option<(&LogicalPlan, usize)> {
    let LogicalPlan::Join(node) = plan else { return None };
    let left = node.left.schema().fields().len();
    Some(match node.join_type {
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => (node.right.as_ref(), index),
        _ if index < left => (node.left.as_ref(), index),
        _ => (node.right.as_ref(), index - left),
    })
}

/// Plans nest less deeply than this; deeper ones lose lineage rather than the stack.
const DEPTH: usize = 512;

fn trace(plan: &LogicalPlan, index: usize, depth: usize) -> BTreeSet<Origin> {
    if depth > DEPTH {
        return BTreeSet::new();
    }
    let next = depth + 1;
    match plan {
        LogicalPlan::Projection(node) => of_expr(node.expr.get(index), &node.input, next),
        LogicalPlan::Aggregate(node) => {
            let groups = grouping_set_to_exprlist(&node.group_expr).unwrap_or_default();
            let expr = groups.get(index).copied().or_else(|| {
                let internal =
                    usize::from(plan.schema().fields().len() > groups.len() + node.aggr_expr.len());
                node.aggr_expr.get(index.checked_sub(groups.len() + internal)?)
            });
            of_expr(expr, &node.input, next)
        }
        LogicalPlan::Window(node) => {
            let width = node.input.schema().fields().len();
            match index.checked_sub(width) {
                None => trace(&node.input, index, next),
                Some(window) => of_expr(node.window_expr.get(window), &node.input, next),
            }
        }
        LogicalPlan::Join(_) => {
            trace_side(plan, index).map(|(side, index)| trace(side, index, next)).unwrap_or_default()
        }
        LogicalPlan::Union(node) => node.inputs.iter().flat_map(|input| trace(input, index, next)).collect(),
        LogicalPlan::Unnest(node) => match node.dependency_indices.get(index) {
            Some(from) => trace(&node.input, *from, next),
            None => BTreeSet::new(),
        },
        LogicalPlan::Distinct(Distinct::On(node)) => of_expr(node.select_expr.get(index), &node.input, next),
        LogicalPlan::TableScan(node) => {
            let column = node.projection.as_ref().map_or(Some(index), |kept| kept.get(index).copied());
            let schema = node.source.schema();
            column
                .and_then(|column| schema.fields().get(column).cloned())
                .map(|field| (node.table_name.table().to_owned(), field.name().clone()))
                .into_iter()
                .collect()
        }
        // These pass their input's columns on in place.
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Distinct(Distinct::All(_)) => {
            plan.inputs().first().map(|input| trace(input, index, next)).unwrap_or_default()
        }
        _ => BTreeSet::new(),
    }
}

fn of_expr(expr: Option<&Expr>, input: &LogicalPlan, depth: usize) -> BTreeSet<Origin> {
    let Some(expr) = expr else { return BTreeSet::new() };
    let schema: &DFSchema = input.schema();
    let position = |column: &Column| schema.maybe_index_of_column(column);
    expr.column_refs().into_iter().filter_map(position).flat_map(|index| trace(input, index, depth)).collect()
}
