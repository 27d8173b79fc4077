//! What a batch that computes partitions anew does with its rows before they are judged.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use catchment_core::{Code, Error, Result};
use catchment_ingest::Address;
use catchment_lake::Add;
use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch, UInt64Array};
use datafusion::arrow::compute::{and, filter_record_batch};
use datafusion::arrow::datatypes::Int64Type;

use crate::backfill::condition::PartitionCondition;
use crate::backfill::held::Held;
use crate::ordered::addresses;
use crate::quarantine::BadRecord;

/// The partitions that a batch computes anew, and what is known of its input.
#[derive(Debug)]
pub(crate) struct Replacing {
    pub(super) condition: PartitionCondition,
    pub(super) within: PartitionCondition,
    pub(super) held: Held,
    /// Data files of the table that stay, and those of flows that went before.
    pub(super) beside: Vec<Add>,
    /// Pieces of files that changed since they were taken.
    pub(super) changed: BTreeSet<u64>,
    /// Those of them with rows outside of all partitions asked for.
    pub(super) outside: Mutex<BTreeSet<u64>>,
    /// Records with rows both in and outside of the partitions.
    pub(super) straddling: Mutex<BTreeSet<u64>>,
}

impl Replacing {
    /// Data files whose keys are taken.
    pub(crate) fn beside(&self) -> Vec<Add> {
        self.beside.clone()
    }

    /// The rows that are in the partitions and whose records are not in quarantine.
    pub(crate) fn keep(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let mut kept = self.condition.rows(rows)?;
        if let Ok(addresses) = addresses(rows) {
            if !self.changed.is_empty() {
                let within = self.within.rows(rows)?;
                let mut outside = self.outside.lock().unwrap_or_else(PoisonError::into_inner);
                let places = addresses.values().iter().zip(within.iter());
                let left_out = places.filter(|(_, within)| *within != Some(true));
                outside.extend(
                    left_out
                        .map(|(address, _)| Address(*address).piece())
                        .filter(|piece| self.changed.contains(piece)),
                );
            }
            self.note_straddling(addresses, &kept);
            if !self.held.apart.is_empty() {
                let free: BooleanArray = addresses
                    .values()
                    .iter()
                    .map(|address| Some(!self.held.apart.contains(address)))
                    .collect();
                kept = and(&kept, &free).map_err(internal)?;
            }
        }
        filter_record_batch(rows, &kept).map_err(internal)
    }

    /// Notes records that made rows on both sides. These stand side by side.
    fn note_straddling(&self, addresses: &UInt64Array, kept: &BooleanArray) {
        let both = (1..addresses.len()).filter(|row| {
            addresses.value(*row) == addresses.value(row - 1) && kept.value(*row) != kept.value(row - 1)
        });
        let mut found = both.map(|row| addresses.value(row)).peekable();
        if found.peek().is_some() {
            self.straddling.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        }
    }

    /// Whether rows of a record stand in partitions that are left alone.
    pub(crate) fn is_partly_published(&self, address: Address) -> bool {
        self.straddling.lock().unwrap_or_else(PoisonError::into_inner).contains(&address.0)
    }

    /// The changed files that have rows outside of all partitions asked for.
    pub(super) fn files_outside(&self) -> BTreeSet<String> {
        self.held.files_of(&self.outside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a record is in quarantine already.
    pub(crate) fn holds(&self, bad: &BadRecord) -> bool {
        match bad.record.file.is_empty() {
            true => self.held.holds_text(&bad.record.record),
            false => self.held.places.contains(&bad.record.address.0),
        }
    }

    /// The rejected records that are not in quarantine yet.
    ///
    /// # Errors
    /// Returns [`Code::SCHEMA_CHANGED`] when one was read before: nobody can tell which rows were made of it.
    pub(crate) fn fresh(&self, rejects: &RecordBatch) -> Result<RecordBatch> {
        let text = |name: &str| rejects.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        let number = |name: &str, row: usize| {
            let column = rejects.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
            column.is_valid(row).then(|| u64::try_from(column.value(row)).ok()).flatten()
        };
        let (Some(sources), Some(files)) = (text("source"), text("file_path")) else {
            return Err(Error::new(Code::INTERNAL, "rejected records have no place"));
        };
        let mut fresh = Vec::with_capacity(rejects.num_rows());
        for row in 0..rejects.num_rows() {
            let (source, file) = (sources.value(row), files.value(row));
            let place = number("byte_offset", row).or_else(|| number("row_number", row)).unwrap_or(0);
            let Some(piece) = self.held.piece(source, file) else {
                fresh.push(Some(!self.held.holds_other(file, place)));
                continue;
            };
            let held = self.held.places.contains(&Address::new(piece, place).0);
            if !held && !self.changed.contains(&piece.into()) {
                return Err(Error::new(
                    Code::SCHEMA_CHANGED,
                    format!(
                        "a record of file {file:?} at {place} could be read before and cannot be any more"
                    ),
                )
                .hint("nothing was published; rebuild the dataset with `catchment run --full-refresh`"));
            }
            fresh.push(Some(!held));
        }
        filter_record_batch(rejects, &BooleanArray::from(fresh)).map_err(internal)
    }
}

fn internal(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::new(Code::INTERNAL, "could not choose the rows of partitions").because(error)
}
