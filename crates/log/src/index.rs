//! Where the blocks of each shard lie in a segment.

use std::collections::BTreeMap;

use crate::block::Header;
use crate::shards::ShardId;

/// A block of records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockAt {
    pub(crate) offset: u64,
    pub(crate) header: Header,
}

/// The blocks of a segment by shard, in the order of their ordinals.
#[derive(Debug, Default)]
pub(crate) struct Index(BTreeMap<ShardId, Vec<BlockAt>>);

impl Index {
    pub(crate) fn push(&mut self, offset: u64, header: Header) {
        self.0.entry(header.shard).or_default().push(BlockAt { offset, header });
    }

    /// The block that holds an ordinal of a shard, or the first one behind it, and those that follow.
    pub(crate) fn from(&self, shard: ShardId, ordinal: u64) -> &[BlockAt] {
        let blocks = self.0.get(&shard).map_or(&[][..], Vec::as_slice);
        let first =
            blocks.partition_point(|block| block.header.first + u64::from(block.header.count) <= ordinal);
        &blocks[first..]
    }

    /// The first block of a shard that arrived at a time or later.
    pub(crate) fn since(&self, shard: ShardId, millis: i64) -> Option<BlockAt> {
        let blocks = self.0.get(&shard)?;
        blocks.get(blocks.partition_point(|block| block.header.arrived < millis)).copied()
    }

    /// The next ordinals after this segment, of the shards that it has records of.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (ShardId, u64)> {
        let end = |block: &BlockAt| block.header.first + u64::from(block.header.count);
        self.0.iter().filter_map(move |(shard, blocks)| Some((*shard, end(blocks.last()?))))
    }
}
