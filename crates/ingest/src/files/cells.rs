//! One value at a time: from text or a JSON scalar to a typed column, without losing a digit.

use std::str::FromStr;
use std::sync::Arc;

use crate::files::quick::quick_timestamp;
use crate::types::sql_name;
use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int8Builder, Int16Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder, new_null_array,
};
use datafusion::arrow::compute::concat;
use datafusion::arrow::compute::kernels::cast_utils::{Parser, parse_decimal, string_to_datetime};
use datafusion::arrow::datatypes::{DataType, Date32Type, Decimal128Type, Field, Schema, TimeUnit};

/// A value as a decoder found it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell<'a> {
    /// Nothing, or JSON `null`.
    Null,
    /// JSON `true` or `false`.
    Boolean(bool),
    /// A JSON number without fraction.
    Integer(i64),
    /// A JSON number too large for the above.
    Unsigned(u64),
    /// Any other JSON number.
    Float(f64),
    /// A JSON string.
    Text(std::borrow::Cow<'a, str>),
    /// Text of a format without types, such as CSV.
    Untyped(&'a str),
    /// The JSON text of any value, for columns that need its digits or its structure.
    Raw(&'a str),
    /// A JSON array or object where a scalar should be.
    Nested,
}

/// Why a value does not fit its column.
pub(crate) type Misfit = String;

/// A value that fits its column.
#[derive(Debug)]
pub(crate) enum Fitted<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Decimal(i128),
    Float(f64),
    Text(std::borrow::Cow<'a, str>),
    Bytes(bytes::Bytes),
    Array(ArrayRef),
}

/// Fits a value to a column, or says why it does not.
pub(crate) fn fit<'a>(cell: Cell<'a>, data_type: &DataType) -> Result<Fitted<'a>, Misfit> {
    match cell {
        Cell::Null => Ok(Fitted::Null),
        Cell::Raw("null") => Ok(Fitted::Null),
        Cell::Raw(json) => fit_raw(json, data_type),
        Cell::Untyped(text) => fit_untyped(text, data_type),
        cell => fit_json(cell, data_type),
    }
}

fn fit_json<'a>(cell: Cell<'a>, data_type: &DataType) -> Result<Fitted<'a>, Misfit> {
    let misfit = Err(format!("{} where {} should be", describe(&cell), sql_name(data_type)));
    match (data_type, &cell) {
        (DataType::Boolean, Cell::Boolean(value)) => Ok(Fitted::Boolean(*value)),
        (integer, Cell::Integer(value)) if integer.is_integer() => {
            in_range(*value, integer).map(Fitted::Integer)
        }
        // 3.0 is 3; 3.5 is not an integer.
        (integer, Cell::Float(value))
            if integer.is_integer() && value.fract() == 0.0 && value.abs() < 9.0e15 =>
        {
            in_range(*value as i64, integer).map(Fitted::Integer)
        }
        (DataType::Utf8, Cell::Text(_)) => match cell {
            Cell::Text(text) => Ok(Fitted::Text(text)),
            _ => misfit,
        },
        (DataType::Binary, Cell::Text(text)) => Ok(Fitted::Text(text.clone())),
        (DataType::Date32 | DataType::Timestamp(..), Cell::Text(text)) => fit_text(text, data_type),
        _ => misfit,
    }
}

fn in_range(value: i64, data_type: &DataType) -> Result<i64, Misfit> {
    let fits = match data_type {
        DataType::Int8 => i8::try_from(value).is_ok(),
        DataType::Int16 => i16::try_from(value).is_ok(),
        DataType::Int32 => i32::try_from(value).is_ok(),
        _ => true,
    };
    if fits { Ok(value) } else { Err(format!("{value} does not fit {}", sql_name(data_type))) }
}

fn fit_raw(json: &str, data_type: &DataType) -> Result<Fitted<'static>, Misfit> {
    if let DataType::Decimal128(..) = data_type {
        return fit_text(json.trim_matches('"'), data_type);
    }
    if data_type.is_floating() {
        return fit_raw_float(json, data_type);
    }
    // One value at a time: a decoder that has failed cannot go on.
    let schema = Arc::new(Schema::new(vec![Field::new("v", data_type.clone(), true)]));
    let line = format!("{{\"v\":{json}}}");
    let mut decoder = datafusion::arrow::json::ReaderBuilder::new(schema)
        .with_batch_size(1)
        .build_decoder()
        .map_err(|error| error.to_string())?;
    decoder.decode(line.as_bytes()).map_err(|error| error.to_string())?;
    match decoder.flush() {
        Ok(Some(rows)) => Ok(Fitted::Array(Arc::clone(rows.column(0)))),
        Ok(None) => Ok(Fitted::Null),
        Err(error) => Err(format!("{} should be {}: {error}", shorten(json), sql_name(data_type))),
    }
}

