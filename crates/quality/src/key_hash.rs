//! Keys as 128-bit hashes: SipHash-1-3 under a secret of the process, over an encoding that tells all keys apart.
//!
//! With 10^10 keys the chance that any two meet is below 10^-18, and since the secret is drawn anew by
//! each process, nobody can make keys that do. Hashes never outlive the process.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, Schema};
use datafusion::arrow::row::{RowConverter, SortField};
use siphasher::sip128::{Hasher128, SipHasher13};

/// Hashes the keys of rows.
#[derive(Debug)]
pub struct KeyHasher {
    secret: (u64, u64),
    columns: Vec<(String, DataType)>,
    encoder: RowConverter,
}

/// Refuses types that cannot be compared as keys.
///
/// # Errors
/// Returns [`Code::SQL_TYPE`] for nested types.
pub fn require_key_type(column: &str, data_type: &DataType) -> Result<()> {
    if data_type.is_nested() {
        return Err(Error::new(
            Code::SQL_TYPE,
            format!("column \"{column}\" is nested and cannot be part of a key"),
        )
        .hint("name the fields that identify a row as columns of their own"));
    }
    Ok(())
}

impl KeyHasher {
    /// Makes a hasher for some columns of a schema.
    ///
    /// # Errors
    /// Returns [`Code::COLUMN_UNKNOWN`] and [`Code::SQL_TYPE`] for columns that cannot be a key.
    pub fn new(schema: &Schema, columns: &[String]) -> Result<Self> {
        let mut kept = Vec::new();
        for column in columns {
            let field = schema.field_with_name(column).map_err(|error| {
                Error::new(Code::COLUMN_UNKNOWN, format!("no column \"{column}\" for a key")).because(error)
            })?;
            require_key_type(column, field.data_type())?;
            kept.push((column.clone(), field.data_type().clone()));
        }
        let fields = kept.iter().map(|(_, data_type)| SortField::new(data_type.clone())).collect();
        let encoder = RowConverter::new(fields)
            .map_err(|error| Error::new(Code::SQL_TYPE, "columns cannot be a key").because(error))?;
        // The standard library draws its keys from the operating system.
        let draw = || RandomState::new().build_hasher().finish();
        Ok(Self { secret: (draw(), draw()), columns: kept, encoder })
    }

    /// The columns of the key.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// The key columns of some rows.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when a column is missing or has another type.
    pub fn arrays(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.columns
            .iter()
            .map(|(name, data_type)| match rows.column_by_name(name) {
                Some(array) if array.data_type() == data_type => Ok(array.clone()),
                _ => Err(Error::new(Code::INTERNAL, format!("rows lack column \"{name}\" of their key"))),
            })
            .collect()
    }

    /// The hash of each row's key, `None` where a part of it is null.
    ///
    /// # Errors
    /// As [`KeyHasher::arrays`].
    pub fn hashes(&self, rows: &RecordBatch) -> Result<Vec<Option<u128>>> {
        let arrays = self.arrays(rows)?;
        let nulls = arrays.iter().fold(None, |nulls, array| NullBuffer::union(nulls.as_ref(), array.nulls()));
        let is_whole = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        if let [array] = arrays.as_slice()
            && let Some(texts) = array.as_string_opt::<i32>()
        {
            return Ok((0..rows.num_rows())
                .map(|row| is_whole(row).then(|| self.hash(texts.value(row).as_bytes())))
                .collect());
        }
        let same = arrays.into_iter().map(one_of_equal_numbers).collect::<Vec<_>>();
        let encoded = self
            .encoder
            .convert_columns(&same)
            .map_err(|error| Error::new(Code::INTERNAL, "could not encode keys").because(error))?;
        Ok((0..rows.num_rows())
            .map(|row| is_whole(row).then(|| self.hash(encoded.row(row).as_ref())))
            .collect())
    }

    fn hash(&self, bytes: &[u8]) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write(bytes);
        hasher.finish128().as_u128()
    }
}

/// Floating-point numbers that are equal have more than one encoding: 0 and -0, and all that are not a number.
fn one_of_equal_numbers(array: ArrayRef) -> ArrayRef {
    // Adding zero turns -0 into 0.
    let one = |number: f64| if number.is_nan() { f64::NAN } else { number + 0.0 };
    match array.data_type() {
        DataType::Float64 => Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(one)),
        DataType::Float32 => {
            let one = |number: f32| if number.is_nan() { f32::NAN } else { number + 0.0 };
            Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(one))
        }
        _ => array,
    }
}
