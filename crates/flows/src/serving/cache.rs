//! States of groups in memory, so that what a batch costs does not depend on how many groups there are, as long as these fit.
//!
//! What is here is in the store, too, as of the same batch: it is put here when the batch is durable. A batch asks for all of
//! its groups at once and in the order of their hashes, and a state of few bytes lies where it is found: among millions, each
//! step to another place in memory costs as much as computing with what is there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxBuildHasher;

use crate::serving::rows::AGE_BYTES;

/// Bytes of a state that lies in its place: with its hash it fills a line of the processor's cache.
const FEW: usize = 54;

/// Bytes of a place: a hash, a state, and what the table knows of it.
const PLACE: usize = size_of::<(u64, State)>() + 1;

/// Parts that are locked, grow and are forgotten for themselves; a power of two.
const PARTS: usize = 64;

/// The states of all tables of a store.
pub(crate) struct StateCache {
    parts: Vec<Mutex<Part>>,
    /// The most bytes of one generation of a part, about.
    most: usize,
    tables: AtomicU64,
}

/// The states of one table. Another form of the table has other ones.
#[derive(Clone)]
pub(crate) struct TableStates {
    cache: Arc<StateCache>,
    table: u64,
}

/// What was written lately, and before that. A group that a batch goes on with is written by it, so what is still wanted is
/// always among the first; when they are too many, they are those of before, and what was before is forgotten.
#[derive(Default)]
struct Part {
    lately: Places,
    before: Places,
    /// Bytes of what was written lately and does not lie in its place.
    beside: usize,
}

type Places = HashMap<u64, State, FxBuildHasher>;

/// The bytes of a state.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// In place, and how many they are.
    Few([u8; FEW], u8),
    Many(Box<[u8]>),
}

impl State {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut few = [0; FEW];
        match (few.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(bytes);
                Self::Few(few, length)
            }
            _ => Self::Many(bytes.into()),
        }
    }

    /// Whether it is of a group: a state begins with it behind its age.
    fn is_of(&self, group: &[u8]) -> bool {
        self.as_ref().get(AGE_BYTES..).is_some_and(|state| state.starts_with(group))
    }

    /// Bytes that it takes beside its place.
    fn beside(&self) -> usize {
        match self {
            Self::Few(..) => 0,
            Self::Many(bytes) => bytes.len(),
        }
    }
}

impl AsRef<[u8]> for State {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Few(bytes, length) => &bytes[..usize::from(*length)],
            Self::Many(bytes) => bytes,
        }
    }
}

impl StateCache {
    /// One that holds about so many bytes.
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        // A sixteenth more, so that a table of a power of two fits whose bytes are no power of two.
        let most = usize::try_from(bytes / (2 * PARTS as u64) * 17 / 16).unwrap_or(usize::MAX);
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Arc::new(Self { parts, most, tables: AtomicU64::new(rand::random()) })
    }

    /// The states of a table that is opened.
    pub(crate) fn table(self: &Arc<Self>) -> TableStates {
        TableStates { cache: Arc::clone(self), table: self.tables.fetch_add(1, Ordering::Relaxed) }
    }
}

impl TableStates {
    /// The states of groups, of those whose states are here.
    pub(crate) fn get(&self, groups: &[&[u8]]) -> Vec<Option<State>> {
        let mut found = vec![None; groups.len()];
        self.each(groups.iter().copied(), |part, hash, index| {
            let state = part.lately.get(&hash).or_else(|| part.before.get(&hash));
            // Another group may have the same hash.
            found[index] = state.filter(|state| state.is_of(groups[index])).cloned();
        });
        found
    }

    /// Takes states of groups, or forgets them.
    pub(crate) fn set(&self, states: &[(&[u8], Option<&[u8]>)]) {
        self.each(states.iter().map(|(group, _)| *group), |part, hash, index| match states[index].1 {
            Some(state) => part.put(hash, State::new(state), self.cache.most),
            None => part.forget(hash),
        });
    }

    /// Calls a function for each group with its part, its hash and its index, part after part.
    fn each<'a>(
        &self,
        groups: impl Iterator<Item = &'a [u8]>,
        mut of_group: impl FnMut(&mut MutexGuard<'_, Part>, u64, usize),
    ) {
        let hash = |group: &[u8]| xxhash_rust::xxh3::xxh3_64_with_seed(group, self.table);
        let mut hashes: Vec<(u64, usize)> =
            groups.enumerate().map(|(index, group)| (hash(group), index)).collect();
        hashes.sort_unstable();
        let part_of = |hash: u64| (hash >> (u64::BITS - PARTS.trailing_zeros())) as usize;
        for of_part in hashes.chunk_by(|one, other| part_of(one.0) == part_of(other.0)) {
            let part = &self.cache.parts[part_of(of_part[0].0)];
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            of_part.iter().for_each(|(hash, index)| of_group(&mut part, *hash, *index));
        }
    }
}

impl Part {
    fn put(&mut self, hash: u64, state: State, most: usize) {
        // A table that is full doubles.
        let places = self.lately.capacity();
        let grows = self.lately.len() == places;
        if table_bytes(if grows { places * 2 } else { places }) + self.beside > most {
            self.beside = 0;
            self.before = std::mem::take(&mut self.lately);
        }
        self.beside += state.beside();
        if let Some(replaced) = self.lately.insert(hash, state) {
            self.beside -= replaced.beside();
        }
    }

    fn forget(&mut self, hash: u64) {
        self.before.remove(&hash);
        if let Some(removed) = self.lately.remove(&hash) {
            self.beside -= removed.beside();
        }
    }
}

/// The size of a table with so many places that can be taken: seven in eight of all.
fn table_bytes(places: usize) -> usize {
    (places * 8 / 7).next_power_of_two() * PLACE
}
