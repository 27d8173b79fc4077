//! Reads a serving table: rows by key, ranges of keys, all rows.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use catchment_core::{Code, Error, Result};
use catchment_ingest::sql_name;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::SchemaRef;
use fjall::{AbstractTree, Database, Keyspace, Readable, UserKey, UserValue};

use crate::serving::cache::{State, TableStates};
use crate::serving::rows::{LONGEST_KEY, Layout, RowKey};
use crate::serving::store::failed;

/// Rows of a batch when all are read.
const SCAN_ROWS: usize = 8_192;

/// A serving table, open for reading.
pub struct ServingTable {
    pub(crate) layout: Layout,
    /// Which of the forms that it has had: each has keyspaces of its own.
    pub(crate) generation: u32,
    pub(crate) database: Database,
    pub(crate) rows: Keyspace,
    /// By the bytes of a group: its state.
    pub(crate) states: Keyspace,
    /// The same, of those that were written last.
    pub(crate) cached: TableStates,
    /// By when it was written and what it is of (a group, or a row without one): the key of the row. Only of a table
    /// whose rows do not stay.
    pub(crate) ages: Keyspace,
    /// What was written before this has been swept, in microseconds since the Unix epoch: what is gone need not be passed again.
    pub(crate) swept: AtomicI64,
}

impl std::fmt::Debug for ServingTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingTable").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// What a serving table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServingSize {
    /// Rows, about: one that was written again counts again until the store has joined its files.
    pub rows: u64,
    /// States of groups, about.
    pub groups: u64,
    /// Bytes in files and of what is not in files yet.
    pub bytes: u64,
}

/// Which rows of one primary key are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first value of the first sort column, as text.
    pub from: Option<String>,
    /// The first value that is not wanted any more.
    pub to: Option<String>,
    /// The most rows.
    pub limit: usize,
    /// Whether the last rows come first.
    pub descending: bool,
}

type Entry = (UserKey, UserValue);

