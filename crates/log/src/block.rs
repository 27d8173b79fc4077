//! Blocks: what segments are made of.
//!
//! A block holds the records that one group of writes brought to one shard, or, first in each segment, the next
//! ordinal of every shard. All numbers are little-endian. The header's 52 bytes: magic `CBLK`; CRC-32 of the
//! segment's salt and the header from byte 8 on; CRC-32 of the payload; length of the payload; kind; shard; count of records; first ordinal;
//! time of arrival in milliseconds; offset in the segment at which the group begins. A record is the length of its
//! key (2 bytes), the length of its data (4), key and data.
//!
//! A group is written after the one before is synced. So a bad block is the torn end of the last group if nothing of
//! a later group follows it, and damage to what was acknowledged if something does.

use bytes::Bytes;
use catchment_core::{Code, Error, Result};

use crate::shards::ShardId;
use crate::stream::Record;

pub(crate) const HEADER: usize = 52;
const MAGIC: &[u8; 4] = b"CBLK";

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Records,
    Starts,
}

/// A block's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Bytes of the payload.
    pub(crate) length: u32,
    payload_crc: u32,
    pub(crate) shard: ShardId,
    pub(crate) count: u32,
    pub(crate) first: u64,
    pub(crate) arrived: i64,
    /// Where the group begins that the block was written with.
    pub(crate) group: u64,
}

impl Header {
    /// Reads a header; `None` when it is none of this segment, or damaged.
    pub(crate) fn read(bytes: &[u8], salt: u32) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        let word = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let long = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        if &bytes[..4] != MAGIC || word(4)? != salted(&bytes[8..], salt) {
            return None;
        }
        let kind = match word(16)? {
            1 => Kind::Records,
            2 => Kind::Starts,
            _ => return None,
        };
        Some(Self {
            kind,
            payload_crc: word(8)?,
            length: word(12)?,
            shard: ShardId(word(20)?),
            count: word(24)?,
            first: long(28)?,
            arrived: long(36)?.cast_signed(),
            group: long(44)?,
        })
    }

    /// Bytes of the whole block.
    pub(crate) fn size(&self) -> u64 {
        HEADER as u64 + u64::from(self.length)
    }

    /// Whether a payload is the one that was written.
    pub(crate) fn fits(&self, payload: &[u8]) -> bool {
        payload.len() == self.length as usize && crc32fast::hash(payload) == self.payload_crc
    }
}

/// A block that is being filled.
pub(crate) struct Builder {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for Builder {
    fn default() -> Self {
        Self { bytes: vec![0; HEADER], count: 0 }
    }
}

impl Builder {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a record. Keys have at most 1,024 bytes and data a few megabytes; both are checked before.
    pub(crate) fn push(&mut self, key: &str, data: &[u8]) {
        let key_length = u16::try_from(key.len()).unwrap_or(u16::MAX);
        let data_length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.bytes.extend(key_length.to_le_bytes());
        self.bytes.extend(data_length.to_le_bytes());
        self.bytes.extend(key.as_bytes());
        self.bytes.extend(data);
        self.count += 1;
    }

    /// Notes the next ordinal of a shard.
    pub(crate) fn push_start(&mut self, shard: ShardId, next: u64) {
        self.bytes.extend(shard.0.to_le_bytes());
        self.bytes.extend(next.to_le_bytes());
        self.count += 1;
    }

