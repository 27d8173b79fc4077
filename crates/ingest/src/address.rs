//! Where a row of a batch comes from: the piece of the source and the place in it.
//!
//! Addresses sort in source order: first by input, then by piece, then by place. They travel with the
//! rows in a hidden column, so that a row that breaks a rule can be found again in its source, and so
//! that "the first row of a key" means the same whatever the number of threads.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::UInt64Array;
use datafusion::arrow::datatypes::{DataType, Field};

/// The name of the hidden column.
pub const ADDRESS_COLUMN: &str = "__catchment_address";

/// Marks addresses of rows that come from no source: computed ones, or those of a table.
const NO_SOURCE: u64 = 1 << 63;

/// Bits of the place in a piece: a terabyte of text, or a trillion rows.
const PLACE_BITS: u32 = 40;

/// The address of a row: its piece, counted over all inputs of the batch, and its place there, which
/// is a byte offset in text and a row number elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    /// The address of a place in a piece.
    #[must_use]
    pub const fn new(piece: u32, place: u64) -> Self {
        Self((piece as u64) << PLACE_BITS | place)
    }

    /// The address of the `number`th row that comes from no source; it sorts behind all others.
    #[must_use]
    pub const fn without_source(number: u64) -> Self {
        Self(NO_SOURCE | number)
    }

    /// Whether the row can be found in a source.
    #[must_use]
    pub const fn has_source(self) -> bool {
        self.0 & NO_SOURCE == 0
    }

    /// The piece.
    #[must_use]
    pub const fn piece(self) -> u64 {
        self.0 >> PLACE_BITS
    }

    /// The place in the piece.
    #[must_use]
    pub const fn place(self) -> u64 {
        self.0 & ((1 << PLACE_BITS) - 1)
    }
}

/// The hidden column as a field.
#[must_use]
pub fn address_field() -> Arc<Field> {
    Arc::new(Field::new(ADDRESS_COLUMN, DataType::UInt64, false))
}

/// The addresses of rows one after the other in a piece.
pub(crate) fn consecutive(piece: u32, first: u64, rows: usize) -> UInt64Array {
    (first..first + rows as u64).map(|place| Address::new(piece, place).0).collect()
}

/// The number of the first piece of an input that comes after `pieces` others.
///
/// # Errors
/// Returns [`Code::INTERNAL`] when a batch has more pieces than addresses can tell apart.
pub fn first_piece(pieces: usize) -> Result<u32> {
    match u32::try_from(pieces) {
        Ok(first) if first < 1 << (u64::BITS - PLACE_BITS - 1) => Ok(first),
        _ => Err(Error::new(Code::INTERNAL, format!("a batch cannot have {pieces} pieces"))
            .hint("lower maxFilesPerTrigger")),
    }
}
