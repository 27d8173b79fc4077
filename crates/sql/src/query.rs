//! Queries as written: parsed, with the relations they read taken out of them.
//!
//! Every table, view, stream or source function that a query reads becomes a [`Relation`] with a key
//! of its own. Whoever plans the query binds a table provider to each key, so the same text can
//! be planned over whole tables, over one batch of a stream, or over empty tables to check it.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use catchment_core::{Code, Error, Result};
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, Query, Select, TableAlias,
    TableFactor, UnaryOperator, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use crate::dialect::CatchmentDialect;
use crate::hidden::{self, Named};
use crate::stream_words::{selects_stream, take_stream_words, take_window_keys};
use crate::text::SqlText;
use crate::time_travel::{AsOf, as_of, take_names};
use crate::windows::{self, LateRows, Watermark};

/// How deeply expressions and subqueries may nest.
const DEPTH: usize = 128;

/// The name part that marks a relation as read with `STREAM`, until it is taken out.
pub(crate) const STREAM_MARK: &str = "$stream";

/// Something a query reads.
#[derive(Debug, Clone)]
pub struct Relation {
    /// The name that stands for it in the query's syntax tree.
    pub key: String,
    /// What it is.
    pub target: Target,
    /// Whether it is read as a stream: each row once.
    pub streaming: bool,
    /// How its time goes, when it says so.
    pub watermark: Option<Watermark>,
    /// Where it stands in its text.
    pub span: Span,
}

/// What a relation names.
#[derive(Debug, Clone)]
pub enum Target {
    /// A table or view, by the one to three parts of its name.
    Table {
        /// The parts, lowercase unless they were quoted.
        parts: Vec<String>,
        /// The state asked for with `VERSION AS OF` or `TIMESTAMP AS OF`.
        as_of: Option<AsOf>,
    },
    /// A source function and its arguments.
    Function {
        /// Its name, lowercase.
        name: String,
        /// Its arguments in order.
        arguments: Vec<Argument>,
    },
}

impl Target {
    /// The name as a person would write it.
    #[must_use]
    pub fn display(&self) -> String {
        match self {
            Target::Table { parts, .. } => parts.join("."),
            Target::Function { name, .. } => name.clone(),
        }
    }
}

/// An argument of a source function: a literal, with a name unless it is positional.
#[derive(Debug, Clone)]
pub struct Argument {
    /// The name as written.
    pub name: Option<String>,
    /// The value as text: strings without quotes, numbers and booleans as written.
    pub value: String,
    /// Where the argument stands.
    pub span: Span,
}

/// A parsed query, its relations not yet taken out.
#[derive(Debug, Clone)]
pub struct ParsedQuery {
    query: Box<Query>,
    /// The watermarks of its relations, by where these begin.
    watermarks: HashMap<Location, Watermark>,
    selects_stream: bool,
    /// Whether it stands for a source, whose hidden column it passes on to those who name it.
    is_source: bool,
    /// Where the query begins and ends in its text.
    pub span: Span,
}

/// A query whose relations have been taken out.
#[derive(Debug, Clone)]
pub struct BoundQuery {
    /// The syntax tree; every relation stands under its key.
    pub(crate) query: Box<Query>,
    /// What it reads, in the order it stands there.
    pub relations: Vec<Relation>,
    /// Whether it says `SELECT STREAM`.
    pub selects_stream: bool,
    /// Where the query begins and ends in its text.
    pub span: Span,
}

/// What stands around relations and no parser knows, by where the relations begin.
#[derive(Debug, Clone, Default)]
pub struct RelationWords {
    streams: HashSet<Location>,
    watermarks: HashMap<Location, Watermark>,
    /// Whether the statement says `SELECT STREAM`.
    selects_stream: bool,
    /// Where late rows go, when the statement says so.
    pub late: Option<LateRows>,
}

