//! Turns windows as written into columns of the relation that has the time.

use std::ops::ControlFlow;

use catchment_core::{Code, Error, Result};
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, ObjectNamePart, OrderByKind, Query, Select, SelectItem, SetExpr, Spanned,
    TableAlias, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::stagger::STAGGER_BEGINS;
use super::written::{FAMILIES, Window, arguments, column, function_name, plain_argument, shape};
use super::{CLOSED, WINDOW_END, WINDOW_START, WINDOW_TIME, WindowShape};
use crate::dialect::CatchmentDialect;
use crate::hidden;
use crate::query::{STREAM_MARK, normal};
use crate::stream_words::KEYS;
use crate::text::SqlText;

/// Rewrites the windows of all queries in a query, the inner ones first.
///
/// # Errors
/// Returns [`Code::SQL_SYNTAX`] for windows that cannot be read, and [`Code::NOT_SUPPORTED`].
pub(crate) fn rewrite(query: &mut Query, text: &SqlText) -> Result<()> {
    let mut rewriter = Rewriter { text, errors: Vec::new() };
    let _ = query.visit(&mut rewriter);
    Error::join(rewriter.errors)
}

struct Rewriter<'a> {
    text: &'a SqlText,
    errors: Vec<Error>,
}

impl VisitorMut for Rewriter<'_> {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match table_function(factor, self.text) {
            Ok(Some(windowed)) => *factor = windowed,
            Ok(None) => {}
            Err(error) => self.errors.push(error),
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let mut windows = Vec::new();
        for select in selects(&mut query.body) {
            match group_window(select, self.text) {
                Ok(window) => windows.extend(window),
                Err(error) => self.errors.push(error),
            }
        }
        if let ([window], Some(order)) = (windows.as_slice(), &mut query.order_by)
            && let OrderByKind::Expressions(expressions) = &mut order.kind
        {
            let mut replace = Replace { window };
            for expression in expressions {
                let _ = expression.expr.visit(&mut replace);
            }
        }
        ControlFlow::Continue(())
    }
}

/// The selects of a query, those of its unions each.
fn selects(body: &mut SetExpr) -> Vec<&mut Select> {
    match body {
        SetExpr::Select(select) => vec![select.as_mut()],
        SetExpr::SetOperation { left, right, .. } => {
            let mut found = selects(left);
            found.extend(selects(right));
            found
        }
        _ => Vec::new(),
    }
}

/// A group window in `GROUP BY`: its columns are added to the relation, and take the places of its calls.
fn group_window(select: &mut Select, text: &SqlText) -> Result<Option<Window>> {
    let mut window: Option<Window> = None;
    if let GroupByExpr::Expressions(expressions, _) = &mut select.group_by {
        *expressions = without_windows(std::mem::take(expressions), &mut window, text)?;
    }
    let Some(window) = window else {
        return match bound_without_window(select) {
            Some(expr) => {
                Err(Error::new(Code::SQL_SYNTAX, format!("{expr} tells of a window, and GROUP BY has none"))
                    .at(text.place(expr.span())))
            }
            None => Ok(None),
        };
    };
    if window.shape.is_of_others() {
        // What makes a session is decided among the rows that the query wants.
        let (keys, wanted) = (other_groups(select, text)?, select.selection.take());
        let factor = only_factor(select, &window.time, text)?;
        let query = of_others(window.shape, keys.len(), wanted.is_some(), "*");
        *factor = derived_from(&query, factor, &window.time, (&keys, wanted.as_ref()), text)?;
    } else {
        let factor = timed_factor(select, &window.time, text)?;
        *factor = windowed(factor, window.shape, &window.time, "*", text)?;
    }
    for item in &mut select.projection {
        window.name(item);
    }
    let _ = select.visit(&mut Replace { window: &window });
    if let Some(expr) = bound_without_window(select) {
        return Err(Error::new(
            Code::SQL_SYNTAX,
            format!("{expr} tells of another window than the one in GROUP BY"),
        )
        .at(text.place(expr.span())));
    }
    Ok(Some(window))
}

