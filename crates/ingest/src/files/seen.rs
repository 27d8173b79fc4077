//! The files a flow has taken, as a compact set and as sorted runs for disk.

use std::collections::HashMap;
use std::sync::Arc;

use catchment_core::{Code, Error, Position, Result};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use datafusion::arrow::datatypes::{Int64Type, UInt64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::files::FileInfo;

/// What was seen of a file: enough to tell whether it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    size: u64,
    etag: u64,
    /// The file could not be read: when it changes, it is tried again.
    broken: bool,
    /// The file was there before the flow, and is never read.
    passed_over: bool,
    /// When it was taken, in microseconds since the Unix epoch, where that is known.
    taken_at: Option<i64>,
}

/// The files a flow has taken, by a hash of their path: 64 bytes a file, whatever its name.
///
/// Two paths with the same 128-bit hash would be taken for one; among a million files the chance
/// of that is below 10^-26.
#[derive(Debug, Clone, Default)]
pub struct SeenFiles {
    marks: HashMap<u128, Mark>,
    /// Whether there are files of a batch that is not published.
    unpublished: bool,
}

/// Whether a file has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    No,
    Unchanged,
    Changed,
}

impl SeenFiles {
    /// Adds files of a batch that is not published.
    pub fn extend<'a>(&mut self, files: impl IntoIterator<Item = &'a FileInfo>) {
        self.unpublished = true;
        self.marks.extend(files.into_iter().map(|file| (hash(&file.path), mark(file))));
    }

    /// Adds a file that could not be read.
    pub fn insert_broken(&mut self, file: &FileInfo) {
        self.marks.insert(hash(&file.path), Mark { broken: true, ..mark(file) });
    }

    /// Adds a file that is never read.
    pub fn insert_passed_over(&mut self, file: &FileInfo) {
        self.marks.insert(hash(&file.path), Mark { passed_over: true, ..mark(file) });
    }

    /// Forgets a file, so that it is taken again.
    pub fn forget(&mut self, path: &str) {
        self.marks.remove(&hash(path));
    }

    /// How many files there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Whether all files are those of published batches.
    pub(crate) fn is_published(&self) -> bool {
        !self.unpublished
    }

    /// Whether there may be something new at a path when files that change are not read again.
    pub(crate) fn may_be_new(&self, path: &str) -> bool {
        self.marks.get(&hash(path)).is_none_or(|known| known.broken)
    }

    /// When a file was taken that was read whole and is as it was then, in microseconds since the Unix epoch.
    pub(crate) fn read_at(&self, file: &FileInfo) -> Option<i64> {
        let known = self.marks.get(&hash(&file.path))?;
        known.taken_at.filter(|_| !known.broken && !known.passed_over && known.is_of(file))
    }

    pub(crate) fn look(&self, file: &FileInfo) -> Seen {
        match self.marks.get(&hash(&file.path)) {
            None => Seen::No,
            Some(known) if known.passed_over => Seen::Unchanged,
            Some(known) if known.is_of(file) => Seen::Unchanged,
            Some(known) if known.broken => Seen::No,
            Some(_) => Seen::Changed,
        }
    }
}

impl Mark {
    fn is_of(&self, file: &FileInfo) -> bool {
        let now = mark(file);
        (self.size, self.etag) == (now.size, now.etag)
    }
}

fn hash(text: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(text.as_bytes())
}

fn mark(file: &FileInfo) -> Mark {
    Mark {
        size: file.size,
        etag: xxhash_rust::xxh3::xxh3_64(file.etag.as_bytes()),
        broken: false,
        passed_over: false,
        taken_at: None,
    }
}

/// Files with the batch that took them, sorted by path: what a bookmark file on disk holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenRun {
    /// The files.
    pub files: Vec<SeenFile>,
}

/// A file that a batch took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// The file as it was then.
    pub file: FileInfo,
    /// The batch.
    pub taken_by: Position,
    /// Why it could not be read, for a broken file.
    pub broken: Option<String>,
    /// Whether it was there before the flow, and is never read.
    pub passed_over: bool,
    /// When the batch was planned, in microseconds since the Unix epoch; older runs do not tell.
    pub taken_at: Option<i64>,
}

impl SeenRun {
    /// Adds the files to a set.
    pub fn add_to(&self, seen: &mut SeenFiles) {
        for file in &self.files {
            match file.broken {
                _ if file.passed_over => seen.insert_passed_over(&file.file),
                Some(_) => seen.insert_broken(&file.file),
                None => {
                    let taken_at = file.taken_at;
                    seen.marks.insert(hash(&file.file.path), Mark { taken_at, ..mark(&file.file) });
                }
            }
        }
    }

