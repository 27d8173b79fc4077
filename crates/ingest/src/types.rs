//! SQL types as declared in schemas, and the Arrow types that hold them.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_sql::SqlText;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::sql::sqlparser::ast::{self, ArrayElemTypeDef, ExactNumberInfo, TimezoneInfo};
use datafusion::sql::sqlparser::parser::Parser;

/// The Arrow type for a declared SQL type, `None` when tables have no such type.
///
/// As in PostgreSQL, `TIMESTAMP` has no zone and `TIMESTAMPTZ` is an instant.
#[must_use]
pub fn arrow_type(declared: &ast::DataType) -> Option<DataType> {
    use ast::DataType as D;
    let micros = |zone: bool| DataType::Timestamp(TimeUnit::Microsecond, zone.then(|| "UTC".into()));
    Some(match declared {
        D::Boolean | D::Bool => DataType::Boolean,
        D::TinyInt(_) => DataType::Int8,
        D::SmallInt(_) | D::Int2(_) => DataType::Int16,
        D::Int(_) | D::Integer(_) | D::Int4(_) => DataType::Int32,
        D::BigInt(_) | D::Int8(_) | D::Int64 => DataType::Int64,
        D::Real | D::Float4 | D::Float(_) => DataType::Float32,
        D::Double(_) | D::DoublePrecision | D::Float8 | D::Float64 => DataType::Float64,
        D::Varchar(_)
        | D::Char(_)
        | D::Character(_)
        | D::CharacterVarying(_)
        | D::CharVarying(_)
        | D::Text
        | D::String(_) => DataType::Utf8,
        D::Binary(_) | D::Varbinary(_) | D::Bytea | D::Blob(_) => DataType::Binary,
        D::Date => DataType::Date32,
        D::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone)
        | D::TimestampNtz(_)
        | D::Datetime(_) => micros(false),
        D::Timestamp(_, _) => micros(true),
        D::Decimal(info) | D::Numeric(info) | D::Dec(info) => {
            let (precision, scale) = match info {
                ExactNumberInfo::None => (38, 10),
                ExactNumberInfo::Precision(precision) => (*precision, 0),
                ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
            };
            let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
            if precision == 0 || precision > 38 || scale < 0 || scale > i8::try_from(precision).ok()? {
                return None;
            }
            DataType::Decimal128(precision, scale)
        }
        D::Array(
            ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::Parenthesis(item)
            | ArrayElemTypeDef::SquareBracket(item, _),
        ) => DataType::List(Arc::new(Field::new("element", arrow_type(item)?, true))),
        D::Struct(fields, _) => DataType::Struct(
            fields
                .iter()
                .map(|field| {
                    Some(Field::new(
                        field.field_name.as_ref()?.value.clone(),
                        arrow_type(&field.field_type)?,
                        true,
                    ))
                })
                .collect::<Option<_>>()?,
        ),
        D::Custom(name, _) => match name.to_string().to_lowercase().as_str() {
            "long" => DataType::Int64,
            "short" => DataType::Int16,
            "byte" => DataType::Int8,
            "timestamp_ntz" => micros(false),
            "timestamp_ltz" => micros(true),
            _ => return None,
        },
        _ => return None,
    })
}

/// Parses `name TYPE [, ...]`, as the `schema` option of a source has it.
///
/// # Errors
/// Returns [`Code::OPTION_INVALID`] when it is no such list or names a column twice.
pub fn parse_schema(text: &str) -> Result<SchemaRef> {
    let wrong = |why: String| {
        Error::new(Code::OPTION_INVALID, format!("schema {text:?} {why}"))
            .hint("write it as 'name TYPE, name TYPE', for example 'id BIGINT, name VARCHAR'")
    };
    let tokens = SqlText::new("schema", text).tokens().map_err(|error| wrong(error.message().to_owned()))?;
    let mut parser = Parser::new(&catchment_sql::CatchmentDialect).with_tokens_with_locations(tokens);
    let columns = parser
        .parse_comma_separated(|parser| Ok((parser.parse_identifier()?, parser.parse_data_type()?)))
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if parser.peek_token_ref().token != datafusion::sql::sqlparser::tokenizer::Token::EOF {
        return Err(wrong(format!("has an unexpected {}", parser.peek_token_ref().token)));
    }
    let mut fields: Vec<Field> = Vec::new();
    for (name, declared) in columns {
        let Some(data_type) = arrow_type(&declared) else {
            return Err(wrong(format!("has type {declared}, which tables do not have")));
        };
        if fields.iter().any(|field| *field.name() == name.value) {
            return Err(wrong(format!("names column {:?} twice", name.value)));
        }
        fields.push(Field::new(name.value, data_type, true));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// A type as a user writes it.
#[must_use]
pub fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INTEGER".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8 => "VARCHAR".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMPTZ".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        other => other.to_string(),
    }
}
