//! Which queries may run over a stream: those whose result for all input is the sum of the results
//! for its pieces, a piece being some rows, or all rows of some windows.

use std::collections::BTreeSet;

use catchment_core::{Code, Error, Result};
use catchment_sql::{
    WINDOW_END, WINDOW_START, WindowShape, finds_sessions, is_meeting, makes_windows, unsettled_sessions,
    window_bound, window_shapes,
};
use datafusion::common::Column;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Aggregate, Distinct, Expr, Join, JoinType, LogicalPlan};

/// Checks that a plan can be run a piece of its streams at a time. `windowed` are those streams whose rows it puts into
/// windows, all by their keys.
///
/// # Errors
/// Returns [`Code::NOT_SUPPORTED`] naming what would need to remember earlier pieces.
pub fn require_incremental(
    plan: &LogicalPlan,
    streams: &BTreeSet<String>,
    windowed: &BTreeSet<String>,
) -> Result<()> {
    let rows = visit(plan, (streams, windowed))?;
    match rows.plain.intersection(windowed).next() {
        Some(_) => Err(Error::new(
            Code::NOT_SUPPORTED,
            "a stream is read both in windows and without is not supported yet",
        )
        .hint("make it two flows: CREATE FLOW ... AS INSERT INTO ...")),
        None => Ok(()),
    }
}

/// What the rows of a plan are.
#[derive(Debug, Clone, Default)]
struct Rows {
    /// The streams whose rows they are, one by one.
    plain: BTreeSet<String>,
    /// Whether they are rows of windows that are complete.
    windowed: bool,
}

impl Rows {
    fn is_streaming(&self) -> bool {
        self.windowed || !self.plain.is_empty()
    }

    /// Whether they are rows of windows and nothing else.
    fn is_windowed(&self) -> bool {
        self.windowed && self.plain.is_empty()
    }
}

fn refuse<T>(what: &str) -> Result<T> {
    Err(Error::new(Code::NOT_SUPPORTED, format!("{what} is not supported yet"))
        .hint("make the dataset a MATERIALIZED VIEW over the table, or take STREAM away"))
}

fn unbounded<T>(what: &str) -> Result<T> {
    Err(Error::new(
        Code::NOT_SUPPORTED,
        format!("{what} over a stream would have to remember all of it"),
    )
    .hint("put its rows into windows: GROUP BY ..., TUMBLE(ts, INTERVAL '1' MINUTE); or make the dataset a MATERIALIZED VIEW"))
}

/// Refuses an aggregate whose groups have rows of several windows.
fn without_window(node: &Aggregate) -> Result<Rows> {
    let begins = |group: &Expr| matches!(group, Expr::Column(column) if window_bound(&node.input, column) == Some(WINDOW_START));
    let what = match node.group_expr.as_slice() {
        [Expr::GroupingSet(_)] => "an aggregate without the end of the window in each of its grouping sets",
        groups if groups.iter().any(begins) => {
            return Err(Error::new(
                Code::NOT_SUPPORTED,
                "windows that begin together may end apart, so one that begins with another would be added to its group later",
            )
            .hint("group by the end of the window, too"));
        }
        _ => "an aggregate without the window in its GROUP BY",
    };
    unbounded(what)
}

/// The keys of streams, and of those whose rows are put into windows.
type Keys<'a> = (&'a BTreeSet<String>, &'a BTreeSet<String>);

fn visit(plan: &LogicalPlan, keys: Keys<'_>) -> Result<Rows> {
    let (streams, windowed) = keys;
    let mut inputs = Vec::new();
    for input in plan.inputs() {
        inputs.push(visit(input, keys)?);
    }
    for expr in plan.expressions() {
        refuse_subqueries(&expr, keys)?;
    }
    let mut rows = Rows::default();
    for input in &inputs {
        rows.plain.extend(input.plain.iter().cloned());
        rows.windowed |= input.windowed;
    }
    if let LogicalPlan::TableScan(scan) = plan {
        let key = scan.table_name.table();
        rows.plain.extend(streams.get(key).cloned());
        return Ok(rows);
    }
    if !rows.is_streaming() {
        return Ok(rows);
    }
    let windows = rows.is_windowed();
    match plan {
        LogicalPlan::Join(join)
            if inputs.iter().all(|input| !input.windowed && input.is_streaming())
                && rows.plain.is_subset(windowed)
                && is_meeting(join, streams) =>
        {
            return Ok(Rows { plain: BTreeSet::new(), windowed: true });
        }
        LogicalPlan::Join(join) => join_rows(join, &inputs)?,
        // Rows of the table would be added again with each piece of the stream.
        LogicalPlan::Union(_) if inputs.iter().any(|input| !input.is_streaming()) => {
            return refuse("a union of a stream with a table");
        }
        LogicalPlan::Aggregate(_) if windows && has_bound(plan) => {}
        LogicalPlan::Aggregate(node) if windows => return without_window(node),
        LogicalPlan::Distinct(Distinct::All(input)) if windows && has_bound(input) => {}
        LogicalPlan::Distinct(_) if windows => return unbounded("DISTINCT without a bound of the window"),
        LogicalPlan::Window(_) if windows && finds_sessions(plan) => {}
        LogicalPlan::Window(node)
            if windows && node.window_expr.iter().all(|expr| stays_within(plan, expr)) => {}
        LogicalPlan::Window(_) if windows => {
            return unbounded("a window function without the window in its PARTITION BY");
        }
        LogicalPlan::Aggregate(_) => return unbounded("an aggregate"),
        LogicalPlan::Distinct(_) => return unbounded("DISTINCT"),
        LogicalPlan::Window(_) => return unbounded("a window function"),
        LogicalPlan::Sort(_) => return refuse("ORDER BY over a stream"),
        LogicalPlan::Limit(_) => return refuse("LIMIT over a stream"),
        LogicalPlan::RecursiveQuery(_) => return refuse("a recursive query over a stream"),
        _ => {}
    }
    if makes_windows(plan) {
        if rows.windowed {
            return refuse("putting the rows of windows into windows again");
        }
        if !rows.plain.is_subset(windowed) {
            return Err(Error::new(
                Code::NOT_SUPPORTED,
                "the time of the windows cannot be followed to a column of one stream",
            )
            .hint("group by a column of the stream itself, or by an expression over its columns; put the rows of several streams into windows one by one"));
        }
        if let Some(what) = unsettled_sessions(plan, streams) {
            return refuse(&format!("finding sessions among {what}"));
        }
        rows = Rows { plain: BTreeSet::new(), windowed: true };
    }
    Ok(rows)
}

