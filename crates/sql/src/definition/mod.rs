//! What a query that goes on from piece to piece is made of, so that what was kept for it can be compared with what it needs
//! when it was changed: columns that were added or widened keep it, other conditions do not.
//!
//! Expressions are told over the columns of the relations that they come from, so that it does not matter through which views
//! they go and what these have beside them.

mod change;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::datatypes::Field;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, TableReference};
use datafusion::logical_expr::{Aggregate, Expr, JoinType, LogicalPlan, Operator};
use serde::{Deserialize, Serialize};

use crate::running::{GROUPS, find};

use told::{Told, follow, form_of};

pub use change::Kept;

/// What a query is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its relations, conditions and joins below the results or the aggregate, from the outside in. Of a query that is more than
    /// that nothing is known.
    rows: Vec<Told>,
    /// What it groups by; `None` for a query without an aggregate.
    groups: Option<Vec<Told>>,
    /// The aggregates, in order.
    aggregates: Vec<AggregateDefinition>,
    /// The results, and the conditions above the aggregate, which have no names.
    results: Vec<ResultDefinition>,
    /// What it reads, by the key of the relation.
    inputs: BTreeMap<String, InputDefinition>,
    /// Whether a row of its sources may come to several.
    multiplies: bool,
}

/// One aggregate of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AggregateDefinition {
    told: Told,
    /// The columns that it computes with, when rows in which all of them are null change nothing; `None` when such rows may
    /// count.
    passes_nulls: Option<BTreeSet<BaseColumn>>,
}

/// One result of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ResultDefinition {
    name: String,
    told: Told,
    /// The column that it is as it is.
    column: Option<BaseColumn>,
}

/// A column of a relation: the relation's key, and the column's name.
type BaseColumn = (String, String);

/// A relation that a query reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct InputDefinition {
    /// What it is.
    input: DefinedInput,
    /// All of its columns.
    columns: BTreeSet<String>,
    /// The columns that the query looks at.
    used: BTreeMap<String, UsedColumn>,
}

/// What a relation of a query is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinedInput {
    /// What people know it by.
    pub name: String,
    /// How it is read, and in which version.
    pub kind: String,
    /// Whether rows that were read before have nulls in columns that it did not have then.
    pub grows: bool,
    /// The columns that it has, whether they are declared or not.
    pub columns: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UsedColumn {
    /// Its type.
    kind: String,
    /// What is done with it at most.
    how: Use,
}

/// What is done with a column: more of it could come to something else with values of another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Use {
    /// It is taken as it is.
    Kept,
    /// It is compared.
    Compared,
    /// Something is computed with it.
    Computed,
}

