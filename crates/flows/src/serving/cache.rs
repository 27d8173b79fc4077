//! States of groups in memory, so that what a batch costs does not depend on how many groups there are, as long as these fit.
//!
//! What is here is in the store, too, as of the same batch: it is put here when the batch is durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use rustc_hash::FxBuildHasher;

use crate::serving::rows::AGE_BYTES;

/// Bytes that an entry takes besides its state: its key, and its places in the table and in the allocator.
const BESIDE: u64 = 80;

/// The states of all tables of a store.
pub(crate) struct StateCache {
    states: Cache<u128, Arc<[u8]>, Bytes, FxBuildHasher>,
    tables: AtomicU64,
}

/// The states of one table. Another form of the table has other ones.
#[derive(Clone)]
pub(crate) struct TableStates {
    cache: Arc<StateCache>,
    table: u64,
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<u128, Arc<[u8]>> for Bytes {
    fn weight(&self, _: &u128, state: &Arc<[u8]>) -> u64 {
        BESIDE + state.len() as u64
    }
}

impl StateCache {
    /// One that holds so many bytes.
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        let items = usize::try_from(bytes / (2 * BESIDE)).unwrap_or(usize::MAX);
        Arc::new(Self {
            states: Cache::with(items, bytes, Bytes, FxBuildHasher, DefaultLifecycle::default()),
            tables: AtomicU64::new(rand::random()),
        })
    }

    /// The states of a table that is opened.
    pub(crate) fn table(self: &Arc<Self>) -> TableStates {
        TableStates { cache: Arc::clone(self), table: self.tables.fetch_add(1, Ordering::Relaxed) }
    }
}

impl TableStates {
    /// The state of a group, when it is here.
    pub(crate) fn get(&self, group: &[u8]) -> Option<Arc<[u8]>> {
        let found = self.cache.states.get(&self.key(group))?;
        // A state begins with its group, which another one of the same hash does not.
        found.get(AGE_BYTES..)?.starts_with(group).then_some(found)
    }

    /// Takes a state, or forgets it.
    pub(crate) fn set(&self, group: &[u8], state: Option<&[u8]>) {
        match state {
            Some(state) => self.cache.states.insert(self.key(group), Arc::from(state)),
            None => _ = self.cache.states.remove(&self.key(group)),
        }
    }

    fn key(&self, group: &[u8]) -> u128 {
        xxhash_rust::xxh3::xxh3_128_with_seed(group, self.table)
    }
}