    /// Joins runs. A file that was taken by several batches stands there for each, the first one first, since
    /// the later ones may be undone.
    #[must_use]
    pub fn merge(runs: impl IntoIterator<Item = SeenRun>) -> Self {
        let mut files: Vec<_> = runs.into_iter().flat_map(|run| run.files).collect();
        files.sort_by(|a, b| a.file.path.cmp(&b.file.path).then(a.taken_by.cmp(&b.taken_by)));
        files.dedup_by(|next, first| next.file.path == first.file.path && next.taken_by == first.taken_by);
        Self { files }
    }

    /// Each file once, as the last batch took it.
    #[must_use]
    pub fn newest(mut self) -> Self {
        // The list is in order, so the last of equal paths is kept when it is looked at from the end.
        self.files.reverse();
        self.files.dedup_by(|next, first| next.file.path == first.file.path);
        self.files.reverse();
        self
    }

    /// The run as a Parquet file.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when it cannot be encoded.
    pub fn to_parquet(&self) -> Result<Vec<u8>> {
        let failed =
            |error: String| Error::new(Code::INTERNAL, "could not write file bookmarks").because(error);
        let infos = || self.files.iter().map(|seen| &seen.file);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("path", Arc::new(StringArray::from_iter_values(infos().map(|file| &file.path)))),
            ("size", Arc::new(UInt64Array::from_iter_values(infos().map(|file| file.size)))),
            ("modified", Arc::new(Int64Array::from_iter_values(infos().map(|file| file.modified)))),
            ("etag", Arc::new(StringArray::from_iter_values(infos().map(|file| &file.etag)))),
            (
                "taken_by",
                Arc::new(Int64Array::from_iter_values(
                    self.files.iter().map(|seen| seen.taken_by.to_version()),
                )),
            ),
            (
                "broken",
                Arc::new(self.files.iter().map(|seen| seen.broken.as_deref()).collect::<StringArray>()),
            ),
            (
                "passed_over",
                Arc::new(self.files.iter().map(|seen| Some(seen.passed_over)).collect::<BooleanArray>()),
            ),
        ];
        let taken_at: ArrayRef =
            Arc::new(self.files.iter().map(|seen| seen.taken_at).collect::<Int64Array>());
        let columns = columns.into_iter().chain([("taken_at", taken_at)]);
        let rows = RecordBatch::try_from_iter(columns).map_err(|error| failed(error.to_string()))?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))
            .map_err(|error| failed(error.to_string()))?;
        writer.write(&rows).and_then(|()| writer.into_inner()).map_err(|error| failed(error.to_string()))
    }

    /// Reads a run.
    ///
    /// # Errors
    /// Returns [`Code::PLAN_CORRUPT`] when the bytes are no run.
    pub fn from_parquet(bytes: Vec<u8>) -> Result<Self> {
        let failed =
            |error: String| Error::new(Code::PLAN_CORRUPT, "file bookmarks are corrupt").because(error);
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes))
            .and_then(|builder| builder.build())
            .map_err(|error| failed(error.to_string()))?;
        let mut files = Vec::new();
        for rows in reader {
            let rows = rows.map_err(|error| failed(error.to_string()))?;
            let column =
                |name: &str| rows.column_by_name(name).ok_or_else(|| failed(format!("no column {name:?}")));
            let (paths, etags) = (column("path")?.as_string::<i32>(), column("etag")?.as_string::<i32>());
            let sizes = column("size")?.as_primitive::<UInt64Type>();
            let modified = column("modified")?.as_primitive::<Int64Type>();
            let taken = column("taken_by")?.as_primitive::<Int64Type>();
            let broken = column("broken")?.as_string::<i32>();
            // Older runs do not have it.
            let passed_over = rows.column_by_name("passed_over").map(|column| column.as_boolean());
            let times = rows.column_by_name("taken_at").map(|column| column.as_primitive::<Int64Type>());
            for row in 0..rows.num_rows() {
                let file = FileInfo {
                    path: paths.value(row).to_owned(),
                    size: sizes.value(row),
                    modified: modified.value(row),
                    etag: etags.value(row).to_owned(),
                };
                let at = Position::from_version(taken.value(row))
                    .ok_or_else(|| failed("a bad position".to_owned()))?;
                let broken = broken.is_valid(row).then(|| broken.value(row).to_owned());
                let passed_over = passed_over.is_some_and(|passed| passed.value(row));
                let taken_at = times.filter(|times| times.is_valid(row)).map(|times| times.value(row));
                files.push(SeenFile { file, taken_by: at, broken, passed_over, taken_at });
            }
        }
        Ok(Self { files })
    }
}
