//! Finds the windows in a logical plan: whose rows they split, by which time, and whether a query keeps them apart.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, JoinType, LogicalPlan, Volatility};
use datafusion::scalar::ScalarValue;

use super::{CLOSED, WINDOW_END, WINDOW_START, WINDOW_TIME, WindowShape};

/// A relation whose rows a query puts into windows.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowedScan {
    /// The time of an event, over the columns of the relation.
    pub time: Expr,
    /// How the windows lie.
    pub shape: WindowShape,
}

/// The windows of each relation that has some, by its key; those of computed rows are left out.
#[must_use]
pub fn windowed_scans(plan: &LogicalPlan) -> BTreeMap<String, Vec<WindowedScan>> {
    let mut found: BTreeMap<String, Vec<WindowedScan>> = BTreeMap::new();
    // The walk cannot fail.
    let _ = plan.apply_with_subqueries(|node| {
        let Some(input) = node.inputs().first().copied() else { return Ok(TreeNodeRecursion::Continue) };
        for expr in node.expressions() {
            let _ = expr.apply(|part| {
                if let Some((time, shape)) = window_of(part)
                    && let Some((key, time)) = resolve(time, input)
                {
                    let scan = WindowedScan { time, shape };
                    let known = found.entry(key).or_default();
                    if !known.contains(&scan) {
                        known.push(scan);
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn window_of(expr: &Expr) -> Option<(Expr, WindowShape)> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let (time, lengths) = call.args.split_first()?;
    let lengths: Vec<i64> = lengths
        .iter()
        .map(|length| match length {
            Expr::Literal(ScalarValue::Int64(Some(number)), _) => Some(*number),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let shape = match (call.func.name(), lengths.as_slice()) {
        ("__window_tumble", [size, offset]) => WindowShape::Tumble { size: *size, offset: *offset },
        ("__window_session", [gap]) => WindowShape::Session { gap: *gap },
        ("__window_stagger", [size]) => WindowShape::Stagger { size: *size },
        ("__window_hop", [slide, size, offset]) => {
            WindowShape::Hop { slide: *slide, size: *size, offset: *offset }
        }
        ("__window_cumulate", [step, size, offset]) => {
            WindowShape::Cumulate { step: *step, size: *size, offset: *offset }
        }
        _ => return None,
    };
    Some((time.clone(), shape))
}

/// Follows an expression down to the one relation that its columns are of; there it has no qualifiers.
pub(crate) fn resolve(mut expr: Expr, mut plan: &LogicalPlan) -> Option<(String, Expr)> {
    loop {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let bare = replace_columns(expr, &|column| {
                    Some(Expr::Column(Column::new_unqualified(&column.name)))
                })?;
                return Some((scan.table_name.table().to_owned(), bare));
            }
            LogicalPlan::Projection(node) => {
                let schema: &DFSchema = &node.schema;
                expr = replace_columns(expr, &|column| {
                    let index = schema.maybe_index_of_column(column)?;
                    Some(node.expr.get(index)?.clone().unalias())
                })?;
                plan = &node.input;
            }
            LogicalPlan::SubqueryAlias(node) => {
                let (outer, inner): (&DFSchema, &DFSchema) = (&node.schema, node.input.schema());
                expr = replace_columns(expr, &|column| {
                    let index = outer.maybe_index_of_column(column)?;
                    Some(Expr::Column(Column::from(inner.qualified_field(index))))
                })?;
                plan = &node.input;
            }
            LogicalPlan::Join(node) => {
                let is_of = |schema: &DFSchema| {
                    expr.column_refs().iter().all(|column| schema.maybe_index_of_column(column).is_some())
                };
                plan = if is_of(node.left.schema()) { &node.left } else { &node.right };
                if !is_of(plan.schema()) {
                    return None;
                }
            }
            LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Repartition(_) => {
                plan = plan.inputs().first().copied()?;
            }
            _ => return None,
        }
    }
}

fn replace_columns(expr: Expr, with: &dyn Fn(&Column) -> Option<Expr>) -> Option<Expr> {
    let mut lost = false;
    let replaced = expr
        .transform(|part| {
            let Expr::Column(column) = &part else { return Ok(Transformed::no(part)) };
            match with(column) {
                // What takes its place is of another plan, and must not be looked at again.
                Some(found) => Ok(Transformed::new(found, true, TreeNodeRecursion::Jump)),
                None => {
                    lost = true;
                    Ok(Transformed::no(part))
                }
            }
        })
        .ok()?
        .data;
    (!lost).then_some(replaced)
}

/// The bound of a window that a column of a plan is, passed on as it is: [`WINDOW_START`] or [`WINDOW_END`].
#[must_use]
pub fn window_bound(plan: &LogicalPlan, column: &Column) -> Option<&'static str> {
    let schema: &DFSchema = plan.schema();
    bound_at(plan, schema.maybe_index_of_column(column)?)
}

fn bound_at(plan: &LogicalPlan, index: usize) -> Option<&'static str> {
    // A bound that is not in each grouping set is null in some groups, which are of no window.
    if let LogicalPlan::Aggregate(node) = plan {
        group_of(node, index)?;
    }
    let name = plan.schema().field(index).name();
    if let Some(bound) = [WINDOW_START, WINDOW_END].into_iter().find(|bound| bound == name) {
        return Some(bound);
    }
    match plan {
        LogicalPlan::Projection(node) => match node.expr.get(index)?.clone().unalias() {
            Expr::Column(column) => window_bound(&node.input, &column),
            _ => None,
        },
        LogicalPlan::Aggregate(node) => match group_of(node, index)? {
            Expr::Column(column) => window_bound(&node.input, column),
            _ => None,
        },
        // A side that may be missing has nulls there, which are of no window.
        LogicalPlan::Join(node) => {
            let left = node.left.schema().fields().len();
            match node.join_type {
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                    bound_at(&node.right, index)
                }
                JoinType::Right | JoinType::Full if index < left => None,
                JoinType::Left | JoinType::Full if index >= left => None,
                _ if index < left => bound_at(&node.left, index),
                _ => bound_at(&node.right, index - left),
            }
        }
        LogicalPlan::Window(node) => {
            (index < node.input.schema().fields().len()).then(|| bound_at(&node.input, index))?
        }
        LogicalPlan::Union(node) => {
            let mut bounds = node.inputs.iter().map(|input| bound_at(input, index));
            let first = bounds.next()??;
            bounds.all(|bound| bound == Some(first)).then_some(first)
        }
        LogicalPlan::Unnest(node) => bound_at(&node.input, *node.dependency_indices.get(index)?),
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Distinct(_) => bound_at(plan.inputs().first()?, index),
        _ => None,
    }
}

/// What a column of an aggregate is grouped by, in each of its grouping sets when it has some.
fn group_of(node: &Aggregate, index: usize) -> Option<&Expr> {
    let group = *grouping_set_to_exprlist(&node.group_expr).ok()?.get(index)?;
    match node.group_expr.as_slice() {
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => {
            sets.iter().all(|set| set.contains(group)).then_some(group)
        }
        [Expr::GroupingSet(_)] => None,
        _ => Some(group),
    }
}

/// Whether a node puts the rows of its input into windows.
#[must_use]
pub fn makes_windows(node: &LogicalPlan) -> bool {
    node.expressions().iter().any(|expr| expr.exists(|part| Ok(window_of(part).is_some())).unwrap_or(true))
}

/// Whether a node is one of those that find sessions or staggered windows: its functions look at the time of rows alone.
#[must_use]
pub fn finds_sessions(node: &LogicalPlan) -> bool {
    let of_time = |expr: &Expr| match expr.clone().unalias() {
        Expr::WindowFunction(function) => {
            let mut columns = function.params.args.iter().flat_map(Expr::column_refs);
            columns.all(|column| column.name == WINDOW_TIME || column.name == "__window_begins")
                && function.params.args.iter().any(|arg| !arg.column_refs().is_empty())
        }
        _ => false,
    };
    matches!(node, LogicalPlan::Window(window) if window.window_expr.iter().all(of_time))
}

/// The parts of a plan that give the rows of sessions and of staggered windows, closed or not, with their bounds.
#[must_use]
pub fn session_rows(plan: &LogicalPlan) -> Vec<LogicalPlan> {
    let mut found = Vec::new();
    // The walk cannot fail.
    let _ = plan.apply(|node| {
        if let LogicalPlan::Filter(filter) = node
            && filter
                .predicate
                .exists(|part| Ok(matches!(part, Expr::ScalarFunction(call) if call.func.name() == CLOSED)))
                .unwrap_or(false)
            && window_shapes(&filter.input).iter().any(WindowShape::is_of_others)
        {
            found.push(filter.input.as_ref().clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// Whether an expression may give something else for the same row.
fn changes(expr: &Expr) -> bool {
    let is_fixed = |part: &Expr| !matches!(part, Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable);
    expr.exists(|part| Ok(!is_fixed(part))).unwrap_or(true)
}

/// What keeps a node that makes sessions or staggered windows from being computed again for the same rows: a table whose rows change, or chance.
#[must_use]
pub fn unsettled_sessions(node: &LogicalPlan, streams: &BTreeSet<String>) -> Option<String> {
    if !window_shapes(node).iter().any(WindowShape::is_of_others) {
        return None;
    }
    let mut found = None;
    // The walk cannot fail.
    let _ = node.apply_with_subqueries(|part| {
        match part {
            LogicalPlan::TableScan(scan) if !streams.contains(scan.table_name.table()) => {
                found = Some("rows that a table decides about".to_owned());
            }
            _ if part.expressions().iter().any(changes) => {
                found = Some("rows that chance or the clock decide about".to_owned());
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The kinds of windows that a plan has rows of.
#[must_use]
pub fn window_shapes(plan: &LogicalPlan) -> Vec<WindowShape> {
    let mut shapes = Vec::new();
    // The walk cannot fail.
    let _ = plan.apply(|node| {
        for expr in node.expressions() {
            let _ = expr.apply(|part| {
                shapes.extend(window_of(part).map(|(_, shape)| shape));
                Ok(TreeNodeRecursion::Continue)
            });
        }
        Ok(TreeNodeRecursion::Continue)
    });
    shapes.dedup();
    shapes
}

/// Whether a plan reads a relation, by its key.
#[must_use]
pub fn reads(plan: &LogicalPlan, key: &str) -> bool {
    // The walk cannot fail.
    plan.exists(|node| Ok(matches!(node, LogicalPlan::TableScan(scan) if scan.table_name.table() == key)))
        .unwrap_or(false)
}

/// The columns of a relation that an optimised plan reads, by their indexes; `None` for all of them.
#[must_use]
pub fn columns_read(plan: &LogicalPlan, key: &str) -> Option<BTreeSet<usize>> {
    let mut found = Some(BTreeSet::new());
    // The walk cannot fail.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && scan.table_name.table() == key
        {
            match (&mut found, &scan.projection) {
                (Some(found), Some(columns)) => found.extend(columns),
                _ => found = None,
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
