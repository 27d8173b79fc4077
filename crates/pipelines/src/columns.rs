//! The columns of a dataset's table: from its queries, and those it is partitioned and clustered by.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_lake::widens;
use catchment_sql::nearest;
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::check::Draft;
use crate::project::Declared;
use crate::statement::DatasetStatement;

/// Errors for columns that the table does not have, or cannot be partitioned or clustered by.
pub(crate) fn require_columns(
    declared: &Declared<DatasetStatement>,
    named: &[(String, Span)],
    columns: &[Arc<Field>],
    what: &str,
) -> Vec<Error> {
    let names: Vec<&str> = columns.iter().map(|known| known.name().as_str()).collect();
    let mut errors = Vec::new();
    for (position, (column, at)) in named.iter().enumerate() {
        if named[..position].iter().any(|(before, _)| before == column) {
            errors.push(
                Error::new(Code::DEFINED_TWICE, format!("column \"{column}\" is named twice to {what} by"))
                    .at(declared.text.place(*at)),
            );
            continue;
        }
        let error = match columns.iter().find(|known| known.name() == column) {
            Some(known) if known.data_type().is_nested() => Error::new(
                Code::SQL_TYPE,
                format!("column \"{column}\" is nested: a table cannot {what} by it"),
            ),
            Some(_) => continue,
            None => Error::new(Code::COLUMN_UNKNOWN, format!("no column \"{column}\" to {what} by")),
        };
        let error = error.at(declared.text.place(*at));
        errors.push(match nearest(column, &names) {
            Some(near) if near != column => error.hint(format!("did you mean \"{near}\"?")),
            _ => error,
        });
    }
    errors
}

/// What is wrong with properties that name columns, or how many, for statistics.
pub(crate) fn require_statistics(
    declared: &Declared<DatasetStatement>,
    columns: &[Arc<Field>],
) -> Option<Error> {
    let wrong = |what: String| {
        Some(Error::new(Code::OPTION_INVALID, what).at(declared.text.place(declared.body.name.1)))
    };
    for (key, value) in &declared.body.properties {
        if key.eq_ignore_ascii_case("delta.dataSkippingNumIndexedCols")
            && !value.trim().parse::<i64>().is_ok_and(|number| number >= -1)
        {
            return wrong(format!("property {key} is {value:?}, not a number of columns, or -1 for all"));
        }
        if key.eq_ignore_ascii_case("delta.dataSkippingStatsColumns") {
            let plain = |name: &str| {
                columns.iter().any(|column| column.name() == name && !column.data_type().is_nested())
            };
            let names = value.split(',').map(|name| name.trim().trim_matches('`'));
            if let Some(name) = { names }.find(|name| !plain(name)) {
                return wrong(format!(
                    "property {key} names {name:?}, which is no plain column of the table"
                ));
            }
        }
    }
    None
}

/// Adds a query's columns to those of its table, by name.
pub(crate) fn merge_columns(
    columns: &mut Vec<Arc<Field>>,
    query: &SchemaRef,
    declared: bool,
    draft: &Draft<'_>,
) -> Result<()> {
    let mut errors = Vec::new();
    for field in query.fields() {
        match columns.iter().find(|column| column.name() == field.name()) {
            Some(column) if fits(field.data_type(), column.data_type()) => {}
            Some(column) => errors.push(
                Error::new(
                    Code::SQL_TYPE,
                    format!(
                        "column \"{}\" is {} in the table and {} in the query",
                        field.name(),
                        column.data_type(),
                        field.data_type()
                    ),
                )
                .hint("cast it in the query"),
            ),
            None if declared => {
                errors.push(Error::new(
                    Code::COLUMN_UNKNOWN,
                    format!("the query has column \"{}\", which the table does not declare", field.name()),
                ));
            }
            None => columns.push(Arc::clone(field)),
        }
    }
    Error::join(errors.into_iter().map(|error| error.at(draft.text.place(draft.query.span))))
}

/// Whether every value of a type can be stored as another, without loss.
fn fits(from: &DataType, to: &DataType) -> bool {
    from == to || widens(from, to) || matches!((from, to), (DataType::Date32, DataType::Timestamp(..)))
}
