//! Expressions told over the columns of relations.

use std::collections::BTreeMap;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan};
use serde::{Deserialize, Serialize};

use super::DefinedInput;
use crate::running::GROUPS;

/// An expression, for people and to be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    /// As people write it.
    pub(super) text: String,
    /// A hash of all of it: a text leaves out which parts belong together, and how texts within end.
    form: String,
}

impl Told {
    /// Something that has no other form than its text.
    pub(super) fn plain(text: String) -> Self {
        Self { form: String::new(), text }
    }

    /// Some expressions with what they are for.
    pub(super) fn all(text: String, expressions: &[Expr]) -> Self {
        let forms: Vec<String> = expressions.iter().map(|expr| format!("{:?}", bare(expr))).collect();
        Self { text, form: hash(&forms.join("\n")) }
    }

    /// An expression over the rows of a plan.
    pub(super) fn of(expr: &Expr, plan: &LogicalPlan) -> Self {
        let told = follow(expr, plan);
        Self::all(bare(&told).to_string(), &[told])
    }
}

fn hash(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}

/// A hash of a whole plan, whatever its texts look like.
pub(super) fn form_of(plan: &LogicalPlan, relations: &BTreeMap<String, DefinedInput>) -> String {
    let mut forms = Vec::new();
    // The walk cannot fail.
    let _ = plan.apply_with_subqueries(|node| {
        forms.push(node.display().to_string());
        forms.extend(node.expressions().iter().map(|expr| format!("{:?}", bare(expr))));
        if let LogicalPlan::TableScan(scan) = node
            && !relations.contains_key(scan.table_name.table())
        {
            // A table function is told by its name alone.
            forms.extend(source_as_provider(&scan.source).map(|table| format!("{table:?}")));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    hash(&forms.join("\n"))
}

/// An expression without names of its own, and without where its columns are written.
fn bare(expr: &Expr) -> Expr {
    let bare = expr.clone().transform(|part| {
        Ok(match part {
            Expr::Column(Column { relation, name, .. }) => {
                Transformed::yes(Expr::Column(Column::new(relation, name)))
            }
            Expr::Alias(alias) if alias.name != OUTER && alias.name != UNNESTED => {
                Transformed::yes(*alias.expr)
            }
            other => Transformed::no(other),
        })
    });
    bare.map_or_else(|_| expr.clone(), |bare| bare.data)
}

/// Marks what is computed below a join whose side may be missing: above it, it is null there, whatever it would come to.
const OUTER: &str = "__outer";

/// Marks what comes from a list, one row for each of its elements.
const UNNESTED: &str = "__unnested";

/// An expression over the columns of relations; a column that cannot be followed stays what it is.
pub(super) fn follow(expr: &Expr, plan: &LogicalPlan) -> Expr {
    let followed = expr.clone().unalias_nested().data.transform(|part| {
        let Expr::Column(column) = &part else { return Ok(Transformed::no(part)) };
        Ok(match follow_column(column, plan) {
            // What takes its place is of another plan, and must not be looked at again.
            Some(found) => Transformed::new(found, true, TreeNodeRecursion::Jump),
            None => Transformed::no(part),
        })
    });
    followed.map_or_else(|_| expr.clone(), |followed| followed.data)
}

fn follow_column(column: &Column, plan: &LogicalPlan) -> Option<Expr> {
    let schema: &DFSchema = plan.schema();
    let index = schema.maybe_index_of_column(column)?;
    match plan {
        LogicalPlan::TableScan(scan) => {
            Some(Expr::Column(Column::new(Some(scan.table_name.table()), &column.name)))
        }
        LogicalPlan::Projection(node) => Some(follow(&node.expr.get(index)?.clone().unalias(), &node.input)),
        LogicalPlan::SubqueryAlias(node) => {
            follow_column(&Column::from(node.input.schema().qualified_field(index)), &node.input)
        }
        LogicalPlan::Join(node) => {
            let is_left = node.left.schema().maybe_index_of_column(column).is_some();
            let (side, may_be_missing) = match is_left {
                true => (&node.left, matches!(node.join_type, JoinType::Right | JoinType::Full)),
                false => (&node.right, matches!(node.join_type, JoinType::Left | JoinType::Full)),
            };
            let found = follow_column(column, side)?;
            Some(match found {
                Expr::Column(_) => found,
                computed if may_be_missing => computed.alias(OUTER),
                computed => computed,
            })
        }
        LogicalPlan::Unnest(node) => {
            let from =
                Column::from(node.input.schema().qualified_field(*node.dependency_indices.get(index)?));
            let found = follow_column(&from, &node.input)?;
            Some(if node.exec_columns.contains(&from) { found.alias(UNNESTED) } else { found })
        }
        LogicalPlan::Filter(node) => follow_column(column, &node.input),
        // Above it, the query reads its groups and aggregates by their places.
        LogicalPlan::Aggregate(_) => Some(Expr::Column(Column::new(Some(GROUPS), format!("c{index}")))),
        _ => None,
    }
}