/// Parses the query that the tokens hold from `parser`'s place on.
///
/// # Errors
/// Returns [`Code::SQL_SYNTAX`] with its place.
pub fn parse_query(parser: &mut Parser<'_>, words: &RelationWords, text: &SqlText) -> Result<ParsedQuery> {
    let start = parser.peek_token_ref().span.start;
    let mut query =
        parser.parse_query().map_err(|error| text.syntax_error(&error, parser.peek_token_ref().span))?;
    let end = match parser.index().checked_sub(1) {
        Some(last) => parser.token_at(last).span.end,
        None => start,
    };
    let mut marker = Marker { words, text, used: HashSet::new(), errors: Vec::new() };
    let _ = query.visit(&mut marker);
    let used = marker.used;
    let strays = words.watermarks.iter().filter(|(at, _)| !used.contains(*at)).map(|(_, watermark)| {
        Error::new(Code::SQL_SYNTAX, "WATERMARK does not stand behind a stream")
            .at(text.place(watermark.span))
            .hint("write FROM STREAM name WATERMARK ts DELAY OF INTERVAL '10' SECONDS, within the subquery or in CREATE STREAM")
    });
    Error::join(marker.errors.into_iter().chain(strays))?;
    windows::rewrite(&mut query, text)?;
    Ok(ParsedQuery {
        query,
        watermarks: words.watermarks.clone(),
        selects_stream: words.selects_stream,
        is_source: false,
        span: Span::new(start, end),
    })
}

/// A parser over tokens, the words taken out that it does not know.
///
/// # Errors
/// Returns [`Code::SQL_SYNTAX`] for a watermark that cannot be read.
pub fn parser_for(tokens: Vec<TokenWithSpan>, text: &SqlText) -> Result<(Parser<'static>, RelationWords)> {
    let is_ours = |token: &&TokenWithSpan| matches!(&token.token, Token::Word(word) if word.value.starts_with("__window"));
    if let Some(ours) = tokens.iter().find(is_ours) {
        let error = Error::new(Code::NAME_INVALID, "names that begin with __window are the engine's own");
        return Err(error.at(text.place(ours.span)));
    }
    let tokens = take_window_keys(tokens);
    let selects_stream = (0..tokens.len()).any(|index| selects_stream(&tokens, index));
    let (mut tokens, streams) = take_stream_words(tokens);
    let watermarks = windows::take_watermarks(&mut tokens, text)?;
    let late = windows::take_late_rows(&mut tokens, text)?;
    take_names(&mut tokens);
    let parser =
        Parser::new(&CatchmentDialect).with_recursion_limit(DEPTH).with_tokens_with_locations(tokens);
    Ok((parser, RelationWords { streams, watermarks, selects_stream, late }))
}

/// Parses a text that is one query and nothing else.
///
/// # Errors
/// Returns [`Code::SQL_SYNTAX`] with its place.
pub fn parse_single_query(text: &SqlText) -> Result<ParsedQuery> {
    let (mut parser, words) = parser_for(text.tokens()?, text)?;
    if let Some(late) = &words.late {
        return Err(Error::new(Code::SQL_SYNTAX, "LATE ROWS stands behind the query of a streaming table")
            .at(text.place(late.span)));
    }
    let query = parse_query(&mut parser, &words, text)?;
    while parser.consume_token(&Token::SemiColon) {}
    let next = parser.peek_token_ref();
    if next.token != Token::EOF {
        return Err(
            Error::new(Code::SQL_SYNTAX, format!("unexpected {}", next.token)).at(text.place(next.span))
        );
    }
    Ok(query)
}

impl SqlText {
    /// Parses a text that is one expression and nothing else.
    ///
    /// # Errors
    /// Returns [`Code::SQL_SYNTAX`] with its place.
    pub fn expression(&self) -> Result<(datafusion::sql::sqlparser::ast::Expr, Span)> {
        let (mut parser, _) = parser_for(self.tokens()?, self)?;
        let start = parser.peek_token_ref().span.start;
        let expr =
            parser.parse_expr().map_err(|error| self.syntax_error(&error, parser.peek_token_ref().span))?;
        let next = parser.peek_token_ref();
        if next.token != Token::EOF {
            return Err(
                Error::new(Code::SQL_SYNTAX, format!("unexpected {}", next.token)).at(self.place(next.span))
            );
        }
        Ok((expr, Span::new(start, next.span.end)))
    }
}

/// Marks the relations that stand where `STREAM` stood, and gives them the columns that their watermarks name.
struct Marker<'a> {
    words: &'a RelationWords,
    text: &'a SqlText,
    /// The watermarks that belong to a relation, by where this begins.
    used: HashSet<Location>,
    errors: Vec<Error>,
}

impl VisitorMut for Marker<'_> {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, args, .. } = factor else { return ControlFlow::Continue(()) };
        let of_engine = args.is_some() && !is_source_function(name);
        let Some(span) = name.0.first().and_then(ObjectNamePart::as_ident).map(|first| first.span) else {
            return ControlFlow::Continue(());
        };
        if self.words.streams.contains(&span.start) {
            let mark = Ident::with_span(span, STREAM_MARK);
            name.0.insert(0, ObjectNamePart::Identifier(mark));
        }
        if let Some(watermark) = self.words.watermarks.get(&span.start).filter(|_| !of_engine) {
            self.used.insert(span.start);
            match windows::add_column(factor, watermark, self.text) {
                Ok(with_column) => *factor = with_column,
                Err(error) => self.errors.push(error),
            }
        }
        ControlFlow::Continue(())
    }
}