/// A float from its own digits, rounded once; a whole number must be held exactly.
fn fit_raw_float(json: &str, data_type: &DataType) -> Result<Fitted<'static>, Misfit> {
    let what = match json.as_bytes().first() {
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'[' | b'{') => return fit_json(Cell::Nested, data_type).map(|_| Fitted::Null),
        _ => "number",
    };
    let whole = json.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
    let exact = |value: f64| json.parse::<i64>().is_ok_and(|whole| value as i64 == whole);
    match json.parse::<f64>() {
        Ok(value) if what == "number" && value.is_finite() && (!whole || exact(value)) => {
            Ok(Fitted::Float(value))
        }
        _ => Err(format!("{what} {} where {} should be", shorten(json), sql_name(data_type))),
    }
}

fn fit_untyped<'a>(text: &'a str, data_type: &DataType) -> Result<Fitted<'a>, Misfit> {
    if text.is_empty() {
        return Ok(Fitted::Null);
    }
    match data_type {
        DataType::Utf8 | DataType::Binary => Ok(Fitted::Text(text.into())),
        _ => fit_text(text.trim(), data_type),
    }
}

fn fit_text(text: &str, data_type: &DataType) -> Result<Fitted<'static>, Misfit> {
    fn parsed<T: FromStr>(text: &str) -> Option<T> {
        text.parse().ok()
    }
    let fitted = match data_type {
        DataType::Boolean => parsed(&text.to_ascii_lowercase()).map(Fitted::Boolean),
        DataType::Float32 | DataType::Float64 => parsed(text).map(Fitted::Float),
        DataType::Date32 => Date32Type::parse(text).map(|days| Fitted::Integer(days.into())),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            // Without an offset in the text, the time is taken as UTC.
            if let Some(micros) = quick_timestamp(text.as_bytes()) {
                return Ok(Fitted::Integer(micros));
            }
            string_to_datetime(&chrono_utc(), text).ok().map(|time| Fitted::Integer(time.timestamp_micros()))
        }
        DataType::Decimal128(precision, scale) => {
            let digits = text.split_once(['.', 'e', 'E']).map_or(0, |(_, rest)| rest.len());
            let lossless = digits <= usize::try_from(*scale).unwrap_or(0) && !text.contains(['e', 'E']);
            lossless
                .then(|| parse_decimal::<Decimal128Type>(text, *precision, *scale).ok())
                .flatten()
                .map(Fitted::Decimal)
        }
        integer if integer.is_integer() => match parsed(text) {
            Some(value) => return in_range(value, integer).map(Fitted::Integer),
            None => None,
        },
        _ => None,
    };
    fitted.ok_or_else(|| format!("{:?} is not {}", shorten(text), sql_name(data_type)))
}

fn chrono_utc() -> datafusion::arrow::array::timezone::Tz {
    // "+00:00" always parses; the type has no constructor for UTC itself.
    datafusion::arrow::array::timezone::Tz::from_str("+00:00")
        .unwrap_or_else(|_| unreachable!("UTC is a time zone"))
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        text.to_owned()
    } else {
        text.chars().take(LONGEST).chain("...".chars()).collect()
    }
}

fn describe(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Null => "null".to_owned(),
        Cell::Boolean(value) => format!("boolean {value}"),
        Cell::Integer(value) => format!("number {value}"),
        Cell::Unsigned(value) => format!("number {value}"),
        Cell::Float(value) => format!("number {value}"),
        Cell::Text(text) => format!("string {:?}", shorten(text)),
        Cell::Untyped(text) | Cell::Raw(text) => format!("{:?}", shorten(text)),
        Cell::Nested => "an array or object".to_owned(),
    }
}

/// Whether a column's values are taken as JSON text rather than as scalars.
pub(crate) fn needs_raw(data_type: &DataType) -> bool {
    data_type.is_nested() || data_type.is_floating() || matches!(data_type, DataType::Decimal128(..))
}

