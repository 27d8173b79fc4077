//! What finds duplicates in a batch, and what it knows between batches: keys ever seen, or keys close in time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use catchment_core::{Result, TableName};
use catchment_lake::Add;
use datafusion::arrow::array::RecordBatch;

use crate::unique::{KnownKeys, Looked, Uniqueness};
use crate::within::{KnownTimes, Within};

/// What a process knows of the keys of a table.
#[derive(Debug)]
pub(crate) enum Known {
    /// Which keys there are.
    Keys(KnownKeys),
    /// When there were which.
    Times(KnownTimes),
}

impl Known {
    /// Takes note of data files whose keys have been added row by row.
    pub(crate) fn wrote(&mut self, files: &[Add]) {
        match self {
            Self::Keys(known) => known.wrote(files),
            Self::Times(known) => known.wrote(files),
        }
    }
}

/// Keys of tables, as far as batches staged by this process have seen them. Whoever takes the right to write the lake begins
/// with none: another may have written meanwhile.
#[derive(Debug, Default)]
pub struct KeyCache(Mutex<BTreeMap<TableName, Known>>);

impl KeyCache {
    /// Forgets all keys.
    pub fn clear(&self) {
        self.tables().clear();
    }

    /// Takes the keys that are known of a table; whoever does not put them back has them forgotten.
    pub(crate) fn take(&self, table: &TableName) -> Option<Known> {
        self.tables().remove(table)
    }

    /// Keeps the keys of a table once the batch that added some is staged.
    pub(crate) fn keep(&self, table: &TableName, known: Option<Known>) {
        if let Some(known) = known {
            self.tables().insert(table.clone(), known);
        }
    }

    fn tables(&self) -> MutexGuard<'_, BTreeMap<TableName, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The search for duplicates in one batch.
pub(crate) enum Finder {
    /// Among all rows of the table.
    Ever(Uniqueness),
    /// Among those that are close in time.
    Within(Within),
}

impl Finder {
    /// Looks at the next rows, in source order.
    pub(crate) fn look(&mut self, rows: RecordBatch) -> Result<Looked> {
        match self {
            Self::Ever(unique) => unique.look(rows),
            Self::Within(within) => within.look(rows),
        }
    }

    /// Decides about the rows that wait; `each` is given all of them, piece by piece. Returns what is known now, and the
    /// bytes that were written to disk.
    pub(crate) fn finish(self, each: &mut dyn FnMut(Looked) -> Result<()>) -> Result<(Known, u64)> {
        match self {
            Self::Ever(unique) => {
                let (known, waiting) = unique.finish(each)?;
                let spilled = waiting + Uniqueness::spilled_keys(&known);
                Ok((Known::Keys(known), spilled))
            }
            Self::Within(within) => {
                within.finish(each).map(|(known, spilled)| (Known::Times(known), spilled))
            }
        }
    }
}
