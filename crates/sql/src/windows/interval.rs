//! Lengths of time as SQL writes them.

use catchment_core::{Code, Error, Result};
use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator, Value};

/// The longest time that is understood: a hundred years, in microseconds.
pub(super) const LONGEST: i64 = 36_525 * 86_400_000_000;

/// Microseconds of each unit, by the beginning of its name.
const UNITS: &[(&str, i64)] = &[
    ("microsecond", 1),
    ("millisecond", 1_000),
    ("second", 1_000_000),
    ("minute", 60_000_000),
    ("hour", 3_600_000_000),
    ("day", 86_400_000_000),
    ("week", 604_800_000_000),
];

/// The microseconds of `INTERVAL '1' MINUTE`, `INTERVAL '1 hour 30 minutes'`, `INTERVAL 5 SECONDS` or `'1 minute'`.
///
/// # Errors
/// Returns [`Code::SQL_SYNTAX`] for anything else, and for months and years, whose lengths differ.
pub fn micros(expr: &Expr) -> Result<i64> {
    let wrong = |what: &str| {
        Error::new(Code::SQL_SYNTAX, format!("{expr} is not a length of time{what}"))
            .hint("write INTERVAL '1' MINUTE; units from microseconds to weeks")
    };
    let (text, unit) = match expr {
        Expr::Interval(interval) => {
            let unit = interval.leading_field.as_ref().map(ToString::to_string);
            (literal(&interval.value).ok_or_else(|| wrong(""))?, unit)
        }
        other => (literal(other).ok_or_else(|| wrong(""))?, None),
    };
    let text = match unit {
        Some(unit) => format!("{text} {unit}"),
        None => text,
    };
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut sum = 0_i64;
    for pair in words.chunks(2) {
        let [count, unit] = pair else { return Err(wrong("")) };
        let unit = unit.trim_end_matches('s');
        if ["month", "year", "quarter"].contains(&unit) {
            return Err(wrong(": months and years differ in length"));
        }
        let (_, micros) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| wrong(""))?;
        let part = match count.parse::<i64>() {
            Ok(count) => count.checked_mul(*micros),
            // As `0.5 seconds`.
            Err(_) => count
                .parse::<f64>()
                .ok()
                .filter(|count| count.is_finite())
                .map(|count| (count * *micros as f64) as i64),
        };
        sum = part.and_then(|part| sum.checked_add(part)).ok_or_else(|| wrong(""))?;
    }
    if sum.abs() > LONGEST {
        return Err(Error::new(
            Code::SQL_SYNTAX,
            format!("{expr} is longer than a hundred years, which are the most"),
        ));
    }
    if words.is_empty() { Err(wrong("")) } else { Ok(sum) }
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::Number(text, _) => Some(text.clone()),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => literal(expr).map(|text| format!("-{text}")),
        _ => None,
    }
}
