//! Between Arrow schemas of queries and what a Delta table can store.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use catchment_core::{Code, Error, Result, TableName};
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};

/// The schema in which the columns of a query are stored, without loss.
///
/// Strings lose their view or dictionary form, unsigned integers widen, times of other units
/// become microseconds. All columns are nullable, since a table outlives the query that made it.
///
/// # Errors
/// Returns [`Code::SQL_TYPE`] naming each column whose type no Delta table can store.
pub fn storable_schema(schema: &Schema) -> Result<SchemaRef> {
    let mut errors = Vec::new();
    let mut fields = Vec::new();
    for field in schema.fields() {
        match storable_type(field.data_type()) {
            Some(data_type) => fields.push(Field::new(field.name(), data_type, true)),
            None => errors.push(
                Error::new(
                    Code::SQL_TYPE,
                    format!(
                        "column {:?} has type {}, which a table cannot store",
                        field.name(),
                        field.data_type()
                    ),
                )
                .hint("cast it to a type that a table can store, such as VARCHAR"),
            ),
        }
    }
    Error::join(errors)?;
    Ok(Arc::new(Schema::new(fields)))
}

fn storable_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Utf8
        | DataType::Binary
        | DataType::Decimal128(..) => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        // All of 64 unsigned bits fit only a decimal of 20 digits.
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into()))
        }
        DataType::Dictionary(_, values) => storable_type(values)?,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::new(Field::new("element", storable_type(item.data_type())?, true)))
        }
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|field| Some(Field::new(field.name(), storable_type(field.data_type())?, true)))
                .collect::<Option<Fields>>()?,
        ),
        _ => return None,
    })
}

/// Casts a batch to the stored schema of its table, column by column in order.
///
/// # Errors
/// Returns [`Code::SQL_TYPE`] when a value does not fit its column: digits are never lost in silence.
pub fn to_stored(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        if column.data_type() == field.data_type() {
            columns.push(Arc::clone(column));
            continue;
        }
        columns.push(cast_with_options(column, field.data_type(), &options).map_err(|error| {
            Error::new(
                Code::SQL_TYPE,
                format!("a value does not fit column {:?} of type {}", field.name(), field.data_type()),
            )
            .because(error)
        })?);
    }
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| {
        Error::new(Code::INTERNAL, "rows do not have the columns of their table").because(error)
    })
}

/// The schema as the Delta log writes it.
///
/// # Errors
/// Returns [`Code::SQL_TYPE`] when the library cannot express a type.
pub fn schema_text(schema: &Schema) -> Result<String> {
    let failed =
        |error: String| Error::new(Code::SQL_TYPE, "could not express a schema in Delta").because(error);
    let delta: StructType = schema.try_into_kernel().map_err(|error| failed(error.to_string()))?;
    serde_json::to_string(&delta).map_err(|error| failed(error.to_string()))
}

/// Reads a schema as the Delta log writes it.
///
/// # Errors
/// Returns [`Code::PLAN_CORRUPT`] when the text is none.
pub fn parse_schema_text(text: &str) -> Result<SchemaRef> {
    let failed = |error: String| Error::new(Code::PLAN_CORRUPT, "a stored schema is corrupt").because(error);
    let delta: StructType = serde_json::from_str(text).map_err(|error| failed(error.to_string()))?;
    let arrow: Schema = (&delta).try_into_arrow().map_err(|error| failed(error.to_string()))?;
    Ok(Arc::new(arrow))
}

/// Schemas in records of ours, as the Delta log writes them.
pub(crate) mod as_text {
    use arrow::datatypes::SchemaRef;
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    pub(crate) fn serialize<S: Serializer>(schema: &SchemaRef, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::schema_text(schema).map_err(ser::Error::custom)?)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SchemaRef, D::Error> {
        super::parse_schema_text(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Whether a column or a part of one is a timestamp without a zone, which needs a table feature.
pub(crate) fn has_timestamp_without_zone(fields: &Fields) -> bool {
    fn within(data_type: &DataType) -> bool {
        match data_type {
            DataType::Timestamp(_, None) => true,
            DataType::List(item) => within(item.data_type()),
            DataType::Struct(fields) => has_timestamp_without_zone(fields),
            _ => false,
        }
    }
    fields.iter().any(|field| within(field.data_type()))
}

/// What has to happen to a table's schema before rows of `wanted` can be appended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Evolution {
    /// Nothing: the columns are the same.
    None,
    /// Columns are new; the schema with them at the end.
    Added(SchemaRef),
    /// Columns have types that hold all values of before and more; the schema with these, and with new columns.
    /// Readers expect files to have the types of the schema, so all have to be written again.
    Widened(SchemaRef),
}

/// Whether every value of a type is one of another type too, digit for digit.
#[must_use]
pub fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64};
    match (from, to) {
        (Int8, Int16 | Int32 | Int64 | Float32 | Float64)
        | (Int16, Int32 | Int64 | Float32 | Float64)
        | (Int32, Int64 | Float64)
        | (Float32, Float64) => true,
        (Decimal128(precision, scale), Decimal128(wider, finer)) => {
            let whole = |precision: u8, scale: i8| i16::from(precision) - i16::from(scale);
            finer >= scale && whole(*wider, *finer) >= whole(*precision, *scale)
        }
        _ => false,
    }
}

