//! What a query that goes on from piece to piece is made of, so that what was kept for it can be compared with what it needs
//! when it was changed: columns that were added or widened keep it, other conditions do not.
//!
//! Expressions are told over the columns of the relations that they come from, so that it does not matter through which views
//! they go and what these have beside them.

mod change;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::datatypes::Field;
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use serde::{Deserialize, Serialize};

use crate::running::find;
use crate::windows::resolve;

pub use change::Kept;

/// What a query is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its relations, conditions and joins below the results or the aggregate, from the outside in; the whole plan when it is more
    /// than that.
    rows: Vec<String>,
    /// What it groups by; `None` for a query without an aggregate.
    groups: Option<Vec<String>>,
    /// The aggregates, in order.
    aggregates: Vec<AggregateDefinition>,
    /// The results: of a query with an aggregate what stands above that, otherwise each column.
    results: Vec<ResultDefinition>,
    /// What it reads, by the key of the relation.
    inputs: BTreeMap<String, InputDefinition>,
}

/// One aggregate of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AggregateDefinition {
    text: String,
    /// The columns that it computes with, when rows in which all of them are null change nothing; `None` when such rows may
    /// count.
    passes_nulls: Option<BTreeSet<BaseColumn>>,
}

/// One result of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ResultDefinition {
    name: String,
    text: String,
    /// The column that it is as it is.
    column: Option<BaseColumn>,
}

/// A column of a relation: the relation's key, and the column's name.
type BaseColumn = (String, String);

/// A relation that a query reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct InputDefinition {
    /// What people know it by.
    name: String,
    /// All of its columns.
    columns: BTreeSet<String>,
    /// The columns that the query looks at.
    used: BTreeMap<String, UsedColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UsedColumn {
    /// Its type.
    kind: String,
    /// Whether something is computed with it, so that values of a finer type could come to something else.
    computed: bool,
}

/// Aggregates of which rows with nulls change nothing.
const PASS_NULLS: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "count",
    "max",
    "median",
    "min",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
];

impl Definition {
    /// Of a planned query; `names` are what people know its relations by.
    #[must_use]
    pub fn of(plan: &LogicalPlan, names: &BTreeMap<String, String>) -> Self {
        let aggregate = find(plan).ok().flatten();
        let below = aggregate.map_or(plan, |aggregate| aggregate.input.as_ref());
        let mut inputs = BTreeMap::new();
        if !is_plain(below, names, &mut inputs) {
            return Self { rows: vec![plan.display_indent_schema().to_string()], ..Self::default() };
        }
        let mut describing = Describing { inputs, rows: Vec::new() };
        describing.read(below);
        let (mut groups, mut aggregates, mut results) = (None, Vec::new(), Vec::new());
        match aggregate {
            Some(aggregate) => {
                groups = Some(describing.groups(aggregate));
                aggregates = describing.aggregates(aggregate);
                results = above(plan);
            }
            None => {
                for column in plan.schema().columns() {
                    let expr = Expr::Column(column.clone());
                    describing.take_note(&expr, plan);
                    let text = told(&expr, plan);
                    results.push(ResultDefinition { name: column.name, text, column: base(&expr, plan) });
                }
            }
        }
        Self { rows: describing.rows, groups, aggregates, results, inputs: describing.inputs }
    }
}

/// Whether a plan is of relations, conditions, joins and projections alone, each relation read once; notes the relations.
fn is_plain(
    plan: &LogicalPlan,
    names: &BTreeMap<String, String>,
    inputs: &mut BTreeMap<String, InputDefinition>,
) -> bool {
    let is_query = |part: &Expr| {
        Ok(matches!(
            part,
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_)
        ))
    };
    if plan.expressions().iter().any(|expr| expr.exists(is_query).unwrap_or(true)) {
        return false;
    }
    match plan {
        LogicalPlan::TableScan(scan) => {
            let key = scan.table_name.table().to_owned();
            let columns = scan.source.schema().fields().iter().map(|field| field.name().clone()).collect();
            let name = names.get(&key).unwrap_or(&key).clone();
            inputs.insert(key, InputDefinition { name, columns, used: BTreeMap::new() }).is_none()
        }
        LogicalPlan::Filter(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::SubqueryAlias(_) => {
            plan.inputs().into_iter().all(|input| is_plain(input, names, inputs))
        }
        _ => false,
    }
}

/// An expression over the rows of a plan, told over the columns of relations.
fn told(expr: &Expr, plan: &LogicalPlan) -> String {
    let told = expr.clone().unalias_nested().data.transform(|part| {
        let Expr::Column(_) = &part else { return Ok(Transformed::no(part)) };
        let Some((key, base)) = resolve(part.clone(), plan) else { return Ok(Transformed::no(part)) };
        let told = Expr::Column(Column::new(Some(key), base.to_string()));
        Ok(Transformed::new(told, true, TreeNodeRecursion::Jump))
    });
    told.map_or_else(|_| expr.to_string(), |told| told.data.to_string())
}

