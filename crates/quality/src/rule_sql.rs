//! Rules about single rows, as conditions in SQL.

use catchment_core::{Code, Error, Result};
use catchment_sql::{SqlText, nearest};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};

use crate::dqdl::{Comparison, Condition, Operand, Rule, RuleNode, Ruleset};
use crate::expectation::{self, Action, Expectation};
use crate::ruleset::action;

/// The expectations that rules with the label `on_violation` = `quarantine` are: a row that breaks one is
/// kept apart.
///
/// # Errors
/// Returns [`Code::RULESET_INVALID`] for rules that are not about single rows, and errors of names.
pub fn row_expectations(ruleset: &Ruleset, schema: &SchemaRef) -> Result<Vec<Expectation>> {
    let mut expectations = Vec::new();
    let mut errors = Vec::new();
    for node in &ruleset.rules {
        let RuleNode::One(rule) = node else { continue };
        // Other actions, and labels that are none, are told when the ruleset is planned.
        if action(ruleset, node).is_ok_and(|action| action == Action::Quarantine) {
            match expectation(rule, schema) {
                Ok(expectation) => expectations.push(expectation),
                Err(error) => errors.push(error.at(rule.place.clone())),
            }
        }
    }
    Error::join(errors)?;
    Ok(expectations)
}

fn expectation(rule: &Rule, schema: &SchemaRef) -> Result<Expectation> {
    let condition = match rule.kind.as_str() {
        "IsComplete" => format!("{} IS NOT NULL", column(&rule.parameters[0].text, schema)?),
        "ColumnValues" | "ColumnLength" | "ColumnDataType" if rule.threshold.is_none() => {
            row_condition(rule, schema)?
        }
        kind => {
            return Err(Error::new(
                Code::RULESET_INVALID,
                format!("a rule of type {kind} is not about single rows, which alone can be kept apart"),
            )
            .hint("rules that can: IsComplete, and ColumnValues, ColumnLength, ColumnDataType without a threshold"));
        }
    };
    let condition = match &rule.filter {
        Some(filter) => format!("NOT coalesce(({}), false) OR ({condition})", unescape(filter)),
        None => condition,
    };
    let text = std::sync::Arc::new(SqlText::new("ruleset", condition));
    let (expr, span) = text.expression().map_err(Error::without_place)?;
    Ok(Expectation {
        name: Rule { labels: Vec::new(), ..rule.clone() }.to_string(),
        rule: expectation::Rule::Condition(expectation::Condition { text, span, expr: Box::new(expr) }),
        action: Action::Quarantine,
    })
}

/// A column as SQL writes it.
pub(crate) fn column(name: &str, schema: &Schema) -> Result<String> {
    if schema.field_with_name(name).is_ok() {
        return Ok(format!("\"{}\"", name.replace('"', "\"\"")));
    }
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let error = Error::new(Code::COLUMN_UNKNOWN, format!("no column \"{name}\" for a rule"));
    Err(match nearest(name, &names) {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint(format!("columns: {}", names.join(", "))),
    })
}

/// A text without the backslashes that hide quotation marks in a ruleset.
pub(crate) fn unescape(text: &str) -> String {
    text.replace("\\\"", "\"")
}

/// A text as SQL writes it.
pub(crate) fn text_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The condition that a rule sets for each row.
pub(crate) fn row_condition(rule: &Rule, schema: &SchemaRef) -> Result<String> {
    let name = &rule.parameters[0].text;
    let column = column(name, schema)?;
    let data_type = schema
        .field_with_name(name)
        .map(|field| field.data_type().clone())
        .map_err(|error| Error::new(Code::COLUMN_UNKNOWN, format!("no column \"{name}\"")).because(error))?;
    if data_type.is_nested() {
        return Err(Error::new(
            Code::SQL_TYPE,
            format!("column \"{name}\" is nested, which no rule looks into"),
        ));
    }
    let Some(condition) = &rule.condition else {
        return Err(Error::new(Code::RULESET_INVALID, format!("{} needs a comparison", rule.kind)));
    };
    match rule.kind.as_str() {
        "ColumnLength" => compare(&format!("length(CAST({column} AS VARCHAR))"), condition, &DataType::Int64),
        "ColumnDataType" => castable(&column, condition),
        _ => compare(&column, condition, &data_type),
    }
}