/// Groups with the window's columns in the places of its calls, in grouping sets, too.
fn without_windows(groups: Vec<Expr>, window: &mut Option<Window>, text: &SqlText) -> Result<Vec<Expr>> {
    let mut without = Vec::with_capacity(groups.len() + 1);
    for mut group in groups {
        if let Some(found) = Window::parse(&group, text)? {
            if window.as_ref().is_some_and(|known| *known != found) {
                return Err(Error::new(Code::NOT_SUPPORTED, "GROUP BY has two windows")
                    .at(text.place(group.span()))
                    .hint("make it two queries"));
            }
            without.extend([column(WINDOW_START), column(WINDOW_END)]);
            *window = Some(found);
            continue;
        }
        if let Expr::GroupingSets(sets) | Expr::Rollup(sets) | Expr::Cube(sets) = &mut group {
            for set in sets {
                *set = without_windows(std::mem::take(set), window, text)?;
            }
        }
        without.push(group);
    }
    Ok(without)
}

/// A bound of a window among the results of a select.
fn bound_without_window(select: &Select) -> Option<Expr> {
    select.projection.iter().find_map(|item| {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            return None;
        };
        let Expr::Function(function) = expr else { return None };
        let name = function_name(function);
        let (family, bound) = name.rsplit_once('_')?;
        let is_window = FAMILIES.iter().any(|(known, _)| *known == family);
        (is_window && ["start", "end"].contains(&bound)).then(|| expr.clone())
    })
}

/// Puts columns into the places of calls.
struct Replace<'a> {
    window: &'a Window,
}

impl VisitorMut for Replace<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(bound) = self.window.bound(expr) {
            *expr = column(bound);
        } else if self.window.is_whole(expr) {
            let call = format!("named_struct('start', \"{WINDOW_START}\", 'end', \"{WINDOW_END}\")");
            if let Ok(parsed) =
                Parser::new(&CatchmentDialect).try_with_sql(&call).and_then(|mut parser| parser.parse_expr())
            {
                *expr = parsed;
            }
        }
        ControlFlow::Continue(())
    }
}

/// Flink's `TUMBLE(TABLE t, DESCRIPTOR(ts), size)` as a relation; `TABLE(...)` around it was taken away with the words.
fn table_function(factor: &TableFactor, text: &SqlText) -> Result<Option<TableFactor>> {
    let TableFactor::Table { name, args: Some(args), alias, .. } = factor else { return Ok(None) };
    let span = name.span();
    let Some(function) = name.0.iter().filter_map(ObjectNamePart::as_ident).next_back().map(normal) else {
        return Ok(None);
    };
    let Some((_, family)) = FAMILIES.iter().find(|(known, _)| *known == function) else { return Ok(None) };
    let wrong = || {
        Error::new(Code::SQL_SYNTAX, format!("{} is not called as a table function", function.to_uppercase()))
            .at(text.place(span))
            .hint("write TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))")
    };
    let plain: Vec<Expr> = args.args.iter().map(plain_argument).collect::<Option<_>>().ok_or_else(wrong)?;
    let (relation, keys, rest) = match plain.as_slice() {
        [relation, Expr::Function(keys), rest @ ..] if function_name(keys) == KEYS => {
            (relation, arguments(keys), rest)
        }
        [relation, rest @ ..] => (relation, Vec::new(), rest),
        [] => return Err(wrong()),
    };
    let [descriptor, lengths @ ..] = rest else { return Err(wrong()) };
    let parts = match relation {
        Expr::Identifier(ident) => vec![ident.clone()],
        Expr::CompoundIdentifier(parts) => parts.clone(),
        _ => return Err(wrong()),
    };
    let time = match descriptor {
        Expr::Function(call) if function_name(call) == "descriptor" => {
            arguments(call).into_iter().next().ok_or_else(wrong)?
        }
        _ => return Err(wrong()),
    };
    let shape = shape(*family, lengths).map_err(|error| error.at(text.place(span)))?;
    let mut inner = factor.clone();
    let is_stream = name.0.len() > 1
        && name.0.first().and_then(ObjectNamePart::as_ident).is_some_and(|first| first.value == STREAM_MARK);
    if let TableFactor::Table { name, args, alias, .. } = &mut inner {
        let mark = is_stream.then(|| Ident::new(STREAM_MARK));
        name.0 = mark.into_iter().chain(parts.clone()).map(ObjectNamePart::Identifier).collect();
        *args = None;
        *alias = None;
    }
    // The last millisecond of the window is its time, as in Flink.
    let hidden = match shape {
        WindowShape::Session { .. } => {
            format!(", \"{WINDOW_TIME}\", \"__window_begins\", \"__window_number\"")
        }
        WindowShape::Stagger { .. } => format!(", \"{WINDOW_TIME}\""),
        _ => String::new(),
    };
    let results = format!(
        "* EXCLUDE (\"{WINDOW_START}\", \"{WINDOW_END}\"{hidden}), \"{WINDOW_START}\" AS window_start, \"{WINDOW_END}\" AS window_end, __window_shift(\"{WINDOW_END}\", -1000) AS window_time"
    );
    let mut found = match shape.is_of_others() {
        true => {
            derived_from(&of_others(shape, keys.len(), false, &results), &inner, &time, (&keys, None), text)?
        }
        false => windowed(&inner, shape, &time, &results, text)?,
    };
    if let (TableFactor::Derived { alias: found, .. }, Some(alias)) = (&mut found, alias) {
        *found = Some(alias.clone());
    }
    Ok(Some(found))
}