    /// Ends the block.
    pub(crate) fn finish(
        mut self,
        kind: Kind,
        shard: ShardId,
        first: u64,
        arrived: i64,
        (group, salt): (u64, u32),
    ) -> (Header, Vec<u8>) {
        let length = u32::try_from(self.bytes.len() - HEADER).unwrap_or(u32::MAX);
        let payload_crc = crc32fast::hash(&self.bytes[HEADER..]);
        let header = Header { kind, length, payload_crc, shard, count: self.count, first, arrived, group };
        let code: u32 = if kind == Kind::Records { 1 } else { 2 };
        let mut place = 8;
        let mut put = |value: &[u8]| {
            self.bytes[place..place + value.len()].copy_from_slice(value);
            place += value.len();
        };
        put(&payload_crc.to_le_bytes());
        put(&length.to_le_bytes());
        put(&code.to_le_bytes());
        put(&shard.0.to_le_bytes());
        put(&header.count.to_le_bytes());
        put(&first.to_le_bytes());
        put(&arrived.to_le_bytes());
        put(&group.to_le_bytes());
        let crc = salted(&self.bytes[8..HEADER], salt);
        self.bytes[..4].copy_from_slice(MAGIC);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        (header, self.bytes)
    }
}

/// The records of a payload, each with its ordinal. `None` when the payload is not what the header says.
pub(crate) fn records(header: &Header, payload: &Bytes) -> Option<Vec<Record>> {
    let mut records = Vec::with_capacity(header.count.min(65_536) as usize);
    let mut at = 0;
    for index in 0..u64::from(header.count) {
        let lengths = payload.get(at..at + 6)?;
        let key = usize::from(u16::from_le_bytes(lengths[..2].try_into().ok()?));
        let data = u32::from_le_bytes(lengths[2..].try_into().ok()?) as usize;
        let (key_at, data_at) = (at + 6, at + 6 + key);
        at = data_at + data;
        if at > payload.len() {
            return None;
        }
        let partition_key = std::str::from_utf8(&payload[key_at..data_at]).ok()?.to_owned();
        records.push(Record {
            ordinal: header.first + index,
            arrived: header.arrived,
            partition_key,
            data: payload.slice(data_at..at),
        });
    }
    (at == payload.len()).then_some(records)
}

/// The next ordinals that the first block of a segment tells.
pub(crate) fn starts(payload: &[u8]) -> Vec<(ShardId, u64)> {
    let pair = |bytes: &[u8]| {
        let shard = bytes[..4].try_into().map(u32::from_le_bytes).ok()?;
        Some((ShardId(shard), bytes[4..].try_into().map(u64::from_le_bytes).ok()?))
    };
    payload.chunks_exact(12).filter_map(pair).collect()
}

/// Reads blocks one after the other from the beginning of a segment, checking everything.
///
/// Returns the blocks with their offsets, and where the good part ends. `bytes` is the whole segment.
///
/// # Errors
/// Returns [`Code::STREAM_CORRUPT`] when something that was acknowledged is damaged.
pub(crate) fn scan(bytes: &[u8], path: &str) -> Result<(Vec<(u64, Header)>, u64)> {
    // The first block is without salt, and tells that of the others.
    let salt = Header::read(bytes, 0).map_or(0, |first| salt_of(&first));
    let whole = |at: usize| {
        let header = Header::read(&bytes[at..], if at == 0 { 0 } else { salt })?;
        let end = at + HEADER + header.length as usize;
        let payload = bytes.get(at + HEADER..end)?;
        header.fits(payload).then_some((header, end))
    };
    let (mut blocks, mut at) = (Vec::new(), 0);
    while let Some((header, end)) = whole(at) {
        blocks.push((at as u64, header));
        at = end;
        if at == bytes.len() {
            return Ok((blocks, at as u64));
        }
    }
    if at == 0 && bytes.len() > HEADER && bytes[1..].windows(4).any(|part| part == MAGIC) {
        // Nothing is written behind the first block before that is synced.
        return Err(corrupt(path, 0).hint("the first block of the segment is damaged, and others follow"));
    }
    let later = (at + 1..bytes.len().saturating_sub(HEADER))
        .filter(|place| bytes[*place..].starts_with(MAGIC))
        .find(|place| whole(*place).is_some_and(|(header, _)| header.group > at as u64));
    match later {
        Some(later) => {
            Err(corrupt(path, at as u64)
                .hint(format!("records that were acknowledged follow at byte {later}")))
        }
        None => Ok((blocks, at as u64)),
    }
}

/// The salt of a segment's blocks, which its first block tells. Nobody else knows it, so that no record can hold what looks like a block.
pub(crate) fn salt_of(first: &Header) -> u32 {
    u32::try_from(first.first).unwrap_or(0)
}

fn salted(bytes: &[u8], salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

pub(crate) fn corrupt(path: &str, at: u64) -> Error {
    Error::new(Code::STREAM_CORRUPT, format!("segment \"{path}\" is damaged at byte {at}"))
}
