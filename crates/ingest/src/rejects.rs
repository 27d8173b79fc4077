//! Records and files that could not be decoded, on their way to quarantine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tokio::sync::mpsc;

use crate::source::BrokenFile;

/// One record that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The source, as people know it.
    pub source: String,
    /// The file.
    pub file: String,
    /// Where the record begins in the decompressed file, in bytes; `None` for a file as a whole.
    pub offset: Option<u64>,
    /// Which row of the file it is, for formats that have rows.
    pub row: Option<u64>,
    /// What is wrong with it.
    pub reason: String,
    /// The record as it stands there; bytes that are no text are written `\xNN`.
    pub record: Option<String>,
    /// The names of its columns, for a record of a CSV file whose first line has them.
    pub header: Option<String>,
}

/// The columns in which rejects travel: `source`, `file_path`, `byte_offset`, `row_number`, `reason`, `record`, `header`.
#[must_use]
pub fn reject_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("source", DataType::Utf8, true),
        Field::new("file_path", DataType::Utf8, true),
        Field::new("byte_offset", DataType::Int64, true),
        Field::new("row_number", DataType::Int64, true),
        Field::new("reason", DataType::Utf8, true),
        Field::new("record", DataType::Utf8, true),
        Field::new("header", DataType::Utf8, true),
    ]))
}

/// Rows as [`reject_schema`] has them.
///
/// # Errors
/// Returns [`Code::INTERNAL`] when they cannot be collected.
pub fn reject_batch(rejects: &[Reject]) -> Result<RecordBatch> {
    let number = |value: Option<u64>| value.and_then(|at| i64::try_from(at).ok());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rejects.iter().map(|reject| Some(reject.source.as_str())).collect::<StringArray>()),
        Arc::new(rejects.iter().map(|reject| Some(reject.file.as_str())).collect::<StringArray>()),
        Arc::new(rejects.iter().map(|reject| number(reject.offset)).collect::<Int64Array>()),
        Arc::new(rejects.iter().map(|reject| number(reject.row)).collect::<Int64Array>()),
        Arc::new(rejects.iter().map(|reject| Some(reject.reason.as_str())).collect::<StringArray>()),
        Arc::new(rejects.iter().map(|reject| reject.record.as_deref()).collect::<StringArray>()),
        Arc::new(rejects.iter().map(|reject| reject.header.as_deref()).collect::<StringArray>()),
    ];
    RecordBatch::try_new(reject_schema(), columns)
        .map_err(|error| Error::new(Code::INTERNAL, "could not collect rejected records").because(error))
}

/// Where decoders of one batch leave what they could not decode.
///
/// Rejected records travel through a bounded channel, so that a file of nothing but bad records does not
/// fill the memory. A query may scan a source more than once; the first scan of a file reports for all.
#[derive(Debug)]
pub struct Rejects {
    sender: mpsc::Sender<RecordBatch>,
    claimed: Mutex<BTreeMap<String, usize>>,
    broken: Mutex<Vec<BrokenFile>>,
    rows: Mutex<u64>,
    /// Records that were rejected where nothing may block.
    kept: Mutex<Vec<Reject>>,
    scans: AtomicUsize,
}

/// The receiving end of [`Rejects`].
pub type RejectSink = mpsc::Receiver<RecordBatch>;

impl Rejects {
    /// Makes both ends.
    #[must_use]
    pub fn channel() -> (Arc<Self>, RejectSink) {
        let (sender, receiver) = mpsc::channel(8);
        let rejects = Self {
            sender,
            claimed: Mutex::default(),
            broken: Mutex::default(),
            rows: Mutex::default(),
            kept: Mutex::default(),
            scans: AtomicUsize::new(0),
        };
        (Arc::new(rejects), receiver)
    }

    /// The number of the next scan of any source.
    pub(crate) fn next_scan(&self) -> usize {
        self.scans.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether `scan` is the one that reports for `file`.
    pub(crate) fn claim(&self, file: &str, scan: usize) -> bool {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        *claimed.entry(file.to_owned()).or_insert(scan) == scan
    }

    /// Reports records; blocks while the channel is full.
    pub(crate) fn report(&self, rejects: &[Reject]) -> Result<()> {
        if rejects.is_empty() {
            return Ok(());
        }
        self.sender
            .blocking_send(reject_batch(rejects)?)
            .map_err(|error| Error::new(Code::INTERNAL, "nobody takes the rejected records").because(error))
    }

    /// Keeps a bounded number of records until [`Rejects::take_kept`].
    pub(crate) fn keep(&self, rejects: Vec<Reject>) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).extend(rejects);
    }

    /// Records that were kept, as [`reject_schema`] has them; `None` when there are none.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when they cannot be collected.
    pub fn take_kept(&self) -> Result<Option<RecordBatch>> {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        if kept.is_empty() { Ok(None) } else { reject_batch(&kept).map(Some) }
    }

    /// Reports a file that is broken as a whole.
    pub(crate) fn report_broken(&self, broken: BrokenFile) {
        let mut files = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if files.iter().all(|known| known.file.path != broken.file.path) {
            files.push(broken);
        }
    }

    /// Counts rows that a source handed out.
    pub(crate) fn count(&self, rows: usize) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) += rows as u64;
    }

    /// Rows handed out so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The broken files found so far.
    #[must_use]
    pub fn broken(&self) -> Vec<BrokenFile> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
