//! Finds rows whose key stands in an earlier row that is close in time: `EXPECT UNIQUE (...) WITHIN interval`.
//!
//! Which rows are duplicates depends on their order and their times alone, not on batches: a row is one when an earlier
//! row of the table has its key and a time at most the interval away. All rows of a batch wait until its end; then data
//! files of the table are looked at whose times come that close, and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_ingest::TableSource;
use catchment_lake::{Add, ColumnRange, may_hold};
use catchment_quality::{Horizon, KeyHasher};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::{cast, filter_record_batch};
use datafusion::arrow::datatypes::{
    DataType, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};

use crate::spool::Spool;
use crate::unique::Looked;

/// Bytes of waiting rows in memory.
const WAITING_BYTES: usize = 64 << 20;

/// Rows whose keys are compared at a time.
const ROWS_AT_A_TIME: usize = 1 << 22;

/// The times of keys that a process knows of a table.
#[derive(Debug)]
pub(crate) struct KnownTimes {
    hasher: KeyHasher,
    horizon: Horizon,
    /// The key's columns and the time's.
    columns: SchemaRef,
    key: Vec<String>,
    /// By the hash of a key, the times of rows that have it, in order.
    times: HashMap<u128, Vec<i64>>,
    /// Data files whose keys are known.
    loaded: BTreeSet<String>,
    /// Keys that may be known between batches.
    most: usize,
    folder: PathBuf,
}

impl KnownTimes {
    /// Knows nothing yet. `folder` takes rows that do not fit in memory; `budget` is in bytes.
    pub(crate) fn new(
        schema: &Schema,
        key: &[String],
        horizon: &Horizon,
        (folder, budget): (PathBuf, usize),
    ) -> Result<Self> {
        let hasher = KeyHasher::new(schema, key)?;
        let names = key.iter().chain([&horizon.column]);
        let mut fields: Vec<_> =
            names.filter_map(|name| schema.field_with_name(name).ok().cloned()).collect();
        fields.dedup();
        let columns = Arc::new(Schema::new(fields));
        // A key with one time takes about so many bytes.
        let most = budget / 64;
        let (times, loaded) = (HashMap::new(), BTreeSet::new());
        Ok(Self { hasher, horizon: horizon.clone(), columns, key: key.to_vec(), times, loaded, most, folder })
    }

    /// Whether the key is made of these columns with these types, and the time is as close.
    pub(crate) fn is_of(&self, schema: &Schema, key: &[String], horizon: &Horizon) -> bool {
        self.key == key
            && self.horizon == *horizon
            && self.columns.fields().iter().all(|known| {
                schema.field_with_name(known.name()).is_ok_and(|now| now.data_type() == known.data_type())
            })
    }

    /// Takes note of data files whose keys have been added row by row.
    pub(crate) fn wrote(&mut self, files: &[Add]) {
        if self.times.len() > self.most {
            self.forget();
        } else {
            self.loaded.extend(files.iter().map(|file| file.path.clone()));
        }
    }

    fn forget(&mut self) {
        self.times.clear();
        self.loaded.clear();
    }

    fn times_of(&self, rows: &RecordBatch) -> Result<Int64Array> {
        let column = rows.column_by_name(&self.horizon.column).ok_or_else(|| {
            Error::new(Code::INTERNAL, format!("rows lack their time \"{}\"", self.horizon.column))
        })?;
        micros(column)
    }

    /// Whether an earlier row is close.
    fn has_near(&self, key: u128, time: i64) -> bool {
        let Some(times) = self.times.get(&key) else { return false };
        let first = times.partition_point(|known| *known < time.saturating_sub(self.horizon.micros));
        times.get(first).is_some_and(|known| *known <= time.saturating_add(self.horizon.micros))
    }

    fn add(&mut self, key: u128, time: i64) {
        let times = self.times.entry(key).or_default();
        if let Err(place) = times.binary_search(&time) {
            times.insert(place, time);
        }
    }
}

/// The search for duplicates in one batch.
pub(crate) struct Within {
    known: KnownTimes,
    source: TableSource,
    files: Vec<Add>,
    waiting: Spool,
    /// The least and the greatest time of rows that wait.
    reach: Option<(i64, i64)>,
    /// Whether duplicates stay in the table, so that they are earlier rows to others.
    keeps: bool,
}

impl Within {
    pub(crate) fn new(known: KnownTimes, source: TableSource, files: Vec<Add>, keeps: bool) -> Self {
        let waiting = Spool::new(WAITING_BYTES, &known.folder);
        Self { known, source, files, waiting, reach: None, keeps }
    }

    /// Takes the next rows, in source order; all of them wait.
    pub(crate) fn look(&mut self, rows: RecordBatch) -> Result<Looked> {
        for time in self.known.times_of(&rows)?.iter().flatten() {
            let (least, most) = self.reach.unwrap_or((time, time));
            self.reach = Some((least.min(time), most.max(time)));
        }
        let none = rows.slice(0, 0);
        self.waiting.push(rows)?;
        Ok(Looked { rows: none, duplicate: BooleanArray::from(Vec::<bool>::new()) })
    }