fn is_comparison(operator: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// The columns of an expression, with what is done with each when the expression as a whole is used in some way.
fn uses_of(expr: &Expr, how: Use, found: &mut Vec<(Column, Use)>) {
    let mut compared = |parts: &[&Expr]| {
        for part in parts {
            uses_of(part, if matches!(part, Expr::Column(_)) { Use::Compared } else { how }, found);
        }
    };
    match expr {
        Expr::Column(column) => found.push((column.clone(), how)),
        Expr::BinaryExpr(binary) if is_comparison(binary.op) || binary.op.is_logic_operator() => {
            compared(&[&binary.left, &binary.right]);
        }
        Expr::Not(part) | Expr::IsNull(part) | Expr::IsNotNull(part) => compared(&[part]),
        Expr::Between(between) => compared(&[&between.expr, &between.low, &between.high]),
        Expr::InList(list) => {
            compared(&[&list.expr]);
            compared(&list.list.iter().collect::<Vec<_>>());
        }
        other => {
            let columns = other.column_refs().into_iter();
            found.extend(columns.map(|column| (column.clone(), Use::Computed)));
        }
    }
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
    /// Of a planned query; `relations` are what it reads, by their keys.
    #[must_use]
    pub fn of(plan: &LogicalPlan, relations: &BTreeMap<String, DefinedInput>) -> Self {
        let aggregate = find(plan).ok().flatten();
        let below = aggregate.map_or(plan, |aggregate| aggregate.input.as_ref());
        let mut inputs = BTreeMap::new();
        if plan.exists(|node| Ok(has_query(node))).unwrap_or(true) || !is_plain(below, relations, &mut inputs)
        {
            return Self::default();
        }
        let mut describing = Describing { inputs, rows: Vec::new(), multiplies: false };
        describing.read(below);
        let (mut groups, mut aggregates) = (None, Vec::new());
        if let Some(aggregate) = aggregate {
            groups = Some(describing.groups(aggregate));
            aggregates = describing.aggregates(aggregate);
        }
        let mut results = Vec::new();
        for column in plan.schema().columns() {
            let expr = Expr::Column(column.clone());
            describing.take_note(&expr, plan);
            let (told, kept) = (Told::of(&expr, plan), base(&expr, plan));
            results.push(ResultDefinition { name: column.name, told, column: kept });
        }
        if aggregate.is_some() {
            results.extend(conditions_above(plan));
        }
        let Describing { rows, inputs, multiplies } = describing;
        Self { rows, groups, aggregates, results, inputs, multiplies }
    }

    /// Whether it is known what the query is made of.
    #[must_use]
    pub(super) fn is_known(&self) -> bool {
        !self.results.is_empty()
    }

    /// All that decides about the rows of a planned query, as text.
    #[must_use]
    pub fn text(plan: &LogicalPlan, relations: &BTreeMap<String, DefinedInput>) -> String {
        let reads: Vec<String> = relations
            .iter()
            .map(|(key, input)| format!("{key}: {} of {:?}", input.kind, input.name))
            .collect();
        format!("{}\n{}\n{}", reads.join("\n"), plan.display_indent_schema(), form_of(plan, relations))
    }
}

/// Whether a node asks a query of its own.
fn has_query(node: &LogicalPlan) -> bool {
    let is_query = |part: &Expr| {
        Ok(matches!(
            part,
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_)
        ))
    };
    node.expressions().iter().any(|expr| expr.exists(is_query).unwrap_or(true))
}

/// Whether a plan is of relations, conditions, joins and projections alone, each relation read once; notes the relations.
fn is_plain(
    plan: &LogicalPlan,
    relations: &BTreeMap<String, DefinedInput>,
    inputs: &mut BTreeMap<String, InputDefinition>,
) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let key = scan.table_name.table().to_owned();
            let Some(input) = relations.get(&key).cloned() else { return false };
            let declared = scan.source.schema().fields().iter().map(|field| field.name().clone()).collect();
            let columns = input.columns.union(&declared).cloned().collect();
            inputs.insert(key, InputDefinition { input, columns, used: BTreeMap::new() }).is_none()
        }
        // Of others one side is not followed.
        LogicalPlan::Join(join)
            if !matches!(
                join.join_type,
                JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full
            ) =>
        {
            false
        }
        // The fields of a struct are told by their names alone.
        LogicalPlan::Unnest(unnest) if !unnest.struct_type_columns.is_empty() => false,
        LogicalPlan::Filter(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::SubqueryAlias(_) => {
            plan.inputs().into_iter().all(|input| is_plain(input, relations, inputs))
        }
        _ => false,
    }
}

/// The column of a relation that an expression is as it is.
fn base(expr: &Expr, plan: &LogicalPlan) -> Option<BaseColumn> {
    match follow(expr, plan) {
        Expr::Column(Column { relation: Some(relation), name, .. }) if relation.table() != GROUPS => {
            Some((relation.table().to_owned(), name))
        }
        _ => None,
    }
}

struct Describing {
    inputs: BTreeMap<String, InputDefinition>,
    rows: Vec<Told>,
    multiplies: bool,
}

impl Describing {
    /// Takes note of the columns that an expression looks at.
    fn take_note(&mut self, expr: &Expr, plan: &LogicalPlan) {
        self.take_note_of(expr, plan, Use::Kept);
    }

