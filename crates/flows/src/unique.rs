//! Finds rows whose key was there before: in the batch, in earlier batches, in the table.
//!
//! Rows come in source order, and the first of a key wins. Keys that the process has seen are in a
//! [`KeySet`]. A row whose key may be on disk, or in data files of the table that nobody has looked at,
//! waits until the end of the batch, when these are read once for all that wait. Waiting rows take
//! memory up to a bound and go to disk beyond it.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_ingest::TableSource;
use catchment_lake::{Add, ColumnRange, may_hold};
use catchment_quality::{KeyHasher, KeySet, Seen};
use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{SortOptions, concat, filter_record_batch, sort_to_indices, take};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;

use crate::ordered::addresses;
use crate::spool::{Spool, Spooled};

/// Bytes of waiting rows in memory.
const WAITING_BYTES: usize = 64 << 20;

/// Keys of waiting rows that are looked for at a time.
const KEYS_AT_A_TIME: usize = 1 << 22;

/// The keys of a table that a process knows.
#[derive(Debug)]
pub(crate) struct KnownKeys {
    hasher: KeyHasher,
    set: KeySet,
    /// Data files whose keys are in the set.
    loaded: BTreeSet<String>,
    /// Data files that were looked through once. The second time their keys are kept.
    looked: BTreeSet<String>,
    folder: PathBuf,
    columns: SchemaRef,
}

impl KnownKeys {
    /// Knows nothing yet. `folder` takes what does not fit `budget` bytes.
    pub(crate) fn new(schema: &Schema, key: &[String], folder: PathBuf, budget: usize) -> Result<Self> {
        let hasher = KeyHasher::new(schema, key)?;
        let fields: Vec<_> =
            key.iter().filter_map(|name| schema.field_with_name(name).ok().cloned()).collect();
        let set = KeySet::new(folder.clone(), budget);
        let columns = Arc::new(Schema::new(fields));
        Ok(Self { hasher, set, loaded: BTreeSet::new(), looked: BTreeSet::new(), folder, columns })
    }

    /// Whether the key is made of these columns with these types.
    pub(crate) fn is_of(&self, schema: &Schema, key: &[String]) -> bool {
        let known = self.columns.fields();
        known.len() == key.len()
            && known.iter().zip(key).all(|(field, name)| {
                field.name() == name
                    && schema.field_with_name(name).is_ok_and(|now| now.data_type() == field.data_type())
            })
    }

    /// Takes note of data files whose keys have been added row by row.
    pub(crate) fn wrote(&mut self, files: &[Add]) {
        self.loaded.extend(files.iter().map(|file| file.path.clone()));
    }
}

/// The search for duplicates in one batch.
pub(crate) struct Uniqueness {
    known: KnownKeys,
    source: TableSource,
    /// Data files of the table whose keys are not known.
    unknown_files: Vec<Add>,
    ranges: Vec<ColumnRange>,
    waiting: Spool,
}

/// What is known of some rows at once.
pub(crate) struct Looked {
    /// Rows that do not wait.
    pub(crate) rows: RecordBatch,
    /// Which of them are duplicates.
    pub(crate) duplicate: BooleanArray,
}

impl Uniqueness {
    pub(crate) fn new(known: KnownKeys, source: TableSource, files: Vec<Add>) -> Self {
        let unknown_files = files.into_iter().filter(|file| !known.loaded.contains(&file.path)).collect();
        let waiting = Spool::new(WAITING_BYTES, &known.folder);
        Self { known, source, unknown_files, ranges: Vec::new(), waiting }
    }

    /// Looks at the next rows, in source order.
    pub(crate) fn look(&mut self, rows: RecordBatch) -> Result<Looked> {
        let keys = self.known.hasher.hashes(&rows)?;
        let mut waits = vec![false; keys.len()];
        let mut duplicate = vec![false; keys.len()];
        for (row, key) in keys.iter().enumerate() {
            let Some(key) = *key else { continue };
            if self.unknown_files.is_empty() {
                match self.known.set.add(key)? {
                    Seen::New => {}
                    Seen::Before => duplicate[row] = true,
                    Seen::Perhaps => waits[row] = true,
                }
            } else if self.known.set.holds_in_memory(key) {
                duplicate[row] = true;
            } else {
                waits[row] = true;
            }
        }
        if !waits.contains(&true) {
            return Ok(Looked { rows, duplicate: duplicate.into() });
        }
        let waits = BooleanArray::from(waits);
        let waiting = filter_record_batch(&rows, &waits).map_err(failed)?;
        if !self.unknown_files.is_empty() {
            self.widen_ranges(&waiting)?;
        }
        self.waiting.push(waiting)?;
        let stays = datafusion::arrow::compute::not(&waits).map_err(failed)?;
        let duplicate =
            datafusion::arrow::compute::filter(&BooleanArray::from(duplicate), &stays).map_err(failed)?;
        let duplicate = duplicate.as_any().downcast_ref::<BooleanArray>().cloned();
        let rows = filter_record_batch(&rows, &stays).map_err(failed)?;
        let none = BooleanArray::from(vec![false; rows.num_rows()]);
        Ok(Looked { rows, duplicate: duplicate.unwrap_or(none) })
    }