/// Decides how a table's schema takes in the wanted one: columns may be added and widened, never dropped.
///
/// # Errors
/// Returns [`Code::SCHEMA_CHANGED`] with a line per column that does not fit.
pub(crate) fn evolve(table: &TableName, stored: &Schema, wanted: &Schema) -> Result<Evolution> {
    let mut differences = Vec::new();
    let mut added = Vec::new();
    let mut widened = false;
    for field in wanted.fields() {
        match stored.field_with_name(field.name()) {
            Ok(old) if old.data_type() == field.data_type() => {}
            Ok(old) if widens(old.data_type(), field.data_type()) => widened = true,
            Ok(old) => {
                differences.push(format!(
                    "{}: {} in the table, {} now",
                    field.name(),
                    old.data_type(),
                    field.data_type()
                ));
            }
            Err(_) => added.push(Arc::clone(field)),
        }
    }
    for field in stored.fields() {
        if wanted.field_with_name(field.name()).is_err() {
            differences.push(format!("{}: {} in the table, gone now", field.name(), field.data_type()));
        }
    }
    if !differences.is_empty() {
        return Err(Error::new(
            Code::SCHEMA_CHANGED,
            format!("table \"{table}\" has other columns than its query: {}", differences.join("; ")),
        )
        .hint(format!(
            "change the query back, or rebuild the table with `catchment run --full-refresh --select {table}`"
        )));
    }
    if added.is_empty() && !widened {
        return Ok(Evolution::None);
    }
    let typed = stored.fields().iter().map(|old| match wanted.field_with_name(old.name()) {
        Ok(field) => Arc::new(field.clone()),
        Err(_) => Arc::clone(old),
    });
    let schema = Arc::new(Schema::new(typed.chain(added).collect::<Vec<_>>()));
    Ok(if widened { Evolution::Widened(schema) } else { Evolution::Added(schema) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use catchment_core::{Code, TableName};

    use super::{Evolution, evolve, storable_schema, to_stored, widens};

    fn schema(fields: &[(&str, DataType)]) -> Schema {
        Schema::new(fields.iter().map(|(name, t)| Field::new(*name, t.clone(), true)).collect::<Vec<_>>())
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        let error = storable_schema(&schema(&[
            ("a", DataType::Int64),
            ("b", DataType::Duration(TimeUnit::Second)),
            ("c", DataType::Time64(TimeUnit::Nanosecond)),
        ]))
        .unwrap_err();
        assert_eq!(error.each().count(), 2);
        assert!(error.message().contains("\"b\""));
    }

    #[test]
    fn the_largest_unsigned_number_is_stored_without_loss() {
        let column: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let stored = to_stored(&batch, &storable_schema(&batch.schema()).unwrap()).unwrap();
        let text = arrow::util::display::array_value_to_string(stored.column(0), 0).unwrap();
        assert_eq!(text, u64::MAX.to_string());
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error() {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let error = to_stored(&batch, &Arc::new(schema(&[("n", DataType::Int32)]))).unwrap_err();
        assert_eq!(error.code(), Code::SQL_TYPE);
    }

    #[test]
    fn a_wider_type_holds_every_value() {
        use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64};
        let integers = [(Int8, 8), (Int16, 16), (Int32, 32), (Int64, 64)];
        for (from, bits) in &integers {
            for (to, more) in &integers {
                assert_eq!(widens(from, to), more > bits, "{from} {to}");
            }
            assert_eq!(widens(from, &Float64), *bits < 53);
            assert_eq!(widens(from, &Float32), *bits < 24);
        }
        assert!(widens(&Float32, &Float64) && !widens(&Float64, &Float32));
        assert!(widens(&Decimal128(10, 2), &Decimal128(12, 4)));
        assert!(!widens(&Decimal128(10, 2), &Decimal128(11, 4)), "a digit less before the point");
        assert!(!widens(&Decimal128(10, 2), &Decimal128(20, 1)));
    }

    #[test]
    fn columns_may_be_added_and_widened_but_not_changed() {
        let table = TableName::new("raw", "t");
        let stored = schema(&[("a", DataType::Int64)]);
        assert_eq!(evolve(&table, &stored, &stored).unwrap(), Evolution::None);
        let wider = schema(&[("a", DataType::Int64), ("b", DataType::Utf8)]);
        assert_eq!(evolve(&table, &stored, &wider).unwrap(), Evolution::Added(Arc::new(wider.clone())));
        let narrow = schema(&[("a", DataType::Int16)]);
        assert_eq!(evolve(&table, &narrow, &wider).unwrap(), Evolution::Widened(Arc::new(wider.clone())));
        assert!(evolve(&table, &stored, &narrow).is_err());
        let error = evolve(&table, &wider, &schema(&[("a", DataType::Utf8)])).unwrap_err();
        assert!(error.message().contains("a: Int64 in the table, Utf8 now"), "{}", error.message());
        assert!(error.message().contains("b: Utf8 in the table, gone now"), "{}", error.message());
    }
}