impl ServingTable {
    /// Its columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        self.layout.schema()
    }

    /// What it holds.
    #[must_use]
    pub fn size(&self) -> ServingSize {
        let bytes = |keyspace: &Keyspace| keyspace.disk_space() + keyspace.tree.active_memtable().size();
        let count = |keyspace: &Keyspace| keyspace.approximate_len() as u64;
        ServingSize {
            rows: count(&self.rows),
            groups: count(&self.states),
            bytes: [&self.rows, &self.states, &self.ages].map(bytes).iter().sum(),
        }
    }

    /// How its rows are found.
    #[must_use]
    pub fn key(&self) -> &RowKey {
        self.layout.key()
    }

    /// The states of groups, of those that have one.
    pub(crate) fn states_of<'a>(&self, groups: impl Iterator<Item = &'a [u8]>) -> Result<Vec<State>> {
        let groups: Vec<&[u8]> = groups.collect();
        let mut found = Vec::with_capacity(groups.len());
        for (group, state) in groups.iter().zip(self.cached.get(&groups)) {
            match state {
                Some(state) => found.push(state),
                None => {
                    let state = self.states.get(group).map_err(|error| failed("be read", error))?;
                    found.extend(state.map(|state| State::new(&state)));
                }
            }
        }
        Ok(found)
    }

    /// The rows of whole keys that are there, their values given as text in the order of the key's columns; `now` in
    /// microseconds since the Unix epoch.
    ///
    /// # Errors
    /// Returns [`Code::SQL_TYPE`] for a text that is no value of its column, and errors of the disk.
    pub fn get(&self, keys: &[Vec<String>], now: i64) -> Result<RecordBatch> {
        let columns = self.key_values(keys, self.layout.key_columns().len())?;
        // All rows of an answer are of the same batches.
        let view = self.database.snapshot();
        let mut found: Vec<Entry> = Vec::new();
        for key in self.layout.keys_of(&columns)? {
            if key.len() > LONGEST_KEY {
                continue;
            }
            let value = view.get(&self.rows, &key).map_err(|error| failed("be read", error))?;
            found.extend(
                value.filter(|value| !self.layout.is_over(value, now)).map(|value| (key.into(), value)),
            );
        }
        self.layout.read(&found)
    }

    /// Rows of one primary key, in the order of the sort key.
    ///
    /// # Errors
    /// As [`ServingTable::get`].
    pub fn range(&self, primary: &[String], range: &KeyRange, now: i64) -> Result<RecordBatch> {
        let count = self.key().primary.len();
        let prefix =
            self.layout.keys_of(&self.key_values(&[primary.to_vec()], count)?)?.pop().unwrap_or_default();
        let bound = |value: &Option<String>| match value {
            Some(value) => {
                let key: Vec<String> = primary.iter().chain([value]).cloned().collect();
                Ok::<_, Error>(self.layout.keys_of(&self.key_values(&[key], count + 1)?)?.pop())
            }
            None => Ok(None),
        };
        let from = Bound::Included(bound(&range.from)?.unwrap_or_else(|| prefix.clone()));
        let to = match bound(&range.to)? {
            Some(to) => Bound::Excluded(to),
            None => behind(&prefix).map_or(Bound::Unbounded, Bound::Excluded),
        };
        if let (Bound::Included(from), Bound::Excluded(to)) = (&from, &to)
            && (from >= to || from.len().max(to.len()) > LONGEST_KEY)
        {
            return self.layout.read(&Vec::<Entry>::new());
        }
        let mut entries = self.database.snapshot().range(&self.rows, (from, to));
        let mut found = Vec::new();
        while found.len() < range.limit {
            let next = if range.descending { entries.next_back() } else { entries.next() };
            let Some(next) = next else { break };
            let (key, value) = next.into_inner().map_err(|error| failed("be read", error))?;
            if !self.layout.is_over(&value, now) {
                found.push((key, value));
            }
        }
        self.layout.read(&found)
    }

    /// Hands out all rows, in the order of their keys, until nobody wants more.
    ///
    /// # Errors
    /// Returns errors of the disk, and those of `each`.
    pub fn scan(&self, now: i64, mut each: impl FnMut(RecordBatch) -> Result<bool>) -> Result<()> {
        let mut found: Vec<Entry> = Vec::new();
        for entry in self.database.snapshot().iter(&self.rows) {
            let (key, value) = entry.into_inner().map_err(|error| failed("be read", error))?;
            if !self.layout.is_over(&value, now) {
                found.push((key, value));
            }
            if found.len() == SCAN_ROWS && !each(self.layout.read(&std::mem::take(&mut found))?)? {
                return Ok(());
            }
        }
        if !found.is_empty() {
            each(self.layout.read(&found)?)?;
        }
        Ok(())
    }

    /// Keys given as text, as columns.
    fn key_values(&self, keys: &[Vec<String>], count: usize) -> Result<Vec<ArrayRef>> {
        if let Some(wrong) = keys.iter().find(|key| key.len() != count) {
            let names: Vec<&str> = self.key().columns().take(count).map(String::as_str).collect();
            return Err(Error::new(
                Code::SQL_TYPE,
                format!("a key has {count} values ({}), not {}", names.join(", "), wrong.len()),
            ));
        }
        (0..count).map(|column| self.key_column(keys, column)).collect()
    }

    fn key_column(&self, keys: &[Vec<String>], column: usize) -> Result<ArrayRef> {
        let field = self.schema().field(self.layout.key_columns()[column]);
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(keys.iter().map(|key| &key[column])));
        let options = CastOptions { safe: true, ..CastOptions::default() };
        let wrong = |text: &str| {
            Error::new(
                Code::SQL_TYPE,
                format!("{text:?} is no {} for key column \"{}\"", sql_name(field.data_type()), field.name()),
            )
        };
        let values = cast_with_options(&texts, field.data_type(), &options)
            .map_err(|error| wrong(&keys[0][column]).because(error))?;
        match (0..values.len()).find(|row| values.is_null(*row)) {
            Some(row) => Err(wrong(&keys[row][column])),
            None => Ok(values),
        }
    }
}

/// The first bytes behind all that begin with `prefix`, `None` when there are none.
fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}
