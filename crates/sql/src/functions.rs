//! Functions of chance that can be repeated: they start from the seed in the batch's plan.
//!
//! Functions of time need nothing of ours: the engine folds `now()`, `current_date` and their like
//! from the session's start time, which [`crate::Sessions::planner`] sets from the plan.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::arrow::array::{ArrayRef, Float64Array, StringArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// `random()` and `uuid()`, drawing from one sequence that begins at `seed`.
pub(crate) fn of_moment(seed: u64) -> Vec<Arc<ScalarUDF>> {
    let drawn = Arc::new(AtomicU64::new(0));
    [Kind::Random, Kind::Uuid]
        .into_iter()
        .map(|kind| {
            Arc::new(ScalarUDF::from(Chance {
                kind,
                seed,
                drawn: Arc::clone(&drawn),
                signature: Signature::nullary(Volatility::Volatile),
            }))
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Random,
    Uuid,
}

#[derive(Debug)]
struct Chance {
    kind: Kind,
    seed: u64,
    /// Numbers handed out so far, so that no two rows get the same one.
    drawn: Arc<AtomicU64>,
    signature: Signature,
}

impl PartialEq for Chance {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, self.seed) == (other.kind, other.seed)
    }
}

impl Eq for Chance {}

impl Hash for Chance {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kind, self.seed).hash(state);
    }
}

impl Chance {
    /// The `index`-th number of the sequence: SplitMix64 (Steele, Lea and Flood, 2014).
    fn number(&self, index: u64) -> u64 {
        let mut z = self.seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl ScalarUDFImpl for Chance {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Random => "random",
            Kind::Uuid => "uuid",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Random => DataType::Float64,
            Kind::Uuid => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows as u64;
        let per_row = if self.kind == Kind::Uuid { 2 } else { 1 };
        let first = self.drawn.fetch_add(rows * per_row, Ordering::Relaxed);
        let array: ArrayRef = match self.kind {
            // 53 bits are all that a double between 0 and 1 can hold evenly.
            Kind::Random => Arc::new(Float64Array::from_iter_values(
                (0..rows).map(|row| (self.number(first + row) >> 11) as f64 / (1_u64 << 53) as f64),
            )),
            Kind::Uuid => Arc::new(StringArray::from_iter_values((0..rows).map(|row| {
                let (high, low) = (self.number(first + 2 * row), self.number(first + 2 * row + 1));
                // Version 4, variant 1 (RFC 9562).
                let (high, low) = ((high & !0xf000) | 0x4000, (low & !(0b11 << 62)) | (0b10 << 62));
                let hex = format!("{high:016x}{low:016x}");
                format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            }))),
        };
        Ok(ColumnarValue::Array(array))
    }
}