fn castable(column: &str, condition: &Condition) -> Result<String> {
    let mut parts = Vec::new();
    for operand in &condition.operands {
        let Operand::Text(name) = operand else { continue };
        let target = match name.to_lowercase().as_str() {
            "boolean" => "BOOLEAN",
            "date" => "DATE",
            "timestamp" => "TIMESTAMP",
            "integer" => "INT",
            "long" => "BIGINT",
            "float" => "REAL",
            "double" => "DOUBLE",
            "string" => "VARCHAR",
            _ => {
                return Err(Error::new(Code::RULESET_INVALID, format!("{name:?} is no type of values"))
                    .hint("types: Boolean, Date, Timestamp, Integer, Long, Float, Double, String"));
            }
        };
        parts.push(format!("TRY_CAST(CAST({column} AS VARCHAR) AS {target}) IS NOT NULL"));
    }
    let any = parts.join(" OR ");
    let negated = matches!(condition.comparison, Comparison::NotEqual | Comparison::NotIn);
    let holds = if negated { format!("NOT ({any})") } else { format!("({any})") };
    Ok(format!("{column} IS NULL OR {holds}"))
}

fn compare(value: &str, condition: &Condition, data_type: &DataType) -> Result<String> {
    let names_null =
        condition.operands.iter().any(|operand| matches!(operand, Operand::Keyword(word) if word == "NULL"));
    let literals =
        || condition.operands.iter().map(|operand| literal(operand, data_type)).collect::<Result<Vec<_>>>();
    let each = || -> Result<String> {
        let parts = condition.operands.iter().map(|operand| equals(value, operand, data_type));
        Ok(parts.collect::<Result<Vec<_>>>()?.join(" OR "))
    };
    let simple = |sign: &str| -> Result<String> { Ok(format!("{value} {sign} {}", literals()?.join(""))) };
    let holds = match condition.comparison {
        Comparison::Equal | Comparison::In => each()?,
        Comparison::NotEqual | Comparison::NotIn => {
            // That a value is none of some others says nothing about nulls, unless null is one of these.
            let holds = format!("NOT coalesce({}, false)", each()?);
            return Ok(if names_null { holds } else { format!("{value} IS NULL OR {holds}") });
        }
        Comparison::Less => simple("<")?,
        Comparison::LessOrEqual => simple("<=")?,
        Comparison::Greater => simple(">")?,
        Comparison::GreaterOrEqual => simple(">=")?,
        Comparison::Between | Comparison::NotBetween => {
            let ends = literals()?;
            let inside = format!("{value} > {} AND {value} < {}", ends[0], ends[1]);
            if condition.comparison == Comparison::Between { inside } else { format!("NOT ({inside})") }
        }
        Comparison::Matches | Comparison::NotMatches => {
            let Some(Operand::Text(pattern)) = condition.operands.first() else {
                return Err(Error::new(Code::RULESET_INVALID, "matches needs a regular expression"));
            };
            let sign = if condition.comparison == Comparison::Matches { "~" } else { "!~" };
            let pattern = text_literal(&format!("^(?:{})$", pattern.replace("\\\\", "\\")));
            format!("CAST({value} AS VARCHAR) {sign} {pattern}")
        }
    };
    Ok(if names_null { holds } else { format!("{value} IS NULL OR ({holds})") })
}

fn equals(value: &str, operand: &Operand, data_type: &DataType) -> Result<String> {
    Ok(match operand {
        Operand::Keyword(word) => match word.as_str() {
            "NULL" => format!("{value} IS NULL"),
            "EMPTY" => format!("CAST({value} AS VARCHAR) = ''"),
            _ => format!("CAST({value} AS VARCHAR) ~ '^\\s+$'"),
        },
        operand => format!("{value} = {}", literal(operand, data_type)?),
    })
}

fn literal(operand: &Operand, data_type: &DataType) -> Result<String> {
    Ok(match operand {
        Operand::Number(number) if matches!(data_type, DataType::Utf8) => text_literal(number),
        Operand::Number(number) => format!("({number})"),
        // In a ruleset a backslash hides the sign behind it.
        Operand::Text(text) => {
            let literal = text_literal(&text.replace("\\\"", "\"").replace("\\'", "'").replace("\\\\", "\\"));
            match data_type {
                DataType::Boolean => format!("CAST({literal} AS BOOLEAN)"),
                DataType::Date32 => format!("CAST({literal} AS DATE)"),
                DataType::Timestamp(_, Some(_)) => format!("CAST({literal} AS TIMESTAMPTZ)"),
                DataType::Timestamp(_, None) => format!("CAST({literal} AS TIMESTAMP)"),
                _ => literal,
            }
        }
        Operand::Now(None) => "now()".to_owned(),
        Operand::Now(Some((amount, unit))) => {
            let sign = if *amount < 0 { '-' } else { '+' };
            format!("(now() {sign} INTERVAL '{} {unit}')", amount.unsigned_abs())
        }
        other => {
            return Err(Error::new(Code::RULESET_INVALID, format!("{other} cannot be compared with values")));
        }
    })
}