    /// Decides about the rows that wait; `each` is given all of them, piece by piece.
    pub(crate) fn finish(self, each: &mut dyn FnMut(Looked) -> Result<()>) -> Result<(KnownKeys, u64)> {
        let Self { mut known, source, unknown_files, ranges, waiting } = self;
        let waiting = waiting.finish()?;
        let passes = waiting.rows.div_ceil(KEYS_AT_A_TIME);
        for pass in 0..passes {
            let mut keys = first_places(&known, &waiting, (pass, passes))?;
            let wanted: Vec<u128> = keys.keys().copied().collect();
            known.set.find_spilled(wanted.into_iter(), |key| mark(&mut keys, key))?;
            let files = unknown_files.iter().filter(|file| may_hold(file, &ranges));
            search_files(&mut known, &source, files, pass == 0, &mut keys)?;
            waiting.each(|rows| {
                let hashes = known.hasher.hashes(&rows)?;
                let places = addresses(&rows)?;
                let mut ours = Vec::with_capacity(hashes.len());
                let mut duplicate = Vec::with_capacity(hashes.len());
                for (row, key) in hashes.iter().enumerate() {
                    let place = key.as_ref().and_then(|key| keys.get_mut(key));
                    ours.push(place.is_some());
                    let Some((key, place)) = key.zip(place) else { continue };
                    let is_first = *place == Place::First(places.value(row));
                    duplicate.push(Some(!is_first));
                    if is_first {
                        // A join makes several rows of one record, which have the same address.
                        *place = Place::Before;
                        known.set.put(key)?;
                    }
                }
                let ours = BooleanArray::from(ours);
                let rows = filter_record_batch(&rows, &ours).map_err(failed)?;
                each(Looked { rows, duplicate: duplicate.into() })
            })?;
        }
        Ok((known, waiting.spilled_bytes))
    }

    /// Widens the ranges of the key's columns to those of more rows.
    fn widen_ranges(&mut self, rows: &RecordBatch) -> Result<()> {
        let arrays = self.known.hasher.arrays(rows)?;
        let mut ranges = Vec::with_capacity(arrays.len());
        for (index, array) in arrays.iter().enumerate() {
            let (mut least, mut most) = (extreme(array, false)?, extreme(array, true)?);
            if let Some(known) = self.ranges.get(index) {
                least = extreme(&concat(&[&known.least, &least]).map_err(failed)?, false)?;
                most = extreme(&concat(&[&known.most, &most]).map_err(failed)?, true)?;
            }
            let column = self.known.columns.field(index).name().clone();
            ranges.push(ColumnRange { column, least, most });
        }
        self.ranges = ranges;
        Ok(())
    }

    /// Bytes of keys on disk.
    pub(crate) fn spilled_keys(known: &KnownKeys) -> u64 {
        known.set.spilled_bytes()
    }
}

/// For each key that waits, and is looked for in this pass of several, the address of its first row.
fn first_places(
    known: &KnownKeys,
    waiting: &Spooled,
    (pass, passes): (usize, usize),
) -> Result<HashMap<u128, Place>> {
    let mut keys: HashMap<u128, Place> = HashMap::new();
    waiting.each(|rows| {
        let hashes = known.hasher.hashes(&rows)?;
        let places = addresses(&rows)?;
        for (row, key) in hashes.into_iter().enumerate() {
            let Some(key) = key.filter(|key| (*key % passes as u128) as usize == pass) else { continue };
            let place = Place::First(places.value(row));
            keys.entry(key).and_modify(|first| *first = (*first).min(place)).or_insert(place);
        }
        Ok(())
    })?;
    Ok(keys)
}

/// Looks for keys in data files that may hold one of them.
fn search_files<'a>(
    known: &mut KnownKeys,
    source: &TableSource,
    files: impl Iterator<Item = &'a Add>,
    first_pass: bool,
    keys: &mut HashMap<u128, Place>,
) -> Result<()> {
    for file in files {
        let again = !known.looked.insert(file.path.clone()) && first_pass;
        let columns = Arc::clone(&known.columns);
        source.scan(std::slice::from_ref(file), &columns, &mut |rows| {
            for key in known.hasher.hashes(&rows)?.into_iter().flatten() {
                mark(keys, key);
                if again && known.set.add(key)? == Seen::Perhaps {
                    known.set.put(key)?;
                }
            }
            Ok(())
        })?;
        if again {
            known.loaded.insert(file.path.clone());
        }
    }
    Ok(())
}

/// Where a key that waits stands first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// In the table or an earlier batch.
    Before,
    /// At this address.
    First(u64),
}

fn mark(keys: &mut HashMap<u128, Place>, key: u128) {
    if let Some(place) = keys.get_mut(&key) {
        *place = Place::Before;
    }
}

/// The least or greatest value, as an array of one.
fn extreme(values: &ArrayRef, greatest: bool) -> Result<ArrayRef> {
    let options = SortOptions { descending: greatest, nulls_first: false };
    let first = sort_to_indices(values, Some(options), Some(1)).map_err(failed)?;
    take(values, &first, None).map_err(failed)
}

fn failed(error: ArrowError) -> Error {
    Error::new(Code::INTERNAL, "could not compare keys").because(error)
}
