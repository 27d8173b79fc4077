//! How much a shard takes and gives in a second, where AWS's limits are kept.
//!
//! What may pass comes back evenly over the second, and no more than a second's worth is held. An answer may hold more than there is
//! room for: then nothing passes until that has come back, as with Kinesis.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use catchment_log::{ShardId, StreamState};

use crate::kinesis::answer::Fault;

/// Of each shard and second: records and bytes that may be put, requests that may read, and bytes that they get.
const PUT_RECORDS: u32 = 1_000;
const PUT_BYTES: u32 = 1 << 20;
const READS: u32 = 5;
const READ_BYTES: u32 = 2 << 20;

/// Shards that are remembered; beyond that all begin with a full second.
const SHARDS: usize = 100_000;

/// Keeps count of what passed.
#[derive(Debug, Default)]
pub(super) struct Rates {
    shards: Mutex<BTreeMap<(String, i64, ShardId), Shard>>,
}

#[derive(Debug, Clone, Copy)]
struct Shard {
    put_records: Allowance,
    put_bytes: Allowance,
    reads: Allowance,
    read_bytes: Allowance,
}

/// What is left of an amount a second.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    a_second: u32,
    /// What is left, in thousandths; less than nothing when more was given than there was.
    left: i64,
    /// When that was, in milliseconds.
    at: i64,
}

impl Allowance {
    fn full(a_second: u32, now: i64) -> Self {
        Self { a_second, left: i64::from(a_second) * 1_000, at: now }
    }

    /// What is left now, in thousandths.
    fn now(&mut self, now: i64) -> i64 {
        let a_second = i64::from(self.a_second);
        // A clock that jumps back gives nothing.
        let passed = now.saturating_sub(self.at).max(0);
        self.left = self.left.saturating_add(passed.saturating_mul(a_second)).min(a_second * 1_000);
        self.at = now;
        self.left
    }

    fn has(&mut self, amount: usize, now: i64) -> bool {
        self.now(now) >= thousandths(amount)
    }

    fn take(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(thousandths(amount));
    }
}

fn thousandths(amount: usize) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX).saturating_mul(1_000)
}

impl Rates {
    fn with<T>(
        &self,
        state: &StreamState,
        shard: ShardId,
        now: i64,
        work: impl FnOnce(&mut Shard) -> T,
    ) -> T {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if shards.len() >= SHARDS {
            shards.clear();
        }
        let full = Shard {
            put_records: Allowance::full(PUT_RECORDS, now),
            put_bytes: Allowance::full(PUT_BYTES, now),
            reads: Allowance::full(READS, now),
            read_bytes: Allowance::full(READ_BYTES, now),
        };
        let key = (state.name.as_str().to_owned(), state.created_at, shard);
        work(shards.entry(key).or_insert(full))
    }

    /// Whether a shard takes a record of so many bytes now; then it counts.
    pub(super) fn put(&self, state: &StreamState, shard: ShardId, bytes: usize, now: i64) -> bool {
        self.with(state, shard, now, |shard| {
            // A record that is larger than a second's worth passes when nothing else did.
            let wanted = bytes.min(PUT_BYTES as usize);
            let passes = shard.put_records.has(1, now) && shard.put_bytes.has(wanted, now);
            if passes {
                shard.put_records.take(1);
                shard.put_bytes.take(bytes);
            }
            passes
        })
    }

    /// Whether a shard may be read now; then it counts.
    pub(super) fn begin_read(&self, state: &StreamState, shard: ShardId, now: i64) -> bool {
        self.with(state, shard, now, |shard| {
            let passes = shard.reads.has(1, now) && shard.read_bytes.now(now) > 0;
            if passes {
                shard.reads.take(1);
            }
            passes
        })
    }

    /// Counts what a reader got.
    pub(super) fn end_read(&self, state: &StreamState, shard: ShardId, bytes: usize, now: i64) {
        self.with(state, shard, now, |shard| shard.read_bytes.take(bytes));
    }
}

/// What is told when a shard takes or gives nothing more.
pub(super) fn exceeded(state: &StreamState, shard: ShardId, account: &str) -> Fault {
    Fault::new("ProvisionedThroughputExceededException", message(state, shard, account))
}

/// What is told of a record that a shard does not take.
pub(super) fn message(state: &StreamState, shard: ShardId, account: &str) -> String {
    format!("Rate exceeded for shard {shard} in stream {} under account {account}.", state.name)
}

#[cfg(test)]
mod tests {
    use catchment_log::{ShardId, StreamName, StreamState};
    use proptest::prelude::*;

    use super::{PUT_BYTES, PUT_RECORDS, READ_BYTES, READS, Rates};

    fn state() -> StreamState {
        StreamState::new(StreamName::new("s").unwrap(), 1, 0)
    }

    proptest! {
        /// Whatever comes when, a shard takes what the time since the start has room for, and refuses only what it has not.
        #[test]
        fn a_shard_takes_its_rate_and_no_more(puts in prop::collection::vec((0_i64..400, 0_usize..300_000), 1..200)) {
            let (rates, state) = (Rates::default(), state());
            let (mut now, mut records, mut bytes) = (0_i64, 0_i64, 0_i64);
            for (pause, size) in puts {
                now += pause;
                let taken = rates.put(&state, ShardId(0), size, now);
                let size = i64::try_from(size).unwrap();
                if taken {
                    (records, bytes) = (records + 1, bytes + size);
                }
                prop_assert!(records <= i64::from(PUT_RECORDS) * (now + 1_000) / 1_000);
                prop_assert!(bytes * 1_000 <= i64::from(PUT_BYTES) * (now + 1_000));
                // After a second of silence anything passes.
                let mut later = rates.shards.lock().unwrap().values().next().copied().unwrap();
                prop_assert!(later.put_records.has(1, now + 1_000) && later.put_bytes.has(PUT_BYTES as usize, now + 1_000));
            }
        }
    }

    #[test]
    fn a_reader_that_got_much_waits_until_that_has_come_back() {
        let (rates, state) = (Rates::default(), state());
        assert!(rates.begin_read(&state, ShardId(0), 0));
        rates.end_read(&state, ShardId(0), 5 * READ_BYTES as usize, 0);
        assert!(!rates.begin_read(&state, ShardId(0), 3_999));
        assert!(rates.begin_read(&state, ShardId(0), 4_001));
        // Another shard has its own, and a clock that jumps back gives nothing.
        for _ in 0..READS {
            assert!(rates.begin_read(&state, ShardId(1), 0));
        }
        assert!(!rates.begin_read(&state, ShardId(1), -5_000));
        assert!(!rates.begin_read(&state, ShardId(1), -4_900));
        assert!(rates.begin_read(&state, ShardId(1), -4_700));
    }
}
