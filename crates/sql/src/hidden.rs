//! The hidden column of sources: it is there for those who name it, and `*` leaves it out.
//!
//! A query that stands for something else (a declared stream, the rows of a window) passes it on when the query that reads it
//! names it: its `*` is then marked by a token that is no asterisk. Passed on to all, it would be one more column for
//! `NATURAL JOIN`, for names of columns behind an alias, and for a `*` over two streams.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, TableFactor, TableWithJoins, Visit, VisitMut, Visitor,
    VisitorMut, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::query::{Relation, Target, normal};

/// The token of a `*` that nobody has written.
const OURS: &str = "$ours";

/// The column's name.
pub(crate) const METADATA_COLUMN: &str = "_metadata";

/// The functions whose rows have it.
const SOURCES: [&str; 4] = ["read_files", "read_stream", "read_kinesis", "read_kafka"];

/// Lets every `*` of a query have the hidden column.
pub(crate) fn keep(query: &mut Query) {
    let _ = query.visit(&mut Keep);
}

struct Keep;

impl VisitorMut for Keep {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for options in select.projection.iter_mut().filter_map(wildcard_mut) {
            options.wildcard_token = AttachedToken(TokenWithSpan::wrap(Token::Placeholder(OURS.to_owned())));
        }
        ControlFlow::Continue(())
    }
}

fn wildcard_mut(item: &mut SelectItem) -> Option<&mut WildcardAdditionalOptions> {
    match item {
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => Some(options),
        _ => None,
    }
}

fn is_ours(options: &WildcardAdditionalOptions) -> bool {
    matches!(&options.wildcard_token.0.token, Token::Placeholder(text) if text == OURS)
}

/// Whose hidden columns a query names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// By the relation's name.
    relations: HashSet<String>,
    /// Without saying whose.
    any: bool,
}

impl Named {
    /// What a query names, in all of its parts.
    pub(crate) fn of(query: &Query) -> Self {
        let mut named = Self::default();
        let _ = query.visit(&mut named);
        named
    }

    /// What an expression names.
    pub(crate) fn by(expr: &Expr) -> Self {
        let mut named = Self::default();
        let _ = expr.visit(&mut named);
        named
    }

    /// Whether the column of a relation is named.
    pub(crate) fn has(&self, relation: &Ident) -> bool {
        self.any || self.relations.contains(&normal(relation))
    }

    /// Whether any is.
    pub(crate) fn has_any(&self) -> bool {
        self.any || !self.relations.is_empty()
    }
}

impl Visitor for Named {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let parts = match expr {
            Expr::Identifier(name) => std::slice::from_ref(name),
            Expr::CompoundIdentifier(parts) => parts.as_slice(),
            _ => return ControlFlow::Continue(()),
        };
        if let Some(at) = parts.iter().position(|part| normal(part) == METADATA_COLUMN) {
            match at.checked_sub(1).and_then(|before| parts.get(before)) {
                Some(relation) => _ = self.relations.insert(normal(relation)),
                None => self.any = true,
            }
        }
        ControlFlow::Continue(())
    }
}

/// Takes the marks away from queries within that stand for relations whose hidden columns nobody names; what the others are
/// made from is named with them.
pub(crate) fn forget_unnamed(query: &mut Query, named: &mut Named) {
    let _ = query.visit(&mut Forget { named });
}

struct Forget<'a> {
    named: &'a mut Named,
}

impl VisitorMut for Forget<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let Some(name) = alias(factor).cloned() else { return ControlFlow::Continue(()) };
        if !self.named.has(&name) {
            forget(factor);
        } else if let Some(select) = marked(factor) {
            let made_from = select.from.iter().flat_map(joined);
            self.named.relations.extend(made_from.filter_map(name_of).map(normal));
        }
        ControlFlow::Continue(())
    }
}

/// The select of a query of ours.
fn marked(factor: &mut TableFactor) -> Option<&mut Select> {
    let TableFactor::Derived { subquery, .. } = factor else { return None };
    let SetExpr::Select(select) = subquery.body.as_mut() else { return None };
    let is_marked = select.projection.iter_mut().filter_map(wildcard_mut).any(|options| is_ours(options));
    is_marked.then_some(select)
}