/// What stands in `GROUP BY` besides the window: the expressions that numbers and names of results stand for.
fn other_groups(select: &Select, text: &SqlText) -> Result<Vec<Expr>> {
    let GroupByExpr::Expressions(groups, _) = &select.group_by else { return Ok(Vec::new()) };
    let is_set = |group: &&Expr| matches!(group, Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_));
    if let Some(set) = groups.iter().find(is_set) {
        let what = "several sets of groups beside windows that depend on other rows are not supported";
        return Err(Error::new(Code::NOT_SUPPORTED, what)
            .at(text.place(set.span()))
            .hint("make it one query for each set, with UNION ALL"));
    }
    let bounds = [column(WINDOW_START), column(WINDOW_END)];
    groups.iter().filter(|group| !bounds.contains(group)).map(|group| key(select, group, text)).collect()
}

/// The expression that an element of `GROUP BY` stands for.
fn key(select: &Select, group: &Expr, text: &SqlText) -> Result<Expr> {
    let wrong = |what: &str| {
        Err(Error::new(Code::SQL_SYNTAX, format!("{group} {what}")).at(text.place(group.span())))
    };
    match group {
        Expr::Value(value) => {
            let number =
                value.value.to_string().parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            match number.and_then(|index| select.projection.get(index)) {
                Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => {
                    Ok(expr.clone())
                }
                _ => wrong("is the number of no result"),
            }
        }
        Expr::Identifier(ident) => {
            let named = select.projection.iter().find_map(|item| match item {
                SelectItem::ExprWithAlias { expr, alias } if normal(alias) == normal(ident) => Some(expr),
                _ => None,
            });
            match named {
                None => Ok(group.clone()),
                Some(Expr::Identifier(of)) if normal(of) == normal(ident) => Ok(group.clone()),
                Some(expr) if expr.to_string().to_lowercase().contains(&normal(ident)) => {
                    wrong("may be a result or a column; write the expression itself")
                }
                Some(expr) => Ok(expr.clone()),
            }
        }
        _ => Ok(group.clone()),
    }
}

/// The relation of a select that has no other: its columns make the keys of sessions.
fn only_factor<'a>(select: &'a mut Select, time: &Expr, text: &SqlText) -> Result<&'a mut TableFactor> {
    match select.from.as_mut_slice() {
        [from] if from.joins.is_empty() => Ok(&mut from.relation),
        _ => Err(Error::new(Code::NOT_SUPPORTED, "sessions over several relations are not supported yet")
            .at(text.place(time.span()))
            .hint("join them in a subquery: FROM (SELECT ... FROM a JOIN b ...) x GROUP BY ..., SESSION(ts, gap)")),
    }
}

/// Finds the windows that depend on the other rows of a key: sessions, whose events follow each other by less than the gap,
/// and staggered windows, which begin with an event.
fn of_others(shape: WindowShape, keys: usize, has_condition: bool, results: &str) -> String {
    let keys: Vec<String> = (0..keys).map(|index| format!("\"$key{index}\"")).collect();
    let time = format!("\"{WINDOW_TIME}\"");
    let of_keys = match keys.as_slice() {
        [] => String::new(),
        keys => format!("PARTITION BY {} ", keys.join(", ")),
    };
    let wanted = if has_condition { " WHERE \"$where\"" } else { "" };
    let timed = |function: &str, length: i64| {
        format!("SELECT \"$alias\".*, {function}(\"$time\", {length}) AS {time} FROM \"$from\"{wanted}")
    };
    let bounded = match shape {
        WindowShape::Stagger { size } => {
            let timed = timed("__window_stagger", size);
            let begun = format!(
                "SELECT *, {STAGGER_BEGINS}({time}, {size}) OVER ({of_keys}ORDER BY {time}) AS \"{WINDOW_START}\" FROM ({timed}) AS \"$alias\""
            );
            format!(
                "SELECT *, __window_shift(\"{WINDOW_START}\", {size}) AS \"{WINDOW_END}\" FROM ({begun}) AS \"$alias\""
            )
        }
        other => {
            let gap = other.ends(0).1;
            sessions(&timed("__window_session", gap), gap, &keys, &of_keys)
        }
    };
    format!("SELECT {results} FROM ({bounded}) AS \"$alias\" WHERE {CLOSED}(\"{WINDOW_END}\")")
}

