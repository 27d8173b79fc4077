//! A file of blocks: the newest is written to, the others are whole.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use catchment_core::{FaultPoint, Faults, Result};

use crate::block::{self, Builder, HEADER, Header, Kind, corrupt};
use crate::disk::{disk_error, sync_folder};
use crate::index::{BlockAt, Index};
use crate::shards::ShardId;
use crate::stream::Record;

/// A segment of a stream.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    path: PathBuf,
    file: File,
    /// The next ordinal of each shard when the segment was begun.
    starts: Vec<(ShardId, u64)>,
    /// See [`block::salt_of`].
    pub(crate) salt: u32,
    /// When it was begun, in milliseconds since the Unix epoch.
    pub(crate) begun_at: i64,
    /// Bytes that are durable.
    length: AtomicU64,
    /// Made when it is first asked for; kept up to date while the segment is written to.
    index: OnceLock<RwLock<Index>>,
}

impl Segment {
    /// Begins a segment. Once this returns it is durable.
    pub(crate) fn begin(
        folder: &Path,
        number: u64,
        starts: Vec<(ShardId, u64)>,
        now: i64,
        faults: &dyn Faults,
    ) -> Result<Self> {
        let path = folder.join(file_name(number));
        let failed = |error| disk_error(format!("could not begin segment \"{}\"", path.display()), error);
        let mut block = Builder::default();
        starts.iter().for_each(|(shard, next)| block.push_start(*shard, *next));
        let salt: u32 = rand::random();
        let (_, bytes) = block.finish(Kind::Starts, ShardId(0), salt.into(), now, (0, 0));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(failed)?;
        file.write_all_at(&bytes, 0).and_then(|()| file.sync_all()).map_err(failed)?;
        faults.reach(FaultPoint::LogSealed)?;
        sync_folder(folder)?;
        let length = AtomicU64::new(bytes.len() as u64);
        let index = OnceLock::from(RwLock::new(Index::default()));
        Ok(Self { number, path, file, starts, salt, begun_at: now, length, index })
    }

    /// Opens a segment that has a successor.
    pub(crate) fn open(folder: &Path, number: u64) -> Result<Self> {
        let path = folder.join(file_name(number));
        let failed = |error| disk_error(format!("could not open segment \"{}\"", path.display()), error);
        let file = File::open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let (header, payload) = read_block(&file, &path, 0, 0)?;
        let salt = block::salt_of(&header);
        if header.kind != Kind::Starts {
            return Err(corrupt(&path.display().to_string(), 0));
        }
        let starts = block::starts(&payload);
        Ok(Self {
            number,
            path,
            file,
            starts,
            salt,
            begun_at: header.arrived,
            length: AtomicU64::new(length),
            index: OnceLock::new(),
        })
    }

    /// Opens the newest segment, whose end a crash may have torn: what is torn is cut off. `None` when nothing of it
    /// was durable, not even its beginning.
    pub(crate) fn recover(folder: &Path, number: u64) -> Result<Option<Self>> {
        let path = folder.join(file_name(number));
        let failed = |error| disk_error(format!("could not recover segment \"{}\"", path.display()), error);
        let bytes = std::fs::read(&path).map_err(failed)?;
        let (blocks, length) = block::scan(&bytes, &path.display().to_string())?;
        let Some(((_, first), rest)) =
            blocks.split_first().filter(|((_, first), _)| first.kind == Kind::Starts)
        else {
            return Ok(None);
        };
        let starts = block::starts(&bytes[HEADER..HEADER + first.length as usize]);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        // What was written and not synced is read from now on, so it has to stay.
        file.set_len(length).and_then(|()| file.sync_all()).map_err(failed)?;
        let mut index = Index::default();
        rest.iter().for_each(|(offset, header)| index.push(*offset, *header));
        let index = OnceLock::from(RwLock::new(index));
        Ok(Some(Self {
            number,
            path,
            file,
            starts,
            salt: block::salt_of(first),
            begun_at: first.arrived,
            length: AtomicU64::new(length),
            index,
        }))
    }

    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// The next ordinal of a shard when the segment was begun; `None` for a shard that came later.
    pub(crate) fn start(&self, shard: ShardId) -> Option<u64> {
        self.starts.iter().find(|(id, _)| *id == shard).map(|(_, next)| *next)
    }

    /// The next ordinals after this segment.
    pub(crate) fn ends(&self) -> Result<Vec<(ShardId, u64)>> {
        let mut ends = self.starts.clone();
        for (shard, next) in self.index()?.read().unwrap_or_else(PoisonError::into_inner).ends() {
            match ends.iter_mut().find(|(id, _)| *id == shard) {
                Some((_, end)) => *end = next,
                None => ends.push((shard, next)),
            }
        }
        Ok(ends)
    }

    /// Whether there is any record in it.
    pub(crate) fn holds_records(&self) -> Result<bool> {
        Ok(self.index()?.read().unwrap_or_else(PoisonError::into_inner).ends().next().is_some())
    }

    /// Writes a group of blocks behind what is durable, and syncs them. Nothing is read of them before
    /// [`Segment::publish`].
    pub(crate) fn write(&self, bytes: &[u8], faults: &dyn Faults) -> Result<()> {
        let failed =
            |error| disk_error(format!("could not write to segment \"{}\"", self.path.display()), error);
        self.file.write_all_at(bytes, self.length()).map_err(failed)?;
        faults.reach(FaultPoint::LogWritten)?;
        self.file.sync_data().map_err(failed)
    }