impl ParsedQuery {
    /// The same query, which stands for a source: those who name the source's hidden column have it.
    #[must_use]
    pub fn standing_for_source(mut self) -> Self {
        self.is_source = true;
        self
    }

    /// Takes the relations out. Those for which `inline` has a query, views that is, are replaced by it.
    ///
    /// # Errors
    /// Returns [`Code::SQL_SYNTAX`] or [`Code::NOT_SUPPORTED`] for a relation that cannot be read.
    pub fn bind(
        &self,
        text: &SqlText,
        inline: &dyn Fn(&Relation) -> Option<ParsedQuery>,
    ) -> Result<BoundQuery> {
        let mut query = self.query.clone();
        let mut relations = Vec::new();
        let scope = Scope {
            text,
            inline,
            watermarks: &self.watermarks,
            inherited: None,
            view: None,
            depth: 0,
            keeps_hidden: false,
        };
        bind_into(&mut query, scope, &mut relations)?;
        Ok(BoundQuery { query, relations, selects_stream: self.selects_stream, span: self.span })
    }
}

/// Views may nest this deeply; a cycle is found before, when the graph is built.
const VIEW_DEPTH: usize = 32;

/// Where a query stands whose relations are taken out.
#[derive(Clone, Copy)]
struct Scope<'a> {
    text: &'a SqlText,
    inline: &'a dyn Fn(&Relation) -> Option<ParsedQuery>,
    watermarks: &'a HashMap<Location, Watermark>,
    /// The watermark of the view that the query is of, for streams in it that have none.
    inherited: Option<&'a Watermark>,
    /// Where the view stands that the query is of: the query itself may stand in another text.
    view: Option<Span>,
    depth: usize,
    /// Whether the query stands for a source whose hidden column is named.
    keeps_hidden: bool,
}

fn bind_into(query: &mut Query, scope: Scope<'_>, relations: &mut Vec<Relation>) -> Result<()> {
    if scope.depth > VIEW_DEPTH {
        return Err(Error::new(Code::SQL_PLAN, format!("views are nested more than {VIEW_DEPTH} deep")));
    }
    let mut named = Named::of(query);
    if !scope.keeps_hidden {
        hidden::forget_unnamed(query, &mut named);
    }
    let mut binder =
        Binder { scope, relations, named, ctes: HashSet::new(), qualified: Vec::new(), errors: Vec::new() };
    let _ = query.visit(&mut binder);
    let Binder { qualified, errors, .. } = binder;
    Error::join(errors)?;
    let _ = query.visit(&mut Unqualifier { qualified });
    Ok(())
}

struct Binder<'a> {
    scope: Scope<'a>,
    relations: &'a mut Vec<Relation>,
    /// Whose hidden columns the query names.
    named: Named,
    ctes: HashSet<String>,
    /// Full names of relations read without an alias.
    qualified: Vec<Vec<String>>,
    errors: Vec<Error>,
}

impl VisitorMut for Binder<'_> {
    type Break = ();

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        hidden::hide_metadata(select, self.relations);
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let names = query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| normal(&cte.alias.name));
        self.ctes.extend(names);
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match self.bound(factor) {
            Ok(Some(bound)) => *factor = bound,
            Ok(None) => {}
            Err(error) => self.errors.push(error),
        }
        ControlFlow::Continue(())
    }
}

/// Whether a function is a source of ours, and none of the engine's such as `generate_series`.
fn is_source_function(name: &ObjectName) -> bool {
    let last = name.0.iter().filter_map(ObjectNamePart::as_ident).next_back().map(normal);
    last.is_some_and(|last| last.starts_with("read_") || last == "cloud_files")
}

