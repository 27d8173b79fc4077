//! A group of writes becomes blocks: each record goes to its shard and gets its ordinal.

use std::collections::BTreeMap;

use catchment_core::{Code, Error, Result};

use crate::block::{Builder, Header, Kind};
use crate::sequence::Sequence;
use crate::shards::{ShardId, seconds};
use crate::state::StreamState;
use crate::stream::{Appended, Entry};

/// Blocks that are written together.
pub(crate) struct Group {
    pub(crate) bytes: Vec<u8>,
    pub(crate) blocks: Vec<(u64, Header)>,
}

/// Gathers the records of several writers.
pub(crate) struct Gathering<'a> {
    /// The last hash of each open shard with its number and its time of making, in order.
    routes: Vec<(u128, ShardId, u64)>,
    heads: &'a BTreeMap<ShardId, u64>,
    shards: BTreeMap<ShardId, Filling>,
    arrived: i64,
}

/// The blocks of a shard. Readers read whole blocks, so they are of bounded size.
#[derive(Default)]
struct Filling {
    full: Vec<Builder>,
    last: Builder,
    count: u64,
}

/// A block gets no more once it has so many bytes.
const BLOCK_BYTES: usize = 256 << 10;

impl<'a> Gathering<'a> {
    /// Begins a group. `heads` are the next ordinals of the shards.
    pub(crate) fn new(state: &StreamState, heads: &'a BTreeMap<ShardId, u64>, arrived: i64) -> Self {
        let mut routes: Vec<_> =
            state.open().map(|shard| (shard.range.end, shard.id, shard.created)).collect();
        routes.sort_unstable();
        Self { routes, heads, shards: BTreeMap::new(), arrived }
    }

    /// Adds the records of one writer; tells where each went, in their order.
    pub(crate) fn add(&mut self, entries: &[Entry]) -> Result<Vec<Appended>> {
        let mut appended = Vec::with_capacity(entries.len());
        for entry in entries {
            let place = self.routes.partition_point(|(end, ..)| *end < entry.hash);
            let Some((_, shard, created)) = self.routes.get(place).copied() else {
                return Err(Error::new(Code::INTERNAL, "no open shard takes a hash"));
            };
            let filling = self.shards.entry(shard).or_default();
            let ordinal = self.heads.get(&shard).copied().unwrap_or(1) + filling.count;
            filling.last.push(&entry.partition_key, &entry.data);
            filling.count += 1;
            if filling.last.bytes() >= BLOCK_BYTES {
                filling.full.push(std::mem::take(&mut filling.last));
            }
            let sequence =
                Sequence { shard_created: created, shard, ordinal, arrived: seconds(self.arrived) };
            appended.push(Appended { shard, sequence });
        }
        Ok(appended)
    }

    /// Ends the group; `offset` is where it is going to be written.
    pub(crate) fn finish(self, offset: u64, salt: u32) -> Group {
        let mut group = Group { bytes: Vec::new(), blocks: Vec::new() };
        for (shard, filling) in self.shards {
            let mut first = self.heads.get(&shard).copied().unwrap_or(1);
            for builder in
                filling.full.into_iter().chain([filling.last]).filter(|builder| builder.count() > 0)
            {
                let (header, bytes) =
                    builder.finish(Kind::Records, shard, first, self.arrived, (offset, salt));
                first += u64::from(header.count);
                group.blocks.push((offset + group.bytes.len() as u64, header));
                group.bytes.extend(bytes);
            }
        }
        group
    }
}