/// A column being filled.
#[derive(Debug)]
pub(crate) enum Column {
    /// Nobody reads it.
    Unwanted,
    Boolean(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Decimal(Decimal128Builder),
    Nested(DataType, Vec<ArrayRef>),
}

impl Column {
    /// Makes an empty column with room for about `bytes` of text; types that no builder fills are an error.
    pub(crate) fn new(data_type: &DataType, bytes: usize) -> Result<Self> {
        Ok(match data_type {
            DataType::Boolean => Self::Boolean(BooleanBuilder::new()),
            DataType::Int8 => Self::Int8(Int8Builder::new()),
            DataType::Int16 => Self::Int16(Int16Builder::new()),
            DataType::Int32 => Self::Int32(Int32Builder::new()),
            DataType::Int64 => Self::Int64(Int64Builder::new()),
            DataType::Float32 => Self::Float32(Float32Builder::new()),
            DataType::Float64 => Self::Float64(Float64Builder::new()),
            DataType::Utf8 => Self::Text(StringBuilder::with_capacity(1_024, bytes)),
            DataType::Binary => Self::Bytes(BinaryBuilder::new()),
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()))
            }
            DataType::Decimal128(..) => {
                Self::Decimal(Decimal128Builder::new().with_data_type(data_type.clone()))
            }
            nested if nested.is_nested() => Self::Nested(nested.clone(), Vec::new()),
            other => {
                return Err(Error::new(
                    Code::NOT_SUPPORTED,
                    format!("files cannot be read into type {other} yet"),
                ));
            }
        })
    }

    /// Adds a value that was fitted to this column's type.
    pub(crate) fn push(&mut self, value: Fitted<'_>) {
        match (self, value) {
            (Self::Unwanted, _) => {}
            (Self::Boolean(column), Fitted::Boolean(value)) => column.append_value(value),
            (Self::Int8(column), Fitted::Integer(value)) => column.append_option(i8::try_from(value).ok()),
            (Self::Int16(column), Fitted::Integer(value)) => column.append_option(i16::try_from(value).ok()),
            (Self::Int32(column), Fitted::Integer(value)) => column.append_option(i32::try_from(value).ok()),
            (Self::Int64(column), Fitted::Integer(value)) => column.append_value(value),
            (Self::Float32(column), Fitted::Float(value)) => column.append_value(value as f32),
            (Self::Float64(column), Fitted::Float(value)) => column.append_value(value),
            (Self::Text(column), Fitted::Text(value)) => column.append_value(value),
            (Self::Bytes(column), Fitted::Text(value)) => column.append_value(value.as_bytes()),
            (Self::Bytes(column), Fitted::Bytes(value)) => column.append_value(value),
            (Self::Date(column), Fitted::Integer(value)) => column.append_option(i32::try_from(value).ok()),
            (Self::Timestamp(column), Fitted::Integer(value)) => column.append_value(value),
            (Self::Decimal(column), Fitted::Decimal(value)) => column.append_value(value),
            (Self::Nested(_, values), Fitted::Array(value)) => values.push(value),
            (column, _) => column.push_null(),
        }
    }

    fn push_null(&mut self) {
        match self {
            Self::Unwanted => {}
            Self::Boolean(column) => column.append_null(),
            Self::Int8(column) => column.append_null(),
            Self::Int16(column) => column.append_null(),
            Self::Int32(column) => column.append_null(),
            Self::Int64(column) => column.append_null(),
            Self::Float32(column) => column.append_null(),
            Self::Float64(column) => column.append_null(),
            Self::Text(column) => column.append_null(),
            Self::Bytes(column) => column.append_null(),
            Self::Date(column) => column.append_null(),
            Self::Timestamp(column) => column.append_null(),
            Self::Decimal(column) => column.append_null(),
            Self::Nested(data_type, values) => values.push(new_null_array(data_type, 1)),
        }
    }

    /// The values so far; the column is empty afterwards.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef> {
        Ok(match self {
            Self::Unwanted => new_null_array(&DataType::Null, 0),
            Self::Boolean(column) => Arc::new(column.finish()),
            Self::Int8(column) => Arc::new(column.finish()),
            Self::Int16(column) => Arc::new(column.finish()),
            Self::Int32(column) => Arc::new(column.finish()),
            Self::Int64(column) => Arc::new(column.finish()),
            Self::Float32(column) => Arc::new(column.finish()),
            Self::Float64(column) => Arc::new(column.finish()),
            Self::Text(column) => Arc::new(column.finish()),
            Self::Bytes(column) => Arc::new(column.finish()),
            Self::Date(column) => Arc::new(column.finish()),
            Self::Timestamp(column) => Arc::new(column.finish()),
            Self::Decimal(column) => Arc::new(column.finish()),
            Self::Nested(data_type, values) => {
                let values = std::mem::take(values);
                if values.is_empty() {
                    return Ok(new_null_array(data_type, 0));
                }
                let parts: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
                concat(&parts).map_err(|error| {
                    Error::new(Code::INTERNAL, "could not join nested values").because(error)
                })?
            }
        })
    }
}