impl Binder<'_> {
    /// The factor that stands for a relation; `None` for what is no relation of ours.
    fn bound(&mut self, factor: &TableFactor) -> Result<Option<TableFactor>> {
        let TableFactor::Table { name, alias, args, version, with_hints, sample, .. } = factor else {
            return Ok(None);
        };
        let mut idents: Vec<&Ident> = name.0.iter().filter_map(ObjectNamePart::as_ident).collect();
        let streaming = idents.first().is_some_and(|first| first.value == STREAM_MARK);
        if streaming {
            idents.remove(0);
        }
        let Some((first, last)) = idents.first().zip(idents.last()) else { return Ok(None) };
        if first.value.starts_with('$')
            || (idents.len() == 1 && self.ctes.contains(&normal(first)) && !streaming)
        {
            if let Some(watermark) = self.scope.watermarks.get(&first.span.start) {
                return Err(Error::new(
                    Code::SQL_SYNTAX,
                    format!("WATERMARK stands behind \"{}\", which is a query", first.value),
                )
                .at(self.scope.text.place(watermark.span))
                .hint("write it behind the stream within that query"));
            }
            return Ok(None);
        }
        if args.is_some() && !is_source_function(name) {
            // A function of the engine, such as generate_series.
            return Ok(None);
        }
        let span = self.scope.view.unwrap_or(Span::new(first.span.start, last.span.end));
        let refuse = |what: &str| {
            Err(Error::new(Code::NOT_SUPPORTED, format!("{what} is not supported yet"))
                .at(self.scope.text.place(span)))
        };
        if sample.is_some() {
            return refuse("TABLESAMPLE");
        }
        if !with_hints.is_empty() {
            return refuse("a table hint");
        }
        let parts: Vec<String> = idents.iter().map(|ident| normal(ident)).collect();
        let target = match args {
            Some(args) => Target::Function {
                name: parts.join("."),
                arguments: args
                    .args
                    .iter()
                    .map(|arg| argument(arg, self.scope.text, span))
                    .collect::<Result<_>>()?,
            },
            None => {
                Target::Table { parts: parts.clone(), as_of: as_of(version.as_ref(), self.scope.text, span)? }
            }
        };
        // What is said where a view is read counts more than what is said in it.
        let inherited = self.scope.inherited.filter(|_| streaming);
        let inherited = inherited.map(|outer| Watermark { of_view: true, ..outer.clone() });
        let is_in_view = self.scope.view.is_some();
        let own = self.scope.watermarks.get(&first.span.start);
        let own = own.map(|own| Watermark { declared: is_in_view, ..own.clone() });
        let watermark = inherited.or(own);
        let key = format!("${}", self.relations.len());
        let relation = Relation { key, target, streaming, watermark, span };
        let alias = alias.clone().unwrap_or_else(|| {
            self.qualified.push(parts);
            TableAlias { explicit: true, name: (*last).clone(), columns: Vec::new(), at: None }
        });
        if let Some(view) = (self.scope.inline)(&relation) {
            let mut subquery = view.query;
            let names = |watermark: &Watermark| Named::by(&watermark.time).has_any();
            let is_named = self.named.has(&alias.name) || relation.watermark.as_ref().is_some_and(names);
            let keeps_hidden = view.is_source && is_named;
            if keeps_hidden {
                hidden::keep(&mut subquery);
            }
            let scope = Scope {
                watermarks: &view.watermarks,
                inherited: relation.watermark.as_ref(),
                view: Some(relation.span),
                depth: self.scope.depth + 1,
                keeps_hidden,
                ..self.scope
            };
            bind_into(&mut subquery, scope, self.relations)?;
            return Ok(Some(TableFactor::Derived {
                lateral: false,
                subquery,
                alias: Some(alias),
                sample: None,
            }));
        }
        let mut bound = factor.clone();
        if let TableFactor::Table { name, alias: bound_alias, args, version, .. } = &mut bound {
            *name = ObjectName::from(vec![Ident::with_quote_and_span('"', span, relation.key.as_str())]);
            *bound_alias = Some(alias);
            *args = None;
            *version = None;
        }
        self.relations.push(relation);
        Ok(Some(bound))
    }
}

/// Turns `schema.table.column` into `table.column` for relations that stand under their table's name.
struct Unqualifier {
    qualified: Vec<Vec<String>>,
}

impl VisitorMut for Unqualifier {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(parts) = expr
            && parts.len() > 2
        {
            let names: Vec<String> = parts.iter().map(normal).collect();
            if let Some(known) =
                self.qualified.iter().find(|known| known.len() > 1 && names.starts_with(known))
            {
                parts.drain(..known.len() - 1);
            }
        }
        ControlFlow::Continue(())
    }
}

