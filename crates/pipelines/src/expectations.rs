//! Checks what a dataset's rows are held to, before there are any.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_quality::{Action, Expectation, Horizon, MOST_RULES, RowRules, Rule, require_key_type};
use catchment_sql::{Moment, Sessions, nearest};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::check::Draft;
use crate::project::Declared;
use crate::statement::{DatasetKind, DatasetStatement};

/// Checks names and types of a dataset's expectations against its columns.
pub(crate) fn check(
    sessions: &Sessions,
    declared: &Declared<DatasetStatement>,
    schema: &SchemaRef,
) -> Result<()> {
    let dataset = &declared.body;
    if dataset.expectations.is_empty() {
        return Ok(());
    }
    let place = |span| declared.text.place(span);
    let mut errors = Vec::new();
    let mut uniques = 0;
    for (expectation, span) in &dataset.expectations {
        let Some((columns, _)) = expectation.rule.unique() else { continue };
        uniques += 1;
        if uniques > 1 {
            let error = Error::new(Code::NOT_SUPPORTED, "a second EXPECT UNIQUE is not supported yet");
            errors.push(error.at(place(*span)));
        }
        let takes_out = matches!(expectation.action, Action::Drop | Action::Quarantine);
        if dataset.kind == DatasetKind::MaterializedView && takes_out {
            let error = Error::new(
                Code::NOT_SUPPORTED,
                "rows of a materialized view have no order that tells the first of a key",
            );
            errors.push(
                error
                    .hint("say which row counts, with GROUP BY, or let the rule warn or fail")
                    .at(place(*span)),
            );
        }
        for column in columns {
            errors.extend(key_column(column, schema).err().map(|error| error.at(place(*span))));
        }
    }
    let planner = sessions.planner(Moment { micros: 0, seed: 0 })?;
    let rules: Vec<_> = dataset.expectations.iter().map(|(expectation, _)| expectation.clone()).collect();
    errors.extend(RowRules::plan(&planner, &rules, schema).err().into_iter().flat_map(Error::split));
    Error::join(errors)
}

/// Refuses more expectations, those of the ruleset counted, than the rules of a row have room for.
pub(crate) fn require_few(expectations: &[Expectation]) -> Result<()> {
    if expectations.len() < MOST_RULES {
        return Ok(());
    }
    Err(Error::new(Code::NOT_SUPPORTED, format!("a dataset has fewer than {MOST_RULES} expectations")))
}

/// What `DISTINCT ON (columns)` over a stream asks for.
pub(crate) fn distinct_on(columns: Vec<String>) -> Expectation {
    Expectation { name: "distinct_on".to_owned(), rule: Rule::Unique(columns), action: Action::Drop }
}

/// Expectations of a dataset and of one of its queries.
pub(crate) fn with(all: &Arc<Vec<Expectation>>, one: Option<&Expectation>) -> Arc<Vec<Expectation>> {
    match one {
        Some(one) => Arc::new(all.iter().chain([one]).cloned().collect()),
        None => Arc::clone(all),
    }
}

/// Refuses to take duplicates out of what windows give: nothing tells which of them is the first.
///
/// # Errors
/// Returns [`Code::NOT_SUPPORTED`].
pub(crate) fn require_order<'a>(
    all: impl IntoIterator<Item = &'a Expectation>,
    has_windows: bool,
) -> Result<()> {
    let takes_out = |expectation: &&Expectation| {
        expectation.rule.unique().is_some() && matches!(expectation.action, Action::Drop | Action::Quarantine)
    };
    match all.into_iter().find(takes_out).filter(|_| has_windows) {
        None => Ok(()),
        Some(rule) => Err(Error::new(
            Code::NOT_SUPPORTED,
            format!(
                "rows of windows have no order that tells the first of a key, which \"{}\" asks for",
                rule.name
            ),
        )
        .hint("say which row counts, with GROUP BY or row_number(), or let the rule warn or fail")),
    }
}

/// Whether rows are compared with others, which the time of a watermark may bound.
pub(crate) fn compares(expectations: &[(Expectation, Span)]) -> bool {
    expectations.iter().any(|(expectation, _)| expectation.rule.unique().is_some())
}

/// The time of a flow's rows: the column of the dataset that has it and, of a stream with a watermark, how late a row may come
/// in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowTime {
    pub(crate) column: String,
    pub(crate) delay: Option<i64>,
}

/// Expectations with the column that holds the time of a flow's rows, where they ask for it. Rows of a stream with a
/// watermark are compared with those within its delay, unless something else is said.
///
/// # Errors
/// Returns [`Code::NOT_SUPPORTED`] when no column of the dataset has the watermark's time.
pub(crate) fn timed(all: &Arc<Vec<Expectation>>, time: Option<&RowTime>) -> Result<Arc<Vec<Expectation>>> {
    let asks = all.iter().any(|expectation| matches!(expectation.rule, Rule::UniqueWithin(..)));
    if !asks && time.is_none_or(|time| time.delay.is_none()) {
        return Ok(Arc::clone(all));
    }
    let Some(time) = time else {
        return Err(Error::new(
            Code::NOT_SUPPORTED,
            "WITHIN is measured on the column of a watermark, and no column of the dataset is that",
        )
        .hint("read FROM STREAM ... WATERMARK ts DELAY OF INTERVAL '1' MINUTE, and select ts as it is"));
    };
    let timed = all.iter().map(|expectation| match &expectation.rule {
        Rule::UniqueWithin(columns, horizon) => {
            let horizon = Horizon { column: time.column.clone(), micros: horizon.micros };
            Expectation { rule: Rule::UniqueWithin(columns.clone(), horizon), ..expectation.clone() }
        }
        Rule::Unique(columns) if time.delay.is_some() => {
            let horizon = Horizon { column: time.column.clone(), micros: time.delay.unwrap_or(i64::MAX) };
            Expectation { rule: Rule::UniqueWithin(columns.clone(), horizon), ..expectation.clone() }
        }
        _ => expectation.clone(),
    });
    Ok(Arc::new(timed.collect()))
}

/// Checks the columns of `DISTINCT ON`, and that no other rule asks for unique keys.
pub(crate) fn check_distinct(
    draft: &Draft<'_>,
    declared: &DatasetStatement,
    schema: &SchemaRef,
) -> Result<()> {
    let Some((columns, _)) = draft.distinct.as_ref().and_then(|distinct| distinct.rule.unique()) else {
        return Ok(());
    };
    let place = draft.text.place(draft.query.span);
    if declared.expectations.iter().any(|(other, _)| other.rule.unique().is_some()) {
        let error = Error::new(Code::NOT_SUPPORTED, "DISTINCT ON beside EXPECT UNIQUE is not supported yet");
        return Err(error.at(place));
    }
    let errors = columns.iter().filter_map(|column| key_column(column, schema).err());
    Error::join(errors.map(|error| error.at(place.clone())))
}

fn key_column(column: &str, schema: &SchemaRef) -> Result<()> {
    match schema.field_with_name(column) {
        Ok(field) => require_key_type(column, field.data_type()),
        Err(_) => {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            let error = Error::new(Code::COLUMN_UNKNOWN, format!("no column \"{column}\" for a key"));
            Err(match nearest(column, &names) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error,
            })
        }
    }
}
