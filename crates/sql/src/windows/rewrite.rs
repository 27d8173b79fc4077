//! Turns windows as written into columns of the relation that has the time.

use std::ops::ControlFlow;

use catchment_core::{Code, Error, Result};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, ObjectNamePart,
    OrderByKind, Query, Select, SelectItem, SetExpr, Spanned, TableAlias, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::{CLOSED, MOST_WINDOWS, WINDOW_END, WINDOW_START, WindowShape, interval};
use crate::dialect::CatchmentDialect;
use crate::query::{STREAM_MARK, normal};
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

/// A window as written.
#[derive(Debug, Clone, PartialEq)]
struct Window {
    shape: WindowShape,
    time: Expr,
    /// The call, as `*_START` and `*_END` repeat it.
    arguments: Vec<Expr>,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Tumble,
    Hop,
    Cumulate,
    /// Spark's `window(ts, size [, slide [, offset]])`, a column with a start and an end.
    Window,
}

const FAMILIES: &[(&str, Family)] = &[
    ("tumble", Family::Tumble),
    ("hop", Family::Hop),
    ("cumulate", Family::Cumulate),
    ("window", Family::Window),
];

/// Windows that depend on what came before them.
const NOT_YET: &[&str] = &["session", "session_window", "stagger"];

/// A group window in `GROUP BY`: its columns are added to the relation, and take the places of its calls.
fn group_window(select: &mut Select, text: &SqlText) -> Result<Option<Window>> {
    let mut window: Option<Window> = None;
    if let GroupByExpr::Expressions(expressions, _) = &mut select.group_by {
        let mut groups = Vec::with_capacity(expressions.len() + 1);
        for expression in expressions.drain(..) {
            let Some(found) = Window::parse(&expression, text)? else {
                groups.push(expression);
                continue;
            };
            if window.as_ref().is_some_and(|known| *known != found) {
                return Err(Error::new(Code::NOT_SUPPORTED, "GROUP BY has two windows")
                    .at(text.place(expression.span()))
                    .hint("make it two queries"));
            }
            groups.extend([column(WINDOW_START), column(WINDOW_END)]);
            window = Some(found);
        }
        *expressions = groups;
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
    let factor = timed_factor(select, &window.time, text)?;
    *factor = windowed(factor, window.shape, &window.time, "*", text)?;
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

/// A bound of a window among the results of a select.
fn bound_without_window(select: &Select) -> Option<Expr> {
    select.projection.iter().find_map(|item| {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            return None;
        };
        let Expr::Function(function) = expr else { return None };
        let name = function_name(function);
        let (family, bound) = name.rsplit_once('_')?;
        let is_window = FAMILIES.iter().any(|(known, _)| *known == family) || NOT_YET.contains(&family);
        (is_window && ["start", "end"].contains(&bound)).then(|| expr.clone())
    })
}

impl Window {
    fn parse(expr: &Expr, text: &SqlText) -> Result<Option<Self>> {
        let Expr::Function(function) = expr else { return Ok(None) };
        let name = function_name(function);
        if NOT_YET.contains(&name.as_str()) {
            return Err(Error::new(
                Code::NOT_SUPPORTED,
                format!("{} windows are not supported yet", name.to_uppercase()),
            )
            .at(text.place(expr.span())));
        }
        let Some((_, family)) = FAMILIES.iter().find(|(known, _)| *known == name) else { return Ok(None) };
        let arguments = arguments(function);
        let Some((time, lengths)) = arguments.split_first() else { return Ok(None) };
        let shape = shape(*family, lengths).map_err(|error| error.at(text.place(expr.span())))?;
        Ok(Some(Self { shape, time: time.clone(), arguments: arguments.clone(), family: *family }))
    }

    /// The column that a call stands for: a bound of this window.
    fn bound(&self, expr: &Expr) -> Option<&'static str> {
        match expr {
            Expr::Function(function) => {
                let name = function_name(function);
                let (family, bound) = name.rsplit_once('_')?;
                let (_, family) = FAMILIES.iter().find(|(known, _)| *known == family)?;
                let column = if bound == "start" { WINDOW_START } else { WINDOW_END };
                let is_mine = *family == self.family && arguments(function) == self.arguments;
                (is_mine && ["start", "end"].contains(&bound)).then_some(column)
            }
            Expr::CompoundIdentifier(parts) if self.family == Family::Window => {
                match parts.iter().map(normal).collect::<Vec<_>>().as_slice() {
                    [window, bound] if window == "window" && bound == "start" => Some(WINDOW_START),
                    [window, bound] if window == "window" && bound == "end" => Some(WINDOW_END),
                    _ => None,
                }
            }
            // `window(...).start`
            Expr::CompoundFieldAccess { root, access_chain } => {
                let call = matches!(root.as_ref(), Expr::Function(function)
                    if function_name(function) == "window" && arguments(function) == self.arguments);
                match access_chain.iter().map(ToString::to_string).collect::<String>().to_lowercase().as_str()
                {
                    ".start" if call => Some(WINDOW_START),
                    ".end" if call => Some(WINDOW_END),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether an expression is the window as a whole, of Spark's form.
    fn is_whole(&self, expr: &Expr) -> bool {
        self.family == Family::Window
            && match expr {
                Expr::Identifier(ident) => normal(ident) == "window",
                Expr::Function(function) => {
                    function_name(function) == "window" && arguments(function) == self.arguments
                }
                _ => false,
            }
    }

    /// Gives a result that has no name the one that people expect.
    fn name(&self, item: &mut SelectItem) {
        let SelectItem::UnnamedExpr(expr) = item else { return };
        let name = match (self.bound(expr), self.is_whole(expr)) {
            (Some(WINDOW_START), _) if self.family == Family::Window => "start",
            (Some(_), _) if self.family == Family::Window => "end",
            (Some(WINDOW_START), _) => "window_start",
            (Some(_), _) => "window_end",
            (None, true) => "window",
            (None, false) => return,
        };
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', name) };
    }
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
    if NOT_YET.contains(&function.as_str()) {
        return Err(Error::new(
            Code::NOT_SUPPORTED,
            format!("{} windows are not supported yet", function.to_uppercase()),
        )
        .at(text.place(span)));
    }
    let Some((_, family)) = FAMILIES.iter().find(|(known, _)| *known == function) else { return Ok(None) };
    let wrong = || {
        Error::new(Code::SQL_SYNTAX, format!("{} is not called as a table function", function.to_uppercase()))
            .at(text.place(span))
            .hint("write TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))")
    };
    let plain: Vec<Expr> = args.args.iter().map(plain_argument).collect::<Option<_>>().ok_or_else(wrong)?;
    let [relation, descriptor, lengths @ ..] = plain.as_slice() else { return Err(wrong()) };
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
    let results = format!(
        "* EXCLUDE (\"{WINDOW_START}\", \"{WINDOW_END}\"), \"{WINDOW_START}\" AS window_start, \"{WINDOW_END}\" AS window_end, __window_shift(\"{WINDOW_END}\", -1000) AS window_time"
    );
    let mut found = windowed(&inner, shape, &time, &results, text)?;
    if let (TableFactor::Derived { alias: found, .. }, Some(alias)) = (&mut found, alias) {
        *found = Some(alias.clone());
    }
    Ok(Some(found))
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
    };
    let query = format!(
        "SELECT {results} FROM (SELECT *, {second} FROM (SELECT \"$alias\".*, {first} FROM \"$from\") AS \"$first\") AS \"$second\" WHERE {CLOSED}(\"{WINDOW_END}\")"
    );
    derived(&query, factor, time, text)
}

/// A relation made from another by a query over `"$from"` with the time as `"$time"`.
pub(super) fn derived(query: &str, factor: &TableFactor, time: &Expr, text: &SqlText) -> Result<TableFactor> {
    let internal = |error| Error::new(Code::INTERNAL, "could not write a window's query").because(error);
    let alias = alias_of(factor).ok_or_else(|| {
        Error::new(Code::SQL_SYNTAX, "the relation of a window needs a name").at(text.place(time.span()))
    })?;
    let query = query.replace("\"$alias\"", &alias.name.to_string());
    let mut parser = Parser::new(&CatchmentDialect).try_with_sql(&query).map_err(internal)?;
    let mut subquery = parser.parse_query().map_err(internal)?;
    let _ = subquery.visit(&mut Fill { factor, time });
    // The relation's own columns have their names within.
    let alias = TableAlias { columns: Vec::new(), ..alias };
    Ok(TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None })
}

struct Fill<'a> {
    factor: &'a TableFactor,
    time: &'a Expr,
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
        if matches!(expr, Expr::Identifier(ident) if ident.value == "$time") {
            *expr = self.time.clone();
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
    let found: Vec<usize> = factors
        .iter()
        .enumerate()
        .filter(|(_, factor)| match &named {
            Some(name) => alias_of(factor).is_some_and(|alias| normal(&alias.name) == *name),
            None => true,
        })
        .map(|(index, _)| index)
        .collect();
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

fn shape(family: Family, lengths: &[Expr]) -> Result<WindowShape> {
    let lengths: Vec<i64> = lengths.iter().map(interval::micros).collect::<Result<_>>()?;
    let shape = match (family, lengths.as_slice()) {
        (Family::Tumble | Family::Window, [size]) => WindowShape::Tumble { size: *size, offset: 0 },
        (Family::Tumble, [size, offset]) => WindowShape::Tumble { size: *size, offset: *offset },
        (Family::Window, [size, slide, rest @ ..]) if rest.len() < 2 => {
            let offset = rest.first().copied().unwrap_or(0);
            match size == slide {
                true => WindowShape::Tumble { size: *size, offset },
                false => WindowShape::Hop { slide: *slide, size: *size, offset },
            }
        }
        (Family::Hop, [slide, size, rest @ ..]) if rest.len() < 2 => {
            WindowShape::Hop { slide: *slide, size: *size, offset: rest.first().copied().unwrap_or(0) }
        }
        (Family::Cumulate, [step, size, rest @ ..]) if rest.len() < 2 => {
            WindowShape::Cumulate { step: *step, size: *size, offset: rest.first().copied().unwrap_or(0) }
        }
        _ => {
            let forms = "TUMBLE(ts, size), HOP(ts, slide, size), CUMULATE(ts, step, size), window(ts, size [, slide])";
            return Err(Error::new(Code::SQL_SYNTAX, "a window has the wrong number of lengths").hint(forms));
        }
    };
    let (step, size) = match shape {
        WindowShape::Tumble { size, .. } => (size, size),
        WindowShape::Hop { slide, size, .. } => (slide, size),
        WindowShape::Cumulate { step, size, .. } => (step, size),
    };
    if [step, size].iter().any(|length| *length > interval::LONGEST) {
        return Err(Error::new(Code::SQL_SYNTAX, "a window is at most a hundred years long"));
    }
    if step <= 0 || size <= 0 {
        return Err(Error::new(Code::SQL_SYNTAX, "a window is at least a microsecond long"));
    }
    if size / step > MOST_WINDOWS {
        return Err(Error::new(
            Code::NOT_SUPPORTED,
            format!("a row would belong to {} windows; {MOST_WINDOWS} are the most", size / step),
        ));
    }
    if matches!(shape, WindowShape::Cumulate { .. }) && size % step != 0 {
        return Err(Error::new(Code::SQL_SYNTAX, "the size of CUMULATE is a multiple of its step"));
    }
    Ok(shape)
}

fn function_name(function: &Function) -> String {
    match function.name.0.as_slice() {
        [ObjectNamePart::Identifier(name)] if function.over.is_none() => normal(name),
        _ => String::new(),
    }
}

fn arguments(function: &Function) -> Vec<Expr> {
    match &function.args {
        FunctionArguments::List(list) => list.args.iter().filter_map(plain_argument).collect(),
        _ => Vec::new(),
    }
}

fn plain_argument(argument: &FunctionArg) -> Option<Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    }
}

fn column(name: &str) -> Expr {
    Expr::Identifier(Ident::with_quote('"', name))
}
