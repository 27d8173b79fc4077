//! Statistics of a data file, as Delta's `add` action carries them for pruning.
//!
//! Format: "Per-file Statistics" of the Delta protocol.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Scalar};
use arrow::compute::kernels::cmp;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use chrono::DateTime;
use deltalake::kernel::Add;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::ParquetMetaData;
use serde_json::{Map, Value, json};

/// How many leading columns get statistics, as in other Delta writers.
const INDEXED_COLUMNS: usize = 32;

/// The columns whose values files tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Indexed {
    /// So many columns from the first on.
    First(usize),
    /// These.
    Named(Vec<String>),
}

impl Indexed {
    /// What a table's properties ask for: `delta.dataSkippingStatsColumns`, a list of names, before
    /// `delta.dataSkippingNumIndexedCols`, a number of which -1 means all.
    #[must_use]
    pub fn of(properties: &[(String, String)]) -> Self {
        let value = |wanted: &str| {
            properties.iter().find(|(key, _)| key.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
        };
        if let Some(names) = value("delta.dataSkippingStatsColumns") {
            let names = names.split(',').map(|name| name.trim().trim_matches('`').to_owned());
            return Self::Named(names.collect());
        }
        match value("delta.dataSkippingNumIndexedCols").and_then(|number| number.parse::<i64>().ok()) {
            Some(number) => Self::First(usize::try_from(number).unwrap_or(usize::MAX)),
            None => Self::First(INDEXED_COLUMNS),
        }
    }

    /// Whether a column is one of them; `index` counts columns that are in the files.
    #[must_use]
    pub fn has(&self, index: usize, name: &str) -> bool {
        match self {
            Indexed::First(number) => index < *number,
            Indexed::Named(names) => names.iter().any(|known| known == name),
        }
    }
}

/// The statistics of a file just written, as JSON text.
///
/// Minimum and maximum are left out where they could mislead a reader: for types without a
/// documented text form and for floating-point columns that hold NaN.
pub(crate) fn file_stats(schema: &Schema, metadata: &ParquetMetaData, indexed: &Indexed) -> String {
    let mut minimum = Map::new();
    let mut maximum = Map::new();
    let mut nulls = Map::new();
    for (_, field) in
        schema.fields().iter().enumerate().filter(|(index, field)| indexed.has(*index, field.name()))
    {
        let Some(column) = column_stats(schema, field, metadata) else { continue };
        nulls.insert(field.name().clone(), column.nulls.into());
        if let (Some(least), Some(most)) = (column.least, column.most) {
            minimum.insert(field.name().clone(), least);
            maximum.insert(field.name().clone(), most);
        }
    }
    json!({
        "numRecords": metadata.file_metadata().num_rows(),
        "minValues": minimum,
        "maxValues": maximum,
        "nullCount": nulls,
    })
    .to_string()
}

struct ColumnStats {
    least: Option<Value>,
    most: Option<Value>,
    nulls: u64,
}

fn column_stats(schema: &Schema, field: &Field, metadata: &ParquetMetaData) -> Option<ColumnStats> {
    if field.data_type().is_nested() {
        return None;
    }
    let converter =
        StatisticsConverter::try_new(field.name(), schema, metadata.file_metadata().schema_descr()).ok()?;
    let groups = metadata.row_groups();
    let nulls = converter.row_group_null_counts(groups).ok()?;
    if nulls.null_count() > 0 {
        return None;
    }
    let bound = |values: Option<ArrayRef>, wanted: Bound| values.and_then(|values| extreme(&values, wanted));
    Some(ColumnStats {
        least: bound(converter.row_group_mins(groups).ok(), Bound::Least),
        most: bound(converter.row_group_maxes(groups).ok(), Bound::Most),
        nulls: nulls.iter().flatten().sum(),
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Bound {
    Least,
    Most,
}

/// The least or greatest of the row groups' values; a group of nulls alone has none.
fn extreme(values: &ArrayRef, bound: Bound) -> Option<Value> {
    let mut best: Option<ArrayRef> = None;
    for index in (0..values.len()).filter(|index| values.is_valid(*index)) {
        let candidate = values.slice(index, 1);
        let better = match &best {
            None => true,
            Some(best) => {
                let (a, b) = (Scalar::new(Arc::clone(&candidate)), Scalar::new(Arc::clone(best)));
                let compared = if bound == Bound::Least { cmp::lt(&a, &b) } else { cmp::gt(&a, &b) };
                compared.ok()?.value(0)
            }
        };
        if better {
            best = Some(candidate);
        }
    }
    bound_text(&best?, bound)
}

fn bound_text(value: &ArrayRef, bound: Bound) -> Option<Value> {
    use arrow::datatypes as t;
    Some(match value.data_type() {
        DataType::Int8 => value.as_primitive::<t::Int8Type>().value(0).into(),
        DataType::Int16 => value.as_primitive::<t::Int16Type>().value(0).into(),
        DataType::Int32 => value.as_primitive::<t::Int32Type>().value(0).into(),
        DataType::Int64 => value.as_primitive::<t::Int64Type>().value(0).into(),
        DataType::Float32 => finite(f64::from(value.as_primitive::<t::Float32Type>().value(0)))?,
        DataType::Float64 => finite(value.as_primitive::<t::Float64Type>().value(0))?,
        DataType::Utf8 => value.as_string::<i32>().value(0).into(),
        DataType::Date32 => {
            let days = i64::from(value.as_primitive::<t::Date32Type>().value(0));
            DateTime::from_timestamp(days * 86_400, 0)?.format("%Y-%m-%d").to_string().into()
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros = value.as_primitive::<t::TimestampMicrosecondType>().value(0);
            // Readers assume milliseconds, so the bound moves outwards to the next one.
            let millis = match bound {
                Bound::Least => micros.div_euclid(1_000),
                Bound::Most => micros.div_euclid(1_000) + i64::from(micros.rem_euclid(1_000) > 0),
            };
            let format = if zone.is_some() { "%Y-%m-%dT%H:%M:%S%.3fZ" } else { "%Y-%m-%dT%H:%M:%S%.3f" };
            DateTime::from_timestamp_millis(millis)?.format(format).to_string().into()
        }
        _ => return None,
    })
}

fn finite(value: f64) -> Option<Value> {
    serde_json::Number::from_f64(value).map(Value::Number)
}

/// A range of values of a column, both ends included; each end is an array of one value.
#[derive(Debug, Clone)]
pub struct ColumnRange {
    /// The column.
    pub column: String,
    /// The least value.
    pub least: ArrayRef,
    /// The greatest value.
    pub most: ArrayRef,
}

/// Whether a data file may hold a row whose columns all lie in the ranges given. Without statistics it may.
#[must_use]
pub fn may_hold(file: &Add, ranges: &[ColumnRange]) -> bool {
    let stats: Value =
        file.stats.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    ranges.iter().all(|range| {
        let (least, most) = match file.partition_values.get(&range.column) {
            // Rows with a null in a column have no value in any range.
            Some(None) => return false,
            Some(Some(value)) => (Value::from(value.as_str()), Value::from(value.as_str())),
            None => (stats["minValues"][&range.column].clone(), stats["maxValues"][&range.column].clone()),
        };
        let bound = |value: &Value| parse_bound(value, range.least.data_type());
        let above = |a: Option<ArrayRef>, b: &ArrayRef| {
            let compared = a.and_then(|a| cmp::gt(&Scalar::new(a), &Scalar::new(Arc::clone(b))).ok());
            compared.is_some_and(|compared| compared.is_valid(0) && compared.value(0))
        };
        let below = |a: Option<ArrayRef>, b: &ArrayRef| {
            let compared = a.and_then(|a| cmp::lt(&Scalar::new(a), &Scalar::new(Arc::clone(b))).ok());
            compared.is_some_and(|compared| compared.is_valid(0) && compared.value(0))
        };
        !above(bound(&least), &range.most) && !below(bound(&most), &range.least)
    })
}

/// A bound as an array of one value of a type; `None` when it cannot be read as one.
fn parse_bound(value: &Value, data_type: &DataType) -> Option<ArrayRef> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let parsed = arrow::compute::cast(&arrow::array::StringArray::from(vec![text]), data_type).ok()?;
    parsed.is_valid(0).then_some(parsed)
}