pub(crate) fn normal(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn argument(arg: &FunctionArg, text: &SqlText, span: Span) -> Result<Argument> {
    let (name, value, span) = match arg {
        FunctionArg::Named { name, arg, .. } => (Some(name.value.clone()), arg, name.span),
        FunctionArg::Unnamed(arg) => (None, arg, span),
        FunctionArg::ExprNamed { name, arg, .. } => (Some(name.to_string()), arg, span),
    };
    let literal = match value {
        FunctionArgExpr::Expr(expr) => literal_text(expr),
        _ => None,
    };
    match literal {
        Some((value, at)) => {
            // A named argument is pointed at by its name, another by its value.
            let at = at.filter(|at| name.is_none() && at.start.line > 0);
            Ok(Argument { name, value, span: at.unwrap_or(span) })
        }
        None => Err(Error::new(Code::OPTION_INVALID, format!("argument {arg} must be a literal"))
            .at(text.place(span))),
    }
}

fn literal_text(expr: &Expr) -> Option<(String, Option<Span>)> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) | Value::Number(text, _) => {
                Some((text.clone(), Some(value.span)))
            }
            Value::Boolean(value_of) => Some((value_of.to_string(), Some(value.span))),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
            literal_text(expr).map(|(text, span)| (format!("-{text}"), span))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{BoundQuery, Target, parse_single_query};
    use crate::text::SqlText;

    fn bound(sql: &str) -> BoundQuery {
        let text = SqlText::new("q.sql", sql);
        parse_single_query(&text).unwrap().bind(&text, &|_| None).unwrap()
    }

    fn relations(sql: &str) -> Vec<(String, bool)> {
        bound(sql).relations.iter().map(|r| (r.target.display(), r.streaming)).collect()
    }

    #[test]
    fn stream_words_are_understood_in_every_form() {
        let yes = |name: &str| vec![(name.to_owned(), true)];
        assert_eq!(relations("SELECT * FROM STREAM raw.t"), yes("raw.t"));
        assert_eq!(relations("SELECT * FROM STREAM(raw.t) AS x"), yes("raw.t"));
        assert_eq!(relations("SELECT * FROM STREAM read_files('a', format => 'json')"), yes("read_files"));
        assert_eq!(relations("SELECT * FROM STREAM(read_files('a')) WHERE x"), yes("read_files"));
        assert_eq!(relations("SELECT * FROM stream"), [("stream".to_owned(), false)]);
        assert_eq!(relations("SELECT * FROM stream s JOIN STREAM b USING (id)").len(), 2);
        let both = [("a".to_owned(), true), ("b".to_owned(), true)];
        assert_eq!(relations("SELECT * FROM STREAM a, STREAM b WHERE a.id = b.id"), both);
        assert_eq!(relations("SELECT extract(day FROM t), stream x FROM STREAM a x, STREAM(b)"), both);
        assert_eq!(relations("SELECT x IS DISTINCT FROM y, stream x FROM STREAM a"), yes("a"));
        assert_eq!(
            relations("SELECT (SELECT 1 FROM STREAM a), stream x FROM STREAM b GROUP BY x, stream"),
            both
        );
    }

    #[test]
    fn common_table_expressions_are_no_relations() {
        assert_eq!(relations("WITH a AS (SELECT * FROM raw.x) SELECT * FROM a JOIN b USING (id)").len(), 2);
    }

    #[test]
    fn full_names_of_columns_still_mean_their_table() {
        let query = bound("SELECT raw.t.id FROM raw.t");
        assert_eq!(query.query.to_string(), "SELECT t.id FROM \"$0\" AS t");
    }

    #[test]
    fn arguments_keep_their_names_and_values() {
        let query = bound("SELECT * FROM read_files('a', maxFilesPerTrigger => 3, header => false)");
        let Target::Function { arguments, .. } = &query.relations[0].target else { panic!("no function") };
        let pairs: Vec<_> = arguments.iter().map(|a| (a.name.as_deref(), a.value.as_str())).collect();
        assert_eq!(pairs, [(None, "a"), (Some("maxFilesPerTrigger"), "3"), (Some("header"), "false")]);
    }

    #[test]
    fn an_argument_that_is_no_literal_is_refused() {
        let text = SqlText::new("q.sql", "SELECT * FROM read_files(1 + 1)");
        assert!(parse_single_query(&text).unwrap().bind(&text, &|_| None).is_err());
    }

    #[test]
    fn the_place_of_a_syntax_error_on_the_last_line_is_found() {
        let text = SqlText::new("q.sql", "SELECT 1,\n  2\nFROM");
        let error = parse_single_query(&text).unwrap_err();
        assert_eq!(error.place().unwrap().line, 3);
    }
}
