//! Checks serving tables: their keys must fit their queries, and what they remember must have an end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catchment_core::{Code, Error, Result, TableName};
use catchment_flows::{FlowKind, RowKey, Serving, require_incremental};
use catchment_sql::{
    Definition, Planner, Running, Target, WINDOW_END, WINDOW_START, WindowShape, finds_sessions, nearest,
    window_shapes,
};
use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::check::Draft;
use crate::declare_serving::ServingStatement;
use crate::project::{Declared, Project};
use crate::statement::{DatasetKind, DatasetStatement};

impl ServingStatement {
    /// How its rows are found and written.
    pub(crate) fn spec(&self, definition: Definition, ahead: i64) -> Serving {
        let names = |list: &[(String, Span)]| list.iter().map(|(name, _)| name.clone()).collect();
        let key = RowKey {
            primary: names(&self.primary),
            sort: names(&self.sort),
            time_to_live: self.time_to_live,
        };
        Serving { key, emit_every: self.emit_every, ahead, definition }
    }
}

/// A serving table of the project.
pub(crate) fn serving_of<'p>(
    project: &'p Project,
    name: &TableName,
) -> Option<(&'p Declared<DatasetStatement>, &'p ServingStatement)> {
    let declared =
        project.datasets.get(name).filter(|declared| declared.body.kind == DatasetKind::ServingTable)?;
    Some((declared, declared.body.serving.as_ref()?))
}

/// How a serving table goes on: with each row of its streams, or as a whole.
pub(crate) fn kind_of(query: &catchment_sql::BoundQuery) -> FlowKind {
    match query.relations.iter().any(|relation| relation.streaming) {
        true => FlowKind::Append,
        false => FlowKind::Replace,
    }
}

/// Checks the query of a serving table.
pub(crate) fn require_servable(
    draft: &Draft<'_>,
    (declared, serving): (&Declared<DatasetStatement>, &ServingStatement),
    planner: &Planner,
    plan: &LogicalPlan,
    streams: &BTreeSet<String>,
) -> Result<()> {
    let at = |error: Error| error.at(draft.text.place(draft.query.span));
    for relation in &draft.query.relations {
        if let Target::Function { name, .. } = &relation.target
            && (name == "read_files" || !relation.streaming)
        {
            let what = format!("{name} in a serving table is not supported yet");
            return Err(Error::new(Code::NOT_SUPPORTED, what)
                .at(draft.text.place(relation.span))
                .hint("read it into a streaming table, and make the serving table of STREAM that table"));
        }
    }
    let columns: Vec<&str> = plan.schema().fields().iter().map(|field| field.name().as_str()).collect();
    let mut errors = Vec::new();
    for (index, (name, span)) in serving.primary.iter().chain(&serving.sort).enumerate() {
        let mut before = serving.primary.iter().chain(&serving.sort).take(index);
        if !columns.contains(&name.as_str()) {
            let error =
                Error::new(Code::SERVING_KEY, format!("the query has no column \"{name}\" for the key"));
            let hint = match nearest(name, &columns) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("columns: {}", columns.join(", ")),
            };
            errors.push(error.hint(hint).at(declared.text.place(*span)));
        } else if before.any(|(known, _)| known == name) {
            let error = Error::new(Code::SERVING_KEY, format!("column \"{name}\" stands twice in the key"));
            errors.push(error.at(declared.text.place(*span)));
        }
    }
    Error::join(errors)?;
    if draft.kind != FlowKind::Append {
        return Ok(());
    }
    if plan.exists(|node| Ok(finds_sessions(node))).unwrap_or(true) {
        return Err(at(Error::new(
            Code::NOT_SUPPORTED,
            "sessions and staggered windows in a serving table are not supported yet",
        )
        .hint("put them into a streaming table, and make the serving table of STREAM that table")));
    }
    let shapes = window_shapes(plan);
    let windowed = match shapes.is_empty() {
        true => BTreeSet::new(),
        false => streams.clone(),
    };
    let Some(running) = planner.running(plan).map_err(at)? else {
        if !shapes.is_empty() {
            return Err(at(Error::new(
                Code::NOT_SUPPORTED,
                "windows without GROUP BY in a serving table are not supported yet",
            )));
        }
        return require_incremental(plan, streams, &windowed).map_err(at);
    };
    require_incremental(running.below(), streams, &windowed).map_err(at)?;
    if running.above().exists(|node| Ok(node.expressions().iter().any(has_query))).unwrap_or(true) {
        let what = "a query within HAVING or beside aggregates in a serving table is not supported yet";
        return Err(at(Error::new(Code::NOT_SUPPORTED, what).hint("join the table before GROUP BY")));
    }
    let is_dictionary = |field: &&Arc<Field>| holds_dictionary(field.data_type());
    if let Some(field) = running.states().fields().iter().find(is_dictionary) {
        let what = format!("dictionaries in a serving table are not supported yet: {}", field.name());
        return Err(at(Error::new(Code::NOT_SUPPORTED, what).hint("CAST them AS VARCHAR")));
    }
    for (name, span) in serving.primary.iter().chain(&serving.sort) {
        let field = plan.schema().field_with_unqualified_name(name).map(|field| field.data_type().clone());
        if let Ok(DataType::Timestamp(TimeUnit::Nanosecond, _)) = field {
            let what = format!("key column \"{name}\" is finer than the microseconds that a table keeps");
            return Err(Error::new(Code::SERVING_KEY, what)
                .hint("round it: date_trunc('microsecond', ...), or CAST it AS TIMESTAMP(6)")
                .at(declared.text.place(*span)));
        }
    }
    require_groups(declared, serving, &running, &shapes)?;
    if !shapes.is_empty() && serving.time_to_live.is_none() {
        return Err(at(Error::new(
            Code::NOT_SUPPORTED,
            "windows in a serving table would be remembered for ever",
        )
        .hint("say how long they stay: TTL INTERVAL '1' DAY, behind PRIMARY KEY (...)")));
    }
    Ok(())
}