/// Numbers the sessions of each key, and gives each row the bounds of its own.
fn sessions(timed: &str, gap: i64, keys: &[String], of_keys: &str) -> String {
    let time = format!("\"{WINDOW_TIME}\"");
    let of_session = [keys, &["\"__window_number\"".to_owned()]].concat().join(", ");
    let begins = format!(
        "SELECT *, CASE WHEN __window_shift(lag({time}) OVER ({of_keys}ORDER BY {time}), {gap}) > {time} THEN 0 ELSE 1 END AS \"__window_begins\" FROM ({timed}) AS \"$alias\""
    );
    let numbered = format!(
        "SELECT *, sum(\"__window_begins\") OVER ({of_keys}ORDER BY {time}) AS \"__window_number\" FROM ({begins}) AS \"$alias\""
    );
    format!(
        "SELECT *, min({time}) OVER (PARTITION BY {of_session}) AS \"{WINDOW_START}\", __window_shift(max({time}) OVER (PARTITION BY {of_session}), {gap}) AS \"{WINDOW_END}\" FROM ({numbered}) AS \"$alias\""
    )
}

/// Puts a relation's rows into windows.
fn windowed(
    factor: &TableFactor,
    shape: WindowShape,
    time: &Expr,
    results: &str,
    text: &SqlText,
) -> Result<TableFactor> {
    let (first, second) = match shape {
        WindowShape::Tumble { size, offset } => (
            format!("__window_tumble(\"$time\", {size}, {offset}) AS \"{WINDOW_START}\""),
            format!("__window_shift(\"{WINDOW_START}\", {size}) AS \"{WINDOW_END}\""),
        ),
        WindowShape::Hop { slide, size, offset } => (
            format!("unnest(__window_hop(\"$time\", {slide}, {size}, {offset})) AS \"{WINDOW_START}\""),
            format!("__window_shift(\"{WINDOW_START}\", {size}) AS \"{WINDOW_END}\""),
        ),
        WindowShape::Cumulate { step, size, offset } => (
            format!("unnest(__window_cumulate(\"$time\", {step}, {size}, {offset})) AS \"{WINDOW_END}\""),
            format!(
                "__window_floor(__window_shift(\"{WINDOW_END}\", -1), {size}, {offset}) AS \"{WINDOW_START}\""
            ),
        ),
        WindowShape::Session { .. } | WindowShape::Stagger { .. } | WindowShape::Meeting { .. } => {
            return Err(Error::new(Code::INTERNAL, "windows that depend on other rows are made otherwise")
                .at(text.place(time.span())));
        }
    };
    let query = format!(
        "SELECT {results} FROM (SELECT *, {second} FROM (SELECT \"$alias\".*, {first} FROM \"$from\") AS \"$first\") AS \"$second\" WHERE {CLOSED}(\"{WINDOW_END}\")"
    );
    derived(&query, factor, time, text)
}

/// A relation made from another by a query over `"$from"` with the time as `"$time"`.
pub(super) fn derived(query: &str, factor: &TableFactor, time: &Expr, text: &SqlText) -> Result<TableFactor> {
    derived_from(query, factor, time, (&[], None), text)
}