    fn take_note_of(&mut self, expr: &Expr, plan: &LogicalPlan, how: Use) {
        let mut uses = Vec::new();
        uses_of(&follow(expr, plan), how, &mut uses);
        for (Column { relation, name, .. }, how) in uses {
            let Some(key) = relation.as_ref().map(TableReference::table) else { continue };
            let kind = field_of(plan, key, &name).map(|field| field.data_type().to_string());
            let Some(input) = self.inputs.get_mut(key) else { continue };
            let unused = UsedColumn { kind: kind.unwrap_or_default(), how };
            let used = input.used.entry(name).or_insert(unused);
            used.how = used.how.max(how);
        }
    }

    /// Takes note of which rows a plan gives.
    fn read(&mut self, plan: &LogicalPlan) {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let key = scan.table_name.table();
                let input = self.inputs.get(key).map(|input| &input.input);
                let told = input.map(|input| format!("read {key}: {} of {:?}", input.kind, input.name));
                self.rows.push(Told::plain(told.unwrap_or_default()));
            }
            LogicalPlan::Filter(filter) => {
                self.take_note(&filter.predicate, &filter.input);
                self.rows.push(Told::of(&filter.predicate, &filter.input));
            }
            LogicalPlan::Join(join) => {
                self.multiplies = true;
                let mut on = Vec::new();
                for (left, right) in &join.on {
                    self.take_note(left, &join.left);
                    self.take_note(right, &join.right);
                    on.extend([follow(left, &join.left), follow(right, &join.right)]);
                }
                if let Some(filter) = &join.filter {
                    self.take_note(filter, plan);
                    on.push(follow(filter, plan));
                }
                let what =
                    format!("{} join, {} keys, {:?}", join.join_type, join.on.len(), join.null_equality);
                self.rows.push(Told::all(what, &on));
            }
            LogicalPlan::Unnest(unnest) => {
                self.multiplies = true;
                let column = |column: &Column| {
                    let column = Expr::Column(column.clone());
                    self.take_note(&column, &unnest.input);
                    follow(&column, &unnest.input)
                };
                let columns: Vec<Expr> = unnest.exec_columns.iter().map(column).collect();
                self.rows.push(Told::all(format!("unnest {:?}", unnest.options), &columns));
            }
            _ => {}
        }
        plan.inputs().into_iter().for_each(|input| self.read(input));
    }

    fn groups(&mut self, aggregate: &Aggregate) -> Vec<Told> {
        let group = |expr: &Expr| {
            self.take_note(expr, &aggregate.input);
            Told::of(expr, &aggregate.input)
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
                    let how = if keeps_values(function.func.name()) { Use::Kept } else { Use::Computed };
                    let params = function.params;
                    params.args.iter().for_each(|argument| self.take_note_of(argument, input, how));
                    params.filter.iter().for_each(|filter| self.take_note(filter, input));
                    params.order_by.iter().for_each(|sort| self.take_note(&sort.expr, input));
                }
                other => self.take_note(&other, input),
            }
            found.push(AggregateDefinition { told: Told::of(expr, input), passes_nulls });
        }
        found
    }
}

/// Whether an aggregate takes values as they are: others may be given texts of them, which differ with their types.
fn keeps_values(name: &str) -> bool {
    PASS_NULLS.contains(&name) || ["array_agg", "first_value", "last_value"].contains(&name)
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

/// The conditions above the aggregate of a plan.
fn conditions_above(plan: &LogicalPlan) -> Vec<ResultDefinition> {
    let mut found = Vec::new();
    let mut node = plan;
    while !matches!(node, LogicalPlan::Aggregate(_)) {
        if let LogicalPlan::Filter(filter) = node {
            let told = Told::of(&filter.predicate, &filter.input);
            found.push(ResultDefinition { name: String::new(), told, column: None });
        }
        match node.inputs().first() {
            Some(input) => node = input,
            None => break,
        }
    }
    found
}