/// Takes the marks away from a query of ours, and from those of ours that it is made from.
fn forget(factor: &mut TableFactor) {
    let Some(select) = marked(factor) else { return };
    for options in select.projection.iter_mut().filter_map(wildcard_mut).filter(|options| is_ours(options)) {
        options.wildcard_token = AttachedToken::empty();
    }
    for from in &mut select.from {
        forget(&mut from.relation);
        from.joins.iter_mut().for_each(|join| forget(&mut join.relation));
    }
}

/// Leaves the hidden column of what a query reads out of its `*`; the relations that it reads have been taken out.
pub(crate) fn hide_metadata(select: &mut Select, relations: &[Relation]) {
    let mut names = Vec::new();
    if !any_has_metadata(&select.from, relations, &mut names) {
        return;
    }
    for item in &mut select.projection {
        let is_of_one = match item {
            SelectItem::Wildcard(_) => true,
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                let last = name.0.last().and_then(ObjectNamePart::as_ident).map(normal);
                last.is_some_and(|last| names.contains(&last))
            }
            _ => false,
        };
        if let Some(options) = wildcard_mut(item)
            && is_of_one
            && !is_ours(options)
        {
            exclude(options);
        }
    }
}

/// Leaves the hidden column out, beside what is left out already.
fn exclude(options: &mut WildcardAdditionalOptions) {
    let mut names = match options.opt_exclude.take() {
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
        None => Vec::new(),
    };
    let excepted = options
        .opt_except
        .iter()
        .flat_map(|except| std::iter::once(&except.first_element).chain(&except.additional_elements));
    let of_names = names.iter().filter_map(|name| name.0.last().and_then(ObjectNamePart::as_ident));
    if !of_names.chain(excepted).any(|name| normal(name) == METADATA_COLUMN) {
        names.push(ObjectName::from(vec![Ident::new(METADATA_COLUMN)]));
    }
    options.opt_exclude = (!names.is_empty()).then_some(ExcludeSelectItem::Multiple(names));
}

/// Relations that are joined.
fn joined(from: &TableWithJoins) -> impl Iterator<Item = &TableFactor> {
    std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
}

/// Whether one of some relations has the hidden column; gathers the names of all that have, for which each is asked.
fn any_has_metadata(from: &[TableWithJoins], relations: &[Relation], names: &mut Vec<String>) -> bool {
    from.iter().flat_map(joined).filter(|factor| has_metadata(factor, relations, names)).count() > 0
}

/// What a relation is called in its query.
fn name_of(factor: &TableFactor) -> Option<&Ident> {
    match factor {
        TableFactor::Table { name, alias: None, .. } => name.0.last().and_then(ObjectNamePart::as_ident),
        _ => alias(factor),
    }
}

fn alias(factor: &TableFactor) -> Option<&Ident> {
    match factor {
        TableFactor::Table { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => alias.as_ref().map(|alias| &alias.name),
        _ => None,
    }
}

/// Whether a relation has the hidden column; gathers its name, and those of the ones that it is joined from.
fn has_metadata(factor: &TableFactor, relations: &[Relation], names: &mut Vec<String>) -> bool {
    let has = match factor {
        TableFactor::Table { name, .. } => {
            let key = name.0.last().and_then(ObjectNamePart::as_ident);
            let relation = relations.iter().find(|relation| key.is_some_and(|key| key.value == relation.key));
            relation.is_some_and(|relation| {
                matches!(&relation.target, Target::Function { name, .. } if SOURCES.contains(&name.as_str()))
            })
        }
        TableFactor::Derived { subquery, .. } => match subquery.body.as_ref() {
            SetExpr::Select(select) => {
                let keeps = |item: &SelectItem| match item {
                    SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => {
                        is_ours(options)
                    }
                    _ => false,
                };
                // Names within are not known without.
                select.projection.iter().any(keeps)
                    && any_has_metadata(&select.from, relations, &mut Vec::new())
            }
            _ => false,
        },
        TableFactor::NestedJoin { table_with_joins, .. } => {
            any_has_metadata(std::slice::from_ref(table_with_joins), relations, names)
        }
        _ => false,
    };
    if has {
        names.extend(alias(factor).map(normal));
    }
    has
}
