//! A set of key hashes in bounded memory: what does not fit goes to disk, with a filter left in its place.
//!
//! The set is split by hash. When it grows past its budget, the largest part is written out and
//! remembered by a Bloom filter. A key that no filter knows is new, at once. A key that one may know is
//! neither new nor seen until the disk has been asked; the caller keeps such rows for
//! [`KeySet::find_spilled`], which reads what was written once for all of them.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use catchment_core::{Code, Error, Result};

use crate::key_filter::KeyFilter;

/// Parts that are written out one by one.
const PARTS: usize = 64;

/// The share of the budget for filters: an eighth of a key's bytes in the set.
const FILTER_SHARE: usize = 4;

/// Bytes that a key takes in the set: its hash and a byte of the table's own.
const KEY_BYTES: usize = size_of::<u128>() + 1;

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was not in the set, and is now.
    New,
    /// It is in the set.
    Before,
    /// It may be among those on disk. The set is as it was.
    Perhaps,
}

/// A set of key hashes.
#[derive(Debug)]
pub struct KeySet {
    folder: PathBuf,
    budget: usize,
    parts: Vec<Part>,
    spilled_bytes: u64,
}

#[derive(Debug, Default)]
struct Part {
    keys: HashSet<u128, BuildHasherDefault<AsItIs>>,
    spilled: Option<Spilled>,
}

#[derive(Debug)]
struct Spilled {
    filter: KeyFilter,
    file: File,
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // The table takes its place from the low bits and its marks from the high ones.
        if let Some(low) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*low);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

impl KeySet {
    /// Makes an empty set that holds about `budget` bytes in memory and the rest in `folder`.
    #[must_use]
    pub fn new(folder: PathBuf, budget: usize) -> Self {
        let parts = (0..PARTS).map(|_| Part::default()).collect();
        Self { folder, budget, parts, spilled_bytes: 0 }
    }

    /// Bytes written to disk so far.
    #[must_use]
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }

    /// Adds a key, unless it is there or may be.
    ///
    /// # Errors
    /// Returns the machine's errors of writing to disk.
    pub fn add(&mut self, key: u128) -> Result<Seen> {
        let part = &mut self.parts[part_of(key)];
        if part.keys.contains(&key) {
            return Ok(Seen::Before);
        }
        if part.spilled.as_ref().is_some_and(|spilled| spilled.filter.may_hold(key)) {
            return Ok(Seen::Perhaps);
        }
        self.put(key)?;
        Ok(Seen::New)
    }

    /// Adds a key that is known not to be in the set.
    ///
    /// # Errors
    /// As [`KeySet::add`].
    pub fn put(&mut self, key: u128) -> Result<()> {
        let part = &mut self.parts[part_of(key)];
        let grows = part.keys.len() == part.keys.capacity();
        part.keys.insert(key);
        if grows { self.keep_budget() } else { Ok(()) }
    }

    /// Whether the key is in the part that is in memory.
    #[must_use]
    pub fn holds_in_memory(&self, key: u128) -> bool {
        self.parts[part_of(key)].keys.contains(&key)
    }

    /// Calls `found` for every key on disk that lies in the same part as one of `wanted`.
    ///
    /// # Errors
    /// Returns the machine's errors of reading.
    pub fn find_spilled(
        &mut self,
        wanted: impl Iterator<Item = u128>,
        mut found: impl FnMut(u128),
    ) -> Result<()> {
        let mut parts = [false; PARTS];
        for key in wanted {
            parts[part_of(key)] = true;
        }
        let failed = |error| io_error("could not read keys back", &error);
        for (part, _) in self.parts.iter_mut().zip(parts).filter(|(_, wanted)| *wanted) {
            let Some(spilled) = &mut part.spilled else { continue };
            spilled.file.seek(SeekFrom::Start(0)).map_err(failed)?;
            let mut keys = BufReader::with_capacity(1 << 16, &mut spilled.file);
            let mut key = [0; 16];
            loop {
                match keys.read_exact(&mut key) {
                    Ok(()) => found(u128::from_le_bytes(key)),
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(())
    }

    /// Bytes in memory: the tables, which double as they grow, and the filters.
    fn memory(&self) -> usize {
        let part = |part: &Part| {
            let filter = part.spilled.as_ref().map_or(0, |spilled| spilled.filter.bytes());
            // A table of a given capacity has an eighth more places.
            part.keys.capacity() / 7 * 8 * KEY_BYTES + filter
        };
        self.parts.iter().map(part).sum()
    }

    fn keep_budget(&mut self) -> Result<()> {
        while self.memory() > self.budget {
            let largest = (0..PARTS).max_by_key(|part| self.parts[*part].keys.len()).unwrap_or(0);
            if self.parts[largest].keys.is_empty() {
                // Nothing is left but filters.
                return Ok(());
            }
            self.spill(largest)?;
        }
        Ok(())
    }

    fn spill(&mut self, part: usize) -> Result<()> {
        let failed = |error| io_error("could not write keys to disk", &error);
        let part = &mut self.parts[part];
        let spilled = match &mut part.spilled {
            Some(spilled) => spilled,
            none => none.insert(Spilled {
                filter: KeyFilter::new(self.budget / FILTER_SHARE / PARTS),
                file: tempfile::tempfile_in(&self.folder).map_err(failed)?,
            }),
        };
        spilled.file.seek(SeekFrom::End(0)).map_err(failed)?;
        let mut file = BufWriter::with_capacity(1 << 16, &mut spilled.file);
        for key in std::mem::take(&mut part.keys) {
            spilled.filter.add(key);
            file.write_all(&key.to_le_bytes()).map_err(failed)?;
            self.spilled_bytes += 16;
        }
        file.flush().map_err(failed)
    }
}

fn part_of(key: u128) -> usize {
    (key >> 122) as usize
}

fn io_error(attempt: &str, error: &std::io::Error) -> Error {
    let code = if error.kind() == ErrorKind::StorageFull { Code::DISK_FULL } else { Code::INPUT_OUTPUT };
    Error::new(code, attempt).because(error.to_string())
}