/// The column of a relation that an expression is as it is.
fn base(expr: &Expr, plan: &LogicalPlan) -> Option<BaseColumn> {
    match resolve(expr.clone().unalias(), plan)? {
        (key, Expr::Column(column)) => Some((key, column.name)),
        _ => None,
    }
}

struct Describing {
    inputs: BTreeMap<String, InputDefinition>,
    rows: Vec<String>,
}

impl Describing {
    /// Takes note of the columns that an expression looks at.
    fn take_note(&mut self, expr: &Expr, plan: &LogicalPlan) {
        let computed = base(expr, plan).is_none();
        for column in expr.column_refs() {
            let Some((key, base)) = resolve(Expr::Column(column.clone()), plan) else { continue };
            for column in base.column_refs() {
                let kind = field_of(plan, &key, &column.name).map(|field| field.data_type().to_string());
                let kind = kind.unwrap_or_default();
                let Some(input) = self.inputs.get_mut(&key) else { continue };
                let used =
                    input.used.entry(column.name.clone()).or_insert(UsedColumn { kind, computed: false });
                used.computed |= computed;
            }
        }
    }

    /// Takes note of which rows a plan gives.
    fn read(&mut self, plan: &LogicalPlan) {
        match plan {
            LogicalPlan::TableScan(scan) => self.rows.push(format!("read {}", scan.table_name.table())),
            LogicalPlan::Filter(filter) => {
                self.take_note(&filter.predicate, &filter.input);
                self.rows.push(format!("where {}", told(&filter.predicate, &filter.input)));
            }
            LogicalPlan::Join(join) => {
                let mut on = Vec::new();
                for (left, right) in &join.on {
                    self.take_note(left, &join.left);
                    self.take_note(right, &join.right);
                    on.push(format!("{} = {}", told(left, &join.left), told(right, &join.right)));
                }
                if let Some(filter) = &join.filter {
                    self.take_note(filter, plan);
                    on.push(told(filter, plan));
                }
                self.rows.push(format!("{} join on {}", join.join_type, on.join(" and ")));
            }
            _ => {}
        }
        plan.inputs().into_iter().for_each(|input| self.read(input));
    }

    fn groups(&mut self, aggregate: &Aggregate) -> Vec<String> {
        let group = |expr: &Expr| {
            self.take_note(expr, &aggregate.input);
            told(expr, &aggregate.input)
        };
        aggregate.group_expr.iter().map(group).collect()
    }

    fn aggregates(&mut self, aggregate: &Aggregate) -> Vec<AggregateDefinition> {
        let input = aggregate.input.as_ref();
        let mut found = Vec::new();
        for expr in &aggregate.aggr_expr {
            let mut passes_nulls = None;
            match expr.clone().unalias() {
                Expr::AggregateFunction(function) => {
                    passes_nulls = PASS_NULLS
                        .contains(&function.func.name())
                        .then(|| plain_arguments(&function.params.args, input))
                        .flatten();
                    let params = function.params;
                    params.args.iter().for_each(|argument| self.take_note(argument, input));
                    params.filter.iter().for_each(|filter| self.take_note(filter, input));
                    params.order_by.iter().for_each(|sort| self.take_note(&sort.expr, input));
                }
                other => self.take_note(&other, input),
            }
            found.push(AggregateDefinition { text: told(expr, input), passes_nulls });
        }
        found
    }
}

/// The columns that arguments are, when none of these is computed.
fn plain_arguments(arguments: &[Expr], input: &LogicalPlan) -> Option<BTreeSet<BaseColumn>> {
    let mut columns = BTreeSet::new();
    for argument in arguments {
        let mut argument = argument;
        while let Expr::Cast(cast) = argument {
            argument = &cast.expr;
        }
        match argument {
            Expr::Literal(value, _) if !value.is_null() => {}
            // One that is never null would be something else in the rows before.
            other => {
                let column = base(other, input)?;
                field_of(input, &column.0, &column.1).filter(|field| field.is_nullable())?;
                columns.insert(column);
            }
        }
    }
    (!columns.is_empty()).then_some(columns)
}

fn field_of(plan: &LogicalPlan, key: &str, name: &str) -> Option<Field> {
    let mut found = None;
    // The walk cannot fail.
    let _ = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && scan.table_name.table() == key
        {
            found = scan.source.schema().field_with_name(name).ok().cloned();
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// What stands above the aggregate of a plan.
fn above(plan: &LogicalPlan) -> Vec<ResultDefinition> {
    let mut found = Vec::new();
    let mut node = plan;
    while !matches!(node, LogicalPlan::Aggregate(_)) {
        found.push(ResultDefinition { name: String::new(), text: node.display().to_string(), column: None });
        match node.inputs().first() {
            Some(input) => node = input,
            None => break,
        }
    }
    found
}
