//! The hidden column of sources: it is there for those who name it, and `*` leaves it out.
//!
//! A query that stands for something else (a declared stream, the rows of a window) passes it on: its `*` is marked by a
//! token that is no asterisk.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, TableFactor, TableWithJoins, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
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

/// Leaves the hidden column of what a query reads out of its `*`; the relations that it reads have been taken out.
pub(crate) fn hide_metadata(select: &mut Select, relations: &[Relation]) {
    let from = factors(&select.from);
    let having: Vec<&TableFactor> = from.filter(|factor| has_metadata(factor, relations)).collect();
    if having.is_empty() {
        return;
    }
    let names: Vec<String> = having.iter().filter_map(|factor| alias(factor)).map(normal).collect();
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

fn factors(from: &[TableWithJoins]) -> impl Iterator<Item = &TableFactor> {
    from.iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)))
}

fn alias(factor: &TableFactor) -> Option<&Ident> {
    match factor {
        TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. } => {
            alias.as_ref().map(|alias| &alias.name)
        }
        _ => None,
    }
}

fn has_metadata(factor: &TableFactor, relations: &[Relation]) -> bool {
    match factor {
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
                select.projection.iter().any(keeps)
                    && factors(&select.from).any(|factor| has_metadata(factor, relations))
            }
            _ => false,
        },
        TableFactor::NestedJoin { table_with_joins, .. } => {
            factors(std::slice::from_ref(table_with_joins)).any(|factor| has_metadata(factor, relations))
        }
        _ => false,
    }
}