    /// Makes what was written last visible.
    pub(crate) fn publish(&self, blocks: &[(u64, Header)], bytes: u64) -> Result<()> {
        let mut index = self.index()?.write().unwrap_or_else(PoisonError::into_inner);
        blocks.iter().for_each(|(offset, header)| index.push(*offset, *header));
        self.length.fetch_add(bytes, Ordering::AcqRel);
        Ok(())
    }

    /// Cuts off what was written and is not durable.
    pub(crate) fn cut(&self) -> Result<()> {
        let cut = self.file.set_len(self.length()).and_then(|()| self.file.sync_all());
        cut.map_err(|error| disk_error(format!("could not cut segment \"{}\"", self.path.display()), error))
    }

    /// The records of a shard from an ordinal on, as many as fit into `records` and `bytes`, but at least one if there is one.
    pub(crate) fn read(
        &self,
        shard: ShardId,
        from: u64,
        records: usize,
        bytes: usize,
    ) -> Result<Vec<Record>> {
        let blocks: Vec<BlockAt> = {
            let index = self.index()?.read().unwrap_or_else(PoisonError::into_inner);
            let mut size = 0;
            let fits = |block: &&BlockAt| {
                let is_first = size == 0;
                size += block.header.length as usize;
                is_first || size <= bytes * 2
            };
            index.from(shard, from).iter().take(records).take_while(fits).copied().collect()
        };
        let mut read = Vec::new();
        let mut size = 0;
        for at in blocks {
            let (header, payload) = read_block(&self.file, &self.path, at.offset, self.salt)?;
            let found = block::records(&header, &payload)
                .ok_or_else(|| corrupt(&self.path.display().to_string(), at.offset))?;
            for record in found.into_iter().filter(|record| record.ordinal >= from) {
                size += record.partition_key.len() + record.data.len();
                if read.len() >= records || (size > bytes && !read.is_empty()) {
                    return Ok(read);
                }
                read.push(record);
            }
        }
        Ok(read)
    }

    /// The ordinal behind as many blocks of a shard, from an ordinal on, as `bytes` allow: at least one if there is one. What
    /// is left of the bytes comes with it.
    pub(crate) fn reach(&self, shard: ShardId, from: u64, bytes: u64) -> Result<(u64, u64)> {
        let index = self.index()?.read().unwrap_or_else(PoisonError::into_inner);
        let (mut reached, mut left) = (from, bytes);
        for block in index.from(shard, from) {
            if reached > from && u64::from(block.header.length) > left {
                return Ok((reached, 0));
            }
            left = left.saturating_sub(u64::from(block.header.length));
            reached = block.header.first + u64::from(block.header.count);
        }
        Ok((reached, left))
    }

    /// The ordinal and the time of the first record of a shard that arrived at a time or later.
    pub(crate) fn since(&self, shard: ShardId, millis: i64) -> Result<Option<(u64, i64)>> {
        let index = self.index()?.read().unwrap_or_else(PoisonError::into_inner);
        Ok(index.since(shard, millis).map(|block| (block.header.first, block.header.arrived)))
    }

    /// The time at which the record of an ordinal arrived, or the next one in this segment.
    pub(crate) fn arrival(&self, shard: ShardId, ordinal: u64) -> Result<Option<i64>> {
        let index = self.index()?.read().unwrap_or_else(PoisonError::into_inner);
        Ok(index.from(shard, ordinal).first().map(|block| block.header.arrived))
    }

    /// Removes the file. Who reads it can go on.
    pub(crate) fn remove(&self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|error| {
            disk_error(format!("could not remove segment \"{}\"", self.path.display()), error)
        })
    }

    fn index(&self) -> Result<&RwLock<Index>> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let (mut index, mut at) = (Index::default(), 0);
        while at < self.length() {
            let header = read_header(&self.file, &self.path, at, if at == 0 { 0 } else { self.salt })?;
            if header.kind == Kind::Records {
                index.push(at, header);
            }
            at += header.size();
        }
        Ok(self.index.get_or_init(|| RwLock::new(index)))
    }
}

/// The name of a segment's file.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:020}.segment")
}

fn read_header(file: &File, path: &Path, at: u64, salt: u32) -> Result<Header> {
    let mut bytes = [0; HEADER];
    file.read_exact_at(&mut bytes, at)
        .map_err(|error| corrupt(&path.display().to_string(), at).because(error))?;
    Header::read(&bytes, salt).ok_or_else(|| corrupt(&path.display().to_string(), at))
}

fn read_block(file: &File, path: &Path, at: u64, salt: u32) -> Result<(Header, Bytes)> {
    let header = read_header(file, path, at, salt)?;
    let mut payload = vec![0; header.length as usize];
    file.read_exact_at(&mut payload, at + HEADER as u64)
        .map_err(|error| corrupt(&path.display().to_string(), at).because(error))?;
    if !header.fits(&payload) {
        return Err(corrupt(&path.display().to_string(), at));
    }
    Ok((header, Bytes::from(payload)))
}