/// Whether a column tells the window of a row, for good: two windows that end together are closed together, and so are two
/// that begin together when all windows are of one length.
fn tells_window(plan: &LogicalPlan, column: &Column) -> bool {
    match window_bound(plan, column) {
        Some(WINDOW_END) => true,
        Some(_) => is_one_length(&window_shapes(plan)),
        None => false,
    }
}

fn is_one_length(shapes: &[WindowShape]) -> bool {
    match shapes {
        [WindowShape::Cumulate { .. } | WindowShape::Session { .. }, ..] => false,
        [first, others @ ..] => others.iter().all(|other| other == first),
        [] => false,
    }
}

/// Whether a row tells which window it is of.
fn has_bound(plan: &LogicalPlan) -> bool {
    plan.schema().columns().iter().any(|column| tells_window(plan, column))
}

/// Whether a window function looks only at rows of the same window.
fn stays_within(node: &LogicalPlan, expr: &Expr) -> bool {
    match expr {
        Expr::WindowFunction(function) => {
            function.params.partition_by.iter().any(|expr| is_bound(node, expr))
        }
        _ => false,
    }
}

/// Whether an expression over the input of a node is a bound of a window.
fn is_bound(node: &LogicalPlan, expr: &Expr) -> bool {
    match (expr, node.inputs().first()) {
        (Expr::Column(column), Some(input)) => tells_window(input, column),
        _ => false,
    }
}

fn join_rows(join: &Join, inputs: &[Rows]) -> Result<()> {
    let [left, right] = inputs else { return Ok(()) };
    match (left.is_streaming(), right.is_streaming(), join.join_type) {
        (true, true, _) if left.is_windowed() && right.is_windowed() && joins_windows(join) => Ok(()),
        (true, true, _) if left.is_windowed() && right.is_windowed() => {
            unbounded("a join of two streams without their windows being equal")
        }
        (true, true, kind @ (JoinType::Left | JoinType::Right | JoinType::Full)) => Err(Error::new(
            Code::NOT_SUPPORTED,
            format!("a {} join of two streams, which tells of rows that meet none, is not supported yet", kind.to_string().to_uppercase()),
        )
        .hint("make it an inner join, or the dataset a MATERIALIZED VIEW")),
        (true, true, _) => Err(Error::new(
            Code::NOT_SUPPORTED,
            "a join of two streams whose times do not bound each other would have to remember both",
        )
        .hint("say how far apart two columns of time are, in weeks or less: ON a.k = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '1' HOUR; join a third stream in a dataset of its own; or make the dataset a MATERIALIZED VIEW")),
        // Rows of the table without a match would have to wait for all of the stream.
        (
            true,
            false,
            JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark,
        )
        | (
            false,
            true,
            JoinType::Inner
            | JoinType::Right
            | JoinType::RightSemi
            | JoinType::RightAnti
            | JoinType::RightMark,
        )
        | (false, false, _) => Ok(()),
        (_, _, kind) => refuse(&format!("a {kind} join of a stream that keeps rows of the table")),
    }
}

/// Whether a join asks for the same window on both sides: all rows that meet are then in one batch.
fn joins_windows(join: &Join) -> bool {
    let bound = |plan: &LogicalPlan, expr: &Expr| match expr {
        Expr::Column(column) => window_bound(plan, column),
        _ => None,
    };
    let of_filter = join.filter.iter().flat_map(datafusion::logical_expr::utils::split_conjunction);
    let equalities = of_filter.filter_map(|expr| match expr {
        Expr::BinaryExpr(binary) if binary.op == datafusion::logical_expr::Operator::Eq => {
            Some((binary.left.as_ref().clone(), binary.right.as_ref().clone()))
        }
        _ => None,
    });
    join.on.iter().cloned().chain(equalities).any(|(first, second)| {
        let sides = |a: &Expr, b: &Expr| (bound(&join.left, a), bound(&join.right, b));
        [sides(&first, &second), sides(&second, &first)].iter().any(|(left, right)| match (left, right) {
            (Some(WINDOW_END), Some(WINDOW_END)) => true,
            (Some(WINDOW_START), Some(WINDOW_START)) => {
                is_one_length(&[window_shapes(&join.left), window_shapes(&join.right)].concat())
            }
            _ => false,
        })
    })
}

fn refuse_subqueries(expr: &Expr, keys: Keys<'_>) -> Result<()> {
    let mut found = Ok(());
    let _ = expr.apply(|node| {
        let subquery = match node {
            Expr::ScalarSubquery(subquery) => Some(subquery),
            Expr::Exists(exists) => Some(&exists.subquery),
            Expr::InSubquery(within) => Some(&within.subquery),
            _ => None,
        };
        if let Some(subquery) = subquery
            && visit(&subquery.subquery, keys).map_or(true, |rows| rows.is_streaming())
        {
            found = Err(Error::new(Code::NOT_SUPPORTED, "a subquery over a stream is not supported yet"));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