    /// Decides about the rows; `each` is given all of them, piece by piece.
    pub(crate) fn finish(self, each: &mut dyn FnMut(Looked) -> Result<()>) -> Result<(KnownTimes, u64)> {
        let Self { mut known, source, files, waiting, reach, keeps } = self;
        let waiting = waiting.finish()?;
        let range = range(&known, reach)?;
        let near: Vec<&Add> =
            files.iter().filter(|file| range.as_ref().is_some_and(|range| may_hold(file, range))).collect();
        let in_files: i64 = near.iter().map(|file| records(file)).sum();
        let passes = (waiting.rows + usize::try_from(in_files).unwrap_or(0)).div_ceil(ROWS_AT_A_TIME).max(1);
        for pass in 0..passes {
            if passes > 1 {
                known.forget();
            }
            let is_mine = |key: u128| (key % passes as u128) as usize == pass;
            for file in &near {
                load(&mut known, &source, file, &is_mine)?;
            }
            waiting.each(|rows| each(known.decide(rows, &is_mine, keeps)?))?;
        }
        if passes > 1 {
            known.forget();
        }
        Ok((known, waiting.spilled_bytes))
    }
}

impl KnownTimes {
    /// Tells which of some rows are duplicates; those of other keys are left out, and those without a key or a time are
    /// decided about once.
    fn decide(&mut self, rows: RecordBatch, is_mine: &dyn Fn(u128) -> bool, keeps: bool) -> Result<Looked> {
        let (keys, times) = (self.hasher.hashes(&rows)?, self.times_of(&rows)?);
        let (mut mine, mut duplicate) = (Vec::with_capacity(keys.len()), Vec::new());
        for (row, key) in keys.iter().enumerate() {
            let key = key.filter(|_| times.is_valid(row));
            // Rows that are compared with nothing have the first pass.
            mine.push(is_mine(key.unwrap_or(0)));
            if !is_mine(key.unwrap_or(0)) {
                continue;
            }
            let Some(key) = key else {
                duplicate.push(false);
                continue;
            };
            let is_near = self.has_near(key, times.value(row));
            if !is_near || keeps {
                self.add(key, times.value(row));
            }
            duplicate.push(is_near);
        }
        let rows = filter_record_batch(&rows, &BooleanArray::from(mine))
            .map_err(|error| Error::new(Code::INTERNAL, "could not compare keys").because(error))?;
        Ok(Looked { rows, duplicate: duplicate.into() })
    }
}

/// Takes in the keys of a data file.
fn load(
    known: &mut KnownTimes,
    source: &TableSource,
    file: &Add,
    is_mine: &dyn Fn(u128) -> bool,
) -> Result<()> {
    if known.loaded.contains(&file.path) {
        return Ok(());
    }
    let columns = Arc::clone(&known.columns);
    source.scan(std::slice::from_ref(file), &columns, &mut |rows| {
        let (keys, times) = (known.hasher.hashes(&rows)?, known.times_of(&rows)?);
        for (key, time) in keys.into_iter().zip(&times) {
            if let Some((key, time)) = key.zip(time).filter(|(key, _)| is_mine(*key)) {
                known.add(key, time);
            }
        }
        Ok(())
    })?;
    known.loaded.insert(file.path.clone());
    Ok(())
}

/// The times that files must come to for them to matter.
fn range(known: &KnownTimes, reach: Option<(i64, i64)>) -> Result<Option<Vec<ColumnRange>>> {
    let Some((least, most)) = reach else { return Ok(None) };
    let column = &known.horizon.column;
    let kind = known.columns.field_with_name(column).map(|field| field.data_type().clone());
    let kind = kind.map_err(|error| Error::new(Code::INTERNAL, "a table lacks its time").because(error))?;
    let value = |micros: i64| -> Result<ArrayRef> {
        let array: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![micros]));
        cast(&array, &kind)
            .map_err(|error| Error::new(Code::INTERNAL, "could not bound times").because(error))
    };
    Ok(Some(vec![ColumnRange {
        column: column.clone(),
        least: value(least.saturating_sub(known.horizon.micros))?,
        most: value(most.saturating_add(known.horizon.micros))?,
    }]))
}

/// Rows of a data file, as its statistics tell.
fn records(file: &Add) -> i64 {
    let stats = file.stats.as_deref().and_then(|stats| serde_json::from_str::<serde_json::Value>(stats).ok());
    stats.and_then(|stats| stats["numRecords"].as_i64()).unwrap_or(0)
}

/// Times as microseconds.
pub(crate) fn micros(column: &ArrayRef) -> Result<Int64Array> {
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let micros = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone))
        .map_err(|error| Error::new(Code::INTERNAL, "could not read the times of rows").because(error))?;
    Ok(micros.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>())
}
