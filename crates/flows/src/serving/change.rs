//! What a batch does to a serving table, written at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use catchment_core::{Result, TableName};
use datafusion::arrow::array::{RecordBatch, UInt64Array};
use fjall::OwnedWriteBatch;

use crate::serving::rows::{AGE_BYTES, LONGEST_KEY, written_at};
use crate::serving::store::{Described, Made, ServingStore, failed};
use crate::serving::table::ServingTable;

/// Rows that are over and are taken away with one batch, at most.
const SWEPT: usize = 10_000;

/// A change that is being gathered.
pub(crate) struct Change {
    table: Arc<ServingTable>,
    batch: OwnedWriteBatch,
    /// Rows by their keys; the last one of a key counts, and `None` takes it away.
    rows: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// States by their groups, `None` for what is over. A key that stands twice in a batch of writes would be either.
    states: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// Where rows without groups come from, by their keys.
    addresses: HashMap<Vec<u8>, u64>,
    planned_at: i64,
    /// Up to where ages are swept when this is committed.
    swept: Option<i64>,
    /// Rows that are left out, since no key may be so long.
    too_long: u64,
}

impl Change {
    pub(crate) fn new(store: &ServingStore, table: &Arc<ServingTable>, planned_at: i64) -> Self {
        Self {
            table: Arc::clone(table),
            batch: store.batch(),
            rows: HashMap::new(),
            states: HashMap::new(),
            addresses: HashMap::new(),
            planned_at,
            swept: None,
            too_long: 0,
        }
    }

    /// The table that is changed.
    pub(crate) fn table(&self) -> &Arc<ServingTable> {
        &self.table
    }

    /// How many rows are written.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.values().filter(|row| row.is_some()).count() as u64
    }

    /// Writes rows; gives their keys.
    pub(crate) fn put(&mut self, rows: &RecordBatch) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::with_capacity(rows.num_rows());
        for (key, value) in self.table.layout.write(rows, self.planned_at)? {
            if self.is_too_long(&key) {
                continue;
            }
            keys.push(key.clone());
            self.rows.insert(key, Some(value));
        }
        Ok(keys)
    }

    /// Writes rows that have no groups; gives their keys. Of the rows of one key the one with the highest address stays, which
    /// came last; rows of one address, which a join makes, are told apart by their values, so that it is the same one each time.
    pub(crate) fn put_latest(
        &mut self,
        rows: &RecordBatch,
        addresses: Option<&UInt64Array>,
    ) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::with_capacity(rows.num_rows());
        for (row, (key, value)) in self.table.layout.write(rows, self.planned_at)?.into_iter().enumerate() {
            if self.is_too_long(&key) {
                continue;
            }
            let address = addresses.map_or(0, |addresses| addresses.value(row));
            let before = self.addresses.get(&key).copied();
            let is_newer = match (before, self.rows.get(&key)) {
                (Some(before), Some(Some(known))) => (before, known) < (address, &value),
                _ => true,
            };
            if is_newer {
                self.put_age(&key, &key);
                self.addresses.insert(key.clone(), address);
                self.rows.insert(key.clone(), Some(value));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// How many rows were left out, since their keys are too long.
    pub(crate) fn too_long(&self) -> u64 {
        self.too_long
    }

    /// Whether a key is too long for the store; such a row is counted and left out.
    pub(crate) fn is_too_long(&mut self, key: &[u8]) -> bool {
        let is_too_long = key.len() > LONGEST_KEY;
        self.too_long += u64::from(is_too_long);
        is_too_long
    }

    /// Takes a row away.
    pub(crate) fn remove(&mut self, key: Vec<u8>) {
        self.rows.insert(key, None);
    }

    /// Writes the state of a group whose row has the key `row`.
    pub(crate) fn put_state(&mut self, group: &[u8], state: Vec<u8>, row: &[u8]) {
        self.states.insert(group.to_vec(), Some(state));
        self.put_age(group, row);
    }

    /// Notes when what `of` is was written, where rows do not stay.
    fn put_age(&mut self, of: &[u8], row: &[u8]) {
        if self.table.key().time_to_live.is_some() {
            let age = [self.planned_at.to_be_bytes().as_slice(), of].concat();
            self.batch.insert(&self.table.ages, age, row);
        }
    }

    /// Takes rows away that are not among `kept`.
    pub(crate) fn keep_only(&mut self, kept: &HashSet<Vec<u8>>) -> Result<()> {
        for entry in self.table.rows.iter() {
            let key = entry.key().map_err(|error| failed("be read", error))?;
            if !kept.contains(key.as_ref()) {
                self.rows.insert(key.to_vec(), None);
            }
        }
        Ok(())
    }

    /// Takes away what is over, as far as one batch does; gives how much.
    pub(crate) fn sweep(&mut self) -> Result<usize> {
        let table = Arc::clone(&self.table);
        let Some(time_to_live) = table.key().time_to_live else { return Ok(0) };
        let until = self.planned_at.saturating_sub(time_to_live).saturating_add(1).max(0);
        let from = table.swept.load(Ordering::Relaxed).min(until);
        let (mut count, mut reached) = (0, until);
        for entry in table.ages.range(from.to_be_bytes()..until.to_be_bytes()).take(SWEPT) {
            let (age, row) = entry.into_inner().map_err(|error| failed("be read", error))?;
            if count + 1 == SWEPT {
                reached = written_at(&age).unwrap_or(0);
            }
            let of = age.get(AGE_BYTES..).unwrap_or_default();
            let read =
                |keyspace: &fjall::Keyspace| keyspace.get(of).map_err(|error| failed("be read", error));
            // It may have been written again since.
            let is_of = |value: Option<fjall::UserValue>| {
                value.is_some_and(|value| written_at(&value) == written_at(&age))
            };
            if is_of(read(&table.states)?) {
                self.states.insert(of.to_vec(), None);
                self.rows.insert(row.to_vec(), None);
            } else if is_of(read(&table.rows)?) {
                self.rows.insert(row.to_vec(), None);
            }
            self.batch.remove(&table.ages, age);
            count += 1;
        }
        self.swept = Some(reached);
        Ok(count)
    }

    /// Makes all of it durable, together with where the flow stands.
    pub(crate) fn commit(
        mut self,
        store: &ServingStore,
        name: &TableName,
        described: &Described,
        made: Option<&Made>,
    ) -> Result<()> {
        // In the order of their keys, each finds its place not far from the one before.
        let mut rows: Vec<_> = std::mem::take(&mut self.rows).into_iter().collect();
        rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (key, value) in rows {
            match value {
                Some(value) => self.batch.insert(&self.table.rows, key, value),
                None => self.batch.remove(&self.table.rows, key),
            }
        }
        let mut states: Vec<_> = std::mem::take(&mut self.states).into_iter().collect();
        states.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (group, state) in &states {
            match state {
                Some(state) => self.batch.insert(&self.table.states, group.as_slice(), state.as_slice()),
                None => self.batch.remove(&self.table.states, group.as_slice()),
            }
        }
        let committed = store.commit(name, described, made, self.batch);
        // What a write that failed has done is known from the store alone.
        let known = states
            .iter()
            .map(|(group, state)| (group.as_slice(), state.as_deref().filter(|_| committed.is_ok())));
        self.table.cached.set(&known.collect::<Vec<_>>());
        committed?;
        if let Some(swept) = self.swept {
            self.table.swept.store(swept, Ordering::Relaxed);
        }
        Ok(())
    }
}
