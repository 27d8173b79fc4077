//! Which queries may run over a stream: those whose result for all input is the sum of the results
//! for its pieces.

use std::collections::BTreeSet;

use catchment_core::{Code, Error, Result};
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan};

/// Checks that a plan can be run a piece of its streams at a time.
///
/// # Errors
/// Returns [`Code::NOT_SUPPORTED`] naming what would need to remember earlier pieces.
pub fn require_incremental(plan: &LogicalPlan, streams: &BTreeSet<String>) -> Result<()> {
    visit(plan, streams).map(|_| ())
}

/// Whether the plan reads a stream.
fn visit(plan: &LogicalPlan, streams: &BTreeSet<String>) -> Result<bool> {
    let mut inputs = Vec::new();
    for input in plan.inputs() {
        inputs.push(visit(input, streams)?);
    }
    let any = inputs.iter().any(|streaming| *streaming);
    for expr in plan.expressions() {
        refuse_subqueries(&expr, streams)?;
    }
    let refuse = |what: &str| {
        Err(Error::new(Code::NOT_SUPPORTED, format!("{what} is not supported yet"))
            .hint("make the dataset a MATERIALIZED VIEW over the table, or take STREAM away"))
    };
    match plan {
        LogicalPlan::TableScan(scan) => return Ok(streams.contains(scan.table_name.table())),
        LogicalPlan::Join(join) if any => match (inputs.as_slice(), join.join_type) {
            ([true, true], _) => return refuse("a join of two streams"),
            // Rows of the table without a match would have to wait for all of the stream.
            (
                [true, _],
                JoinType::Inner
                | JoinType::Left
                | JoinType::LeftSemi
                | JoinType::LeftAnti
                | JoinType::LeftMark,
            )
            | (
                [_, true],
                JoinType::Inner
                | JoinType::Right
                | JoinType::RightSemi
                | JoinType::RightAnti
                | JoinType::RightMark,
            ) => {}
            (_, kind) => return refuse(&format!("a {kind} join of a stream that keeps rows of the table")),
        },
        // Rows of the table would be added again with each piece of the stream.
        LogicalPlan::Union(_) if any && inputs.iter().any(|streaming| !streaming) => {
            return refuse("a union of a stream with a table");
        }
        LogicalPlan::Aggregate(_) if any => return refuse("an aggregate over a stream"),
        LogicalPlan::Distinct(_) if any => return refuse("DISTINCT over a stream"),
        LogicalPlan::Window(_) if any => return refuse("a window function over a stream"),
        LogicalPlan::Sort(_) if any => return refuse("ORDER BY over a stream"),
        LogicalPlan::Limit(_) if any => return refuse("LIMIT over a stream"),
        LogicalPlan::RecursiveQuery(_) if any => return refuse("a recursive query over a stream"),
        _ => {}
    }
    Ok(any)
}

fn refuse_subqueries(expr: &Expr, streams: &BTreeSet<String>) -> Result<()> {
    let mut found = Ok(());
    let _ = expr.apply(|node| {
        let subquery = match node {
            Expr::ScalarSubquery(subquery) => Some(subquery),
            Expr::Exists(exists) => Some(&exists.subquery),
            Expr::InSubquery(within) => Some(&within.subquery),
            _ => None,
        };
        if let Some(subquery) = subquery
            && visit(&subquery.subquery, streams).unwrap_or(true)
        {
            found = Err(Error::new(Code::NOT_SUPPORTED, "a subquery over a stream is not supported yet"));
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    found
}