/// The same, with keys as `"$key0"` and so on, and a condition as `"$where"`.
fn derived_from(
    query: &str,
    factor: &TableFactor,
    time: &Expr,
    (keys, condition): (&[Expr], Option<&Expr>),
    text: &SqlText,
) -> Result<TableFactor> {
    let internal = |error| Error::new(Code::INTERNAL, "could not write a window's query").because(error);
    let alias = alias_of(factor).ok_or_else(|| {
        Error::new(Code::SQL_SYNTAX, "the relation of a window needs a name").at(text.place(time.span()))
    })?;
    let query = query.replace("\"$alias\"", &alias.name.to_string());
    let mut parser = Parser::new(&CatchmentDialect).try_with_sql(&query).map_err(internal)?;
    let mut subquery = parser.parse_query().map_err(internal)?;
    hidden::keep(&mut subquery);
    let mut factor = factor.clone();
    if let TableFactor::Derived { alias: none @ None, .. } = &mut factor {
        *none = Some(alias.clone());
    }
    let _ = subquery.visit(&mut Fill { factor: &factor, time, keys, condition });
    // The relation's own columns have their names within.
    let alias = TableAlias { columns: Vec::new(), ..alias };
    Ok(TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None })
}

struct Fill<'a> {
    factor: &'a TableFactor,
    time: &'a Expr,
    keys: &'a [Expr],
    condition: Option<&'a Expr>,
}

impl VisitorMut for Fill<'_> {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if matches!(factor, TableFactor::Table { name, .. } if name.to_string() == "\"$from\"") {
            *factor = self.factor.clone();
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Identifier(ident) = &*expr else { return ControlFlow::Continue(()) };
        let key = ident.value.strip_prefix("$key").and_then(|index| index.parse::<usize>().ok());
        let filled = match ident.value.as_str() {
            "$time" => Some(self.time),
            "$where" => self.condition,
            _ => key.and_then(|index| self.keys.get(index)),
        };
        if let Some(filled) = filled.cloned() {
            *expr = filled;
        }
        ControlFlow::Continue(())
    }
}

/// The relation of a select that has the time: the one that it names, the only one, or the only stream.
fn timed_factor<'a>(select: &'a mut Select, time: &Expr, text: &SqlText) -> Result<&'a mut TableFactor> {
    let mut factors: Vec<&mut TableFactor> = select
        .from
        .iter_mut()
        .flat_map(|from| {
            std::iter::once(&mut from.relation).chain(from.joins.iter_mut().map(|join| &mut join.relation))
        })
        .collect();
    let named = match time {
        Expr::CompoundIdentifier(parts) => parts.iter().rev().nth(1).map(normal),
        _ => None,
    };
    let mut found: Vec<usize> = factors
        .iter()
        .enumerate()
        .filter(|(_, factor)| match &named {
            Some(name) => alias_of(factor).is_some_and(|alias| normal(&alias.name) == *name),
            None => true,
        })
        .map(|(index, _)| index)
        .collect();
    if found.is_empty() {
        // What stands before the last point may be a column with fields.
        found = (0..factors.len()).collect();
    }
    let streams: Vec<usize> = found.iter().copied().filter(|index| is_stream(factors[*index])).collect();
    match (found.as_slice(), streams.as_slice()) {
        ([index], _) | (_, [index]) => Ok(factors.swap_remove(*index)),
        _ => Err(Error::new(
            Code::SQL_SYNTAX,
            format!("it is not clear which relation has the window's time {time}"),
        )
        .at(text.place(time.span()))
        .hint("write its relation before it, as in clicks.event_time")),
    }
}

fn is_stream(factor: &TableFactor) -> bool {
    let mut found = false;
    let mut factor = factor.clone();
    let _ = datafusion::sql::sqlparser::ast::visit_relations_mut(&mut factor, |name| {
        found |=
            name.0.first().and_then(ObjectNamePart::as_ident).is_some_and(|first| first.value == STREAM_MARK);
        ControlFlow::<()>::Continue(())
    });
    found
}

/// The name that a relation has in its query.
fn alias_of(factor: &TableFactor) -> Option<TableAlias> {
    match factor {
        TableFactor::Derived { alias: None, .. } => Some(TableAlias {
            explicit: true,
            name: Ident::with_quote('"', "__unnamed"),
            columns: Vec::new(),
            at: None,
        }),
        TableFactor::Derived { alias, .. } => alias.clone(),
        TableFactor::Table { alias: Some(alias), .. } => Some(alias.clone()),
        TableFactor::Table { name, .. } => {
            let last = name.0.iter().filter_map(ObjectNamePart::as_ident).next_back()?;
            Some(TableAlias { explicit: true, name: last.clone(), columns: Vec::new(), at: None })
        }
        _ => None,
    }
}