fn has_query(expr: &Expr) -> bool {
    let is_query =
        |expr: &Expr| matches!(expr, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_));
    expr.exists(|expr| Ok(is_query(expr))).unwrap_or(true)
}

fn holds_dictionary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(..) => true,
        DataType::List(field) | DataType::LargeList(field) => holds_dictionary(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_dictionary(field.data_type())),
        _ => false,
    }
}

/// Makes sure that a group has one row, and a row one group.
fn require_groups(
    declared: &Declared<DatasetStatement>,
    serving: &ServingStatement,
    running: &Running,
    shapes: &[WindowShape],
) -> Result<()> {
    let place = declared.text.place(declared.body.name.1);
    let kept: BTreeMap<String, usize> = running.kept_groups().into_iter().collect();
    let mut covered = BTreeSet::new();
    for (name, span) in serving.primary.iter().chain(&serving.sort) {
        match kept.get(name) {
            Some(group) => _ = covered.insert(*group),
            None => {
                return Err(Error::new(
                    Code::SERVING_KEY,
                    format!("key column \"{name}\" is not one that the query groups by"),
                )
                .hint("a row is one group: PRIMARY KEY has the columns of GROUP BY")
                .at(declared.text.place(*span)));
            }
        }
    }
    let names = running.group_names();
    let is_bound = |name: &String| name == WINDOW_START || name == WINDOW_END;
    let has_bound = covered.iter().any(|group| is_bound(&names[*group]));
    // One bound of a window tells the other, but for windows that grow.
    let grows = shapes.iter().any(|shape| matches!(shape, WindowShape::Cumulate { .. }));
    let missing = (0..names.len()).filter(|group| !covered.contains(group));
    let missing: Vec<&str> = missing
        .filter(|group| grows || !has_bound || !is_bound(&names[*group]))
        .map(|group| names[group].trim_start_matches("__"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Code::SERVING_KEY,
        format!("the key leaves out what the query groups by: {}", missing.join(", ")),
    )
    .hint("a row is one group: name these columns in PRIMARY KEY, or in its SORT KEY")
    .at(place))
}
