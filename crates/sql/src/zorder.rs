//! The Z-order of rows: one number made of several columns, such that rows near in one are near in it.
//!
//! Each value is replaced by its rank among sampled values, and the bits of the ranks are interleaved (Morton, 1966).
//! Ranks make it independent of types and of how values are spread.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use rand::{Rng, SeedableRng};

/// Values of a column that are sampled.
const SAMPLED: usize = 1 << 16;

/// Ranks that a column has.
const RANKS: usize = 1 << 10;

/// The name of the function that a planner is given for a Z-order.
pub const ZORDER_FUNCTION: &str = "__catchment_zorder";

/// Samples the values of columns, to rank all of them.
#[derive(Debug)]
pub struct ZOrder {
    columns: Vec<Sample>,
    random: rand::rngs::StdRng,
    seen: usize,
}

#[derive(Debug)]
struct Sample {
    converter: RowConverter,
    values: Vec<Vec<u8>>,
}

impl ZOrder {
    /// Begins with nothing sampled, for columns of these types.
    ///
    /// # Errors
    /// Returns [`Code::SQL_TYPE`] for a column that has no order, and for more columns than a number has bits for.
    pub fn new(columns: &SchemaRef) -> Result<Self> {
        const MOST: usize = 16;
        if columns.fields().len() > MOST {
            return Err(Error::new(Code::SQL_TYPE, format!("a Z-order takes at most {MOST} columns")));
        }
        let samples = columns.fields().iter().map(|field| {
            if field.data_type().is_nested() {
                return Err(no_order(field.name(), field.data_type()));
            }
            let converter = RowConverter::new(vec![SortField::new(field.data_type().clone())])
                .map_err(|error| no_order(field.name(), field.data_type()).because(error))?;
            Ok(Sample { converter, values: Vec::new() })
        });
        let columns = samples.collect::<Result<_>>()?;
        Ok(Self { columns, random: rand::rngs::StdRng::seed_from_u64(0), seen: 0 })
    }

    /// Looks at rows, whose columns are those that it is made for.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when they are others.
    pub fn see(&mut self, rows: &RecordBatch) -> Result<()> {
        // A reservoir: of all rows seen each is in the sample with the same chance.
        let places: Vec<(usize, usize)> = (0..rows.num_rows())
            .filter_map(|row| {
                let seen = self.seen + row;
                let place = if seen < SAMPLED { seen } else { self.random.random_range(0..=seen) };
                (place < SAMPLED).then_some((row, place))
            })
            .collect();
        self.seen += rows.num_rows();
        for (sample, column) in self.columns.iter_mut().zip(rows.columns()) {
            let values = sample.converter.convert_columns(&[Arc::clone(column)]).map_err(internal)?;
            for (row, place) in &places {
                let value = values.row(*row).as_ref().to_vec();
                match sample.values.get_mut(*place) {
                    Some(old) => *old = value,
                    None => sample.values.push(value),
                }
            }
        }
        Ok(())
    }

    /// The function that gives each row its place in the order.
    #[must_use]
    pub fn function(self) -> Arc<ScalarUDF> {
        let columns: Vec<Ranks> = self.columns.into_iter().map(Ranks::of).collect();
        let signature = Signature::variadic_any(Volatility::Immutable);
        Arc::new(ScalarUDF::from(ZOrderFunction { columns: Arc::new(columns), signature }))
    }
}

fn no_order(column: &str, kind: &DataType) -> Error {
    Error::new(Code::SQL_TYPE, format!("column \"{column}\" of type {kind} cannot be put in order"))
}

fn internal(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::new(Code::INTERNAL, "could not put values in order").because(error)
}

/// Where the ranks of a column begin.
#[derive(Debug)]
struct Ranks {
    converter: RowConverter,
    bounds: Vec<Vec<u8>>,
}

impl Ranks {
    fn of(mut sample: Sample) -> Self {
        sample.values.sort_unstable();
        let count = sample.values.len();
        let mut bounds: Vec<Vec<u8>> =
            (1..RANKS).filter_map(|rank| sample.values.get(rank * count / RANKS).cloned()).collect();
        // A value that is there often has one rank, and others are not crowded for it.
        bounds.dedup();
        Self { converter: sample.converter, bounds }
    }

    fn ranks(&self, column: &ArrayRef) -> EngineResult<Vec<u64>> {
        let values = self.converter.convert_columns(&[Arc::clone(column)])?;
        let rank = |value: &[u8]| self.bounds.partition_point(|bound| bound.as_slice() <= value) as u64;
        Ok(values.iter().map(|value| rank(value.as_ref())).collect())
    }
}

#[derive(Debug)]
struct ZOrderFunction {
    columns: Arc<Vec<Ranks>>,
    signature: Signature,
}

impl PartialEq for ZOrderFunction {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.columns, &other.columns)
    }
}

impl Eq for ZOrderFunction {}

impl Hash for ZOrderFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.columns).hash(state);
    }
}

impl ScalarUDFImpl for ZOrderFunction {
    fn name(&self) -> &str {
        ZORDER_FUNCTION
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(DataType::UInt64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        if arguments.args.len() != self.columns.len() {
            return Err(DataFusionError::Internal("a Z-order of other columns".to_owned()));
        }
        let mut ranks = Vec::with_capacity(self.columns.len());
        for (column, value) in self.columns.iter().zip(arguments.args) {
            ranks.push(column.ranks(&value.into_array(arguments.number_rows)?)?);
        }
        let numbers = (0..arguments.number_rows).map(|row| interleave(ranks.iter().map(|ranks| ranks[row])));
        Ok(ColumnarValue::Array(Arc::new(numbers.collect::<UInt64Array>())))
    }
}

/// Interleaves the bits of ranks, the highest first. Low bits that do not fit are left out.
fn interleave(ranks: impl Iterator<Item = u64> + Clone) -> u64 {
    let count = u32::try_from(ranks.clone().count().max(1)).unwrap_or(u64::BITS);
    let bits = RANKS.trailing_zeros().min(u64::BITS / count);
    let lowest = RANKS.trailing_zeros() - bits;
    let mut number = 0;
    for bit in (lowest..lowest + bits).rev() {
        for rank in ranks.clone() {
            number = number << 1 | (rank >> bit & 1);
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    use super::{Ranks, ZOrder, interleave};

    #[test]
    fn bits_alternate_from_the_highest() {
        assert_eq!(interleave([0b11_1111_1111, 0].into_iter()), 0b1010_1010_1010_1010_1010);
        assert_eq!(interleave([0, 1].into_iter()), 1);
        assert_eq!(interleave([5].into_iter()), 5);
        // Eight bits are left for each of eight columns, the highest ones.
        assert_eq!(interleave([1 << 9; 8].into_iter()), 0xff << 56);
        assert_eq!(interleave([0b11; 8].into_iter()), 0);
    }

    #[test]
    fn ranks_split_values_evenly_whatever_their_type() {
        let numbers: Vec<i64> = (0..20_000).map(|number| number * number).collect();
        let texts: Vec<String> = numbers.iter().map(|number| format!("{number:012}")).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("number", Arc::new(Int64Array::from(numbers))),
            ("text", Arc::new(StringArray::from(texts))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let mut order = ZOrder::new(&rows.schema()).unwrap();
        order.see(&rows).unwrap();
        for (sample, column) in order.columns.into_iter().zip(rows.columns()) {
            let ranks = Ranks::of(sample).ranks(column).unwrap();
            assert!(ranks.is_sorted());
            assert_eq!((ranks[0], ranks[10_000], ranks[19_999]), (0, 512, 1_023));
        }
    }
}
