//! Rows as bytes: keys in the order of their values, so that a range of keys is a range of bytes.
//!
//! A row's value is when it was written (eight bytes, microseconds since the Unix epoch), then the columns that are not in
//! the key. Columns are written as Arrow's row format writes them.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::row::{RowConverter, SortField};
use serde::{Deserialize, Serialize};

/// How rows of a serving table are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowKey {
    /// The columns that rows are found by.
    pub primary: Vec<String>,
    /// The columns that rows of one primary key are in the order of.
    pub sort: Vec<String>,
    /// How long a row stays after it was written last, in microseconds.
    pub time_to_live: Option<i64>,
}

impl RowKey {
    /// All columns of the key, in order.
    pub fn columns(&self) -> impl Iterator<Item = &String> {
        self.primary.iter().chain(&self.sort)
    }
}

/// How the rows of a table are written.
#[derive(Debug)]
pub(crate) struct Layout {
    schema: SchemaRef,
    key: RowKey,
    /// Where the key's columns are among the table's, and where the others are.
    key_columns: Vec<usize>,
    value_columns: Vec<usize>,
    keys: RowConverter,
    values: RowConverter,
}

/// The longest key in bytes; the store takes 65,535, and eight more are needed beside it.
pub(crate) const LONGEST_KEY: usize = 65_000;

/// Bytes of a value before its columns.
pub(crate) const AGE_BYTES: usize = 8;

pub(crate) fn corrupt(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Code::PLAN_CORRUPT, "rows of a serving table cannot be read").because(error)
}

pub(crate) fn converter(schema: &Schema, columns: &[usize]) -> Result<RowConverter> {
    let fields = columns.iter().map(|index| SortField::new(schema.field(*index).data_type().clone()));
    RowConverter::new(fields.collect()).map_err(|error| {
        Error::new(Code::NOT_SUPPORTED, "a column has a type that cannot be kept in a serving table")
            .because(error)
    })
}

impl Layout {
    /// Makes a layout of the columns of a table.
    pub(crate) fn new(schema: &SchemaRef, key: &RowKey) -> Result<Self> {
        let key_columns =
            key.columns().map(|name| schema.index_of(name)).collect::<std::result::Result<Vec<_>, _>>();
        let key_columns = key_columns.map_err(corrupt)?;
        let value_columns: Vec<usize> =
            (0..schema.fields().len()).filter(|index| !key_columns.contains(index)).collect();
        Ok(Self {
            keys: converter(schema, &key_columns)?,
            values: converter(schema, &value_columns)?,
            schema: Arc::clone(schema),
            key: key.clone(),
            key_columns,
            value_columns,
        })
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(crate) fn key(&self) -> &RowKey {
        &self.key
    }

    /// The columns of the key, by their index among the table's.
    pub(crate) fn key_columns(&self) -> &[usize] {
        &self.key_columns
    }

    /// Keys as bytes, of the key's first columns.
    pub(crate) fn keys_of(&self, columns: &[ArrayRef]) -> Result<Vec<Vec<u8>>> {
        if columns.len() == self.key_columns.len() {
            return bytes(&self.keys, columns);
        }
        // The bytes of some first columns are the first bytes of all.
        bytes(&converter(&self.schema, &self.key_columns[..columns.len()])?, columns)
    }

    /// Rows as keys and values.
    pub(crate) fn write(&self, rows: &RecordBatch, written_at: i64) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let of = |indexes: &[usize]| {
            indexes.iter().map(|index| Arc::clone(rows.column(*index))).collect::<Vec<_>>()
        };
        let keys = bytes(&self.keys, &of(&self.key_columns))?;
        let values = match self.value_columns.is_empty() {
            true => vec![Vec::new(); rows.num_rows()],
            false => bytes(&self.values, &of(&self.value_columns))?,
        };
        Ok(keys.into_iter().zip(values).map(|(key, value)| (key, aged(written_at, &value))).collect())
    }

    /// Keys and values as rows.
    pub(crate) fn read(&self, entries: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)]) -> Result<RecordBatch> {
        let parser = self.keys.parser();
        let keys = entries.iter().map(|(key, _)| parser.parse(key.as_ref()));
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        let found = self.keys.convert_rows(keys).map_err(corrupt)?;
        self.key_columns.iter().zip(found).for_each(|(index, column)| columns[*index] = Some(column));
        let parser = self.values.parser();
        let values = entries
            .iter()
            .map(|(_, value)| parser.parse(value.as_ref().get(AGE_BYTES..).unwrap_or_default()));
        if !self.value_columns.is_empty() {
            let found = self.values.convert_rows(values).map_err(corrupt)?;
            self.value_columns.iter().zip(found).for_each(|(index, column)| columns[*index] = Some(column));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns.into_iter().flatten().collect())
            .map_err(corrupt)
    }

    /// Whether what has this value is over at a time.
    pub(crate) fn is_over(&self, value: &[u8], now: i64) -> bool {
        let Some(time_to_live) = self.key.time_to_live else { return false };
        written_at(value).is_none_or(|written| written.saturating_add(time_to_live) <= now)
    }
}

/// When a value was written.
pub(crate) fn written_at(value: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(value.get(..AGE_BYTES)?.try_into().ok()?))
}

pub(crate) fn aged(written_at: i64, value: &[u8]) -> Vec<u8> {
    [written_at.to_be_bytes().as_slice(), value].concat()
}

/// Columns as one text of bytes for each row.
pub(crate) fn bytes(converter: &RowConverter, columns: &[ArrayRef]) -> Result<Vec<Vec<u8>>> {
    let rows = converter.convert_columns(columns).map_err(corrupt)?;
    Ok(rows.iter().map(|row| row.as_ref().to_vec()).collect())
}
