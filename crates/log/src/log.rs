//! The folder of streams, which one process owns.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use catchment_core::{Clock, Code, Error, Faults, Result};

use crate::disk::{disk_error, sync_folder};
use crate::segment::Segment;
use crate::state::{StreamName, StreamState};
use crate::stream::{Stream, save};

/// How streams are written and kept.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// A segment gets a successor when it has so many bytes.
    pub segment_bytes: u64,
    /// Records that are written and synced together have at most so many bytes.
    pub group_bytes: usize,
    /// Records that wait to be written have at most so many bytes in each stream.
    pub waiting_bytes: usize,
    /// A stream keeps at most about so many bytes, whatever its age.
    pub retention_bytes: Option<u64>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            group_bytes: 16 << 20,
            waiting_bytes: 64 << 20,
            retention_bytes: None,
        }
    }
}

/// The streams of a data folder.
pub struct Log {
    folder: PathBuf,
    options: LogOptions,
    clock: Arc<dyn Clock>,
    faults: Arc<dyn Faults>,
    streams: RwLock<BTreeMap<StreamName, Arc<Stream>>>,
    /// Holds the lock that keeps other processes out.
    _lock: File,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// What a stream's folder ends in. Names may be `.` and `..`, folders may not.
const FOLDER: &str = ".stream";
const DELETED: &str = ".deleted";

impl Log {
    /// Opens the streams in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// Returns [`Code::STREAM_OWNED`] when another process has them open, [`Code::STREAM_CORRUPT`] when something that was
    /// acknowledged is damaged, and errors of the disk.
    pub fn open(
        folder: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        faults: Arc<dyn Faults>,
    ) -> Result<Self> {
        let failed =
            |error| disk_error(format!("could not open the streams in \"{}\"", folder.display()), error);
        std::fs::create_dir_all(folder).map_err(failed)?;
        if let Some(parent) = folder.parent() {
            sync_folder(parent)?;
        }
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    Code::STREAM_OWNED,
                    format!("the streams in \"{}\" are open in another process", folder.display()),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let log = Self {
            folder: folder.to_path_buf(),
            options,
            clock,
            faults,
            streams: RwLock::default(),
            _lock: lock,
        };
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.ends_with(DELETED) {
                std::fs::remove_dir_all(&path).map_err(failed)?;
            } else if name.ends_with(FOLDER) {
                log.open_stream(&path)?;
            }
        }
        Ok(log)
    }

    /// The streams, by name.
    #[must_use]
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        self.streams.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A stream.
    ///
    /// # Errors
    /// Returns [`Code::STREAM_UNKNOWN`].
    pub fn stream(&self, name: &StreamName) -> Result<Arc<Stream>> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = streams.keys().map(StreamName::as_str).take(20).collect();
            let error = Error::new(Code::STREAM_UNKNOWN, format!("no stream \"{name}\""));
            if known.is_empty() { error } else { error.hint(format!("there are: {}", known.join(", "))) }
        })
    }

    /// Makes a stream. Once this returns it is durable.
    ///
    /// # Errors
    /// Returns [`Code::STREAM_EXISTS`] and errors of the disk.
    pub fn create(
        &self,
        name: &StreamName,
        shards: u32,
        settle: impl FnOnce(&mut StreamState),
    ) -> Result<Arc<Stream>> {
        // Held to the end: of two that make the same stream one is told that it is there.
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        if streams.contains_key(name) {
            return Err(Error::new(Code::STREAM_EXISTS, format!("stream \"{name}\" exists already")));
        }
        let mut state = StreamState::new(name.clone(), shards.max(1), self.clock.now_millis());
        settle(&mut state);
        let folder = self.folder.join(format!("{name}{FOLDER}"));
        let failed = |error| disk_error(format!("could not make stream \"{name}\""), error);
        // A crash may have left the beginning of one: without `stream.json` it is none.
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(failed)?;
        }
        std::fs::create_dir(&folder).map_err(failed)?;
        sync_folder(&self.folder)?;
        let segment = Segment::begin(&folder, 0, Vec::new(), self.clock.now_millis(), self.faults.as_ref())?;
        save(&folder, &state, self.faults.as_ref())?;
        let (clock, faults) = (Arc::clone(&self.clock), Arc::clone(&self.faults));
        let stream =
            Arc::new(Stream::open(folder, state, vec![Arc::new(segment)], self.options, clock, faults)?);
        streams.insert(name.clone(), Arc::clone(&stream));
        Ok(stream)
    }

    /// Deletes a stream with all its records.
    ///
    /// # Errors
    /// Returns [`Code::STREAM_UNKNOWN`] and errors of the disk.
    pub fn delete(&self, name: &StreamName) -> Result<()> {
        // Held until the folder has another name: a stream that is made meanwhile gets one of its own.
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = streams.get(name).cloned() else {
            return Err(Error::new(Code::STREAM_UNKNOWN, format!("no stream \"{name}\"")));
        };
        let failed = |error| disk_error(format!("could not delete stream \"{name}\""), error);
        let folder = self.folder.join(format!("{name}{FOLDER}"));
        let deleted = self.folder.join(format!("{name}.{:016x}{DELETED}", rand::random::<u64>()));
        std::fs::rename(&folder, &deleted).map_err(failed)?;
        sync_folder(&self.folder)?;
        streams.remove(name);
        drop(streams);
        stream.close();
        std::fs::remove_dir_all(&deleted).map_err(failed)
    }

    fn open_stream(&self, folder: &Path) -> Result<()> {
        let failed = |error| disk_error(format!("could not open \"{}\"", folder.display()), error);
        let path = folder.join("stream.json");
        if !path.exists() {
            // Its making was not finished, so nobody was told that it is there.
            return std::fs::remove_dir_all(folder).map_err(failed);
        }
        let bytes = std::fs::read(&path).map_err(failed)?;
        let state: StreamState = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(Code::STREAM_CORRUPT, format!("\"{}\" is damaged", path.display())).because(error)
        })?;
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".segment")?.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        if numbers.is_empty() {
            return Err(Error::new(
                Code::STREAM_CORRUPT,
                format!("stream \"{}\" has no segment", state.name),
            ));
        }
        let newest = numbers.pop().unwrap_or(0);
        if let Some(gap) = numbers
            .iter()
            .zip(numbers.iter().skip(1).chain([&newest]))
            .find(|(one, next)| **one + 1 != **next)
        {
            return Err(Error::new(
                Code::STREAM_CORRUPT,
                format!("segment {} of stream \"{}\" is gone", gap.0 + 1, state.name),
            ));
        }
        let mut segments = Vec::new();
        for number in numbers {
            segments.push(Arc::new(Segment::open(folder, number)?));
        }
        let recovered = if folder.join(crate::segment::file_name(newest)).exists() {
            Segment::recover(folder, newest)?
        } else {
            None
        };
        let segment = match recovered {
            Some(segment) => segment,
            // Its first block was never durable, so nothing was written behind it.
            None => {
                let starts = segments.last().map_or(Ok(Vec::new()), |last: &Arc<Segment>| last.ends())?;
                Segment::begin(folder, newest, starts, self.clock.now_millis(), self.faults.as_ref())?
            }
        };
        segments.push(Arc::new(segment));
        let name = state.name.clone();
        let (clock, faults) = (Arc::clone(&self.clock), Arc::clone(&self.faults));
        let stream = Stream::open(folder.to_path_buf(), state, segments, self.options, clock, faults)?;
        self.streams.write().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(stream));
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Streams may be held by readers; their writers end before the lock does.
        self.streams
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .for_each(|stream| stream.close());
    }
}
