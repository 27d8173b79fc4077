//! Rows of a batch that wait until something is known of them: in memory, then on disk.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{RecordBatch, new_null_array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;

/// Rows that are being put aside.
pub(crate) struct Spool {
    memory: Vec<RecordBatch>,
    bytes: usize,
    budget: usize,
    folder: std::path::PathBuf,
    disk: Option<StreamWriter<BufWriter<File>>>,
    rows: usize,
}

/// Rows that were all put away; they can be read as often as wanted.
#[derive(Debug, Clone)]
pub(crate) struct Spooled {
    memory: Vec<RecordBatch>,
    /// The file has no name any more, and goes with its last reader.
    disk: Option<Arc<Mutex<File>>>,
    /// How many there are.
    pub(crate) rows: usize,
    /// Bytes on disk.
    pub(crate) spilled_bytes: u64,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Code::INPUT_OUTPUT, "could not keep rows on disk").because(error)
}

impl Spool {
    /// Makes one that holds `budget` bytes in memory and the rest in a file in `folder`.
    pub(crate) fn new(budget: usize, folder: &Path) -> Self {
        Self { memory: Vec::new(), bytes: 0, budget, folder: folder.to_path_buf(), disk: None, rows: 0 }
    }

    /// Puts rows aside.
    pub(crate) fn push(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.rows += rows.num_rows();
        if self.bytes < self.budget {
            self.bytes += rows.get_array_memory_size();
            self.memory.push(rows);
            return Ok(());
        }
        let writer = match &mut self.disk {
            Some(writer) => writer,
            None => {
                let file = tempfile::tempfile_in(&self.folder).map_err(failed)?;
                let writer = StreamWriter::try_new(BufWriter::new(file), &rows.schema()).map_err(failed)?;
                self.disk.insert(writer)
            }
        };
        writer.write(&rows).map_err(failed)
    }

    /// Ends the writing.
    pub(crate) fn finish(self) -> Result<Spooled> {
        let (mut disk, mut spilled_bytes) = (None, 0);
        if let Some(writer) = self.disk {
            let mut buffered = writer.into_inner().map_err(failed)?;
            buffered.flush().map_err(failed)?;
            let mut file = buffered.into_inner().map_err(failed)?;
            spilled_bytes = file.stream_position().map_err(failed)?;
            disk = Some(Arc::new(Mutex::new(file)));
        }
        Ok(Spooled { memory: self.memory, disk, rows: self.rows, spilled_bytes })
    }
}

impl Spooled {
    /// Hands out all rows. Blocks; only one reader at a time reads what is on disk.
    pub(crate) fn each(&self, mut take: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        for rows in &self.memory {
            take(rows.clone())?;
        }
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut file = disk.lock().unwrap_or_else(PoisonError::into_inner);
        file.rewind().map_err(failed)?;
        let reader = StreamReader::try_new(BufReader::new(&mut *file), None).map_err(failed)?;
        for rows in reader {
            take(rows.map_err(failed)?)?;
        }
        Ok(())
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }
}

/// A schema's columns by name, in the order given; those that the rows lack are null.
pub(crate) fn project(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let wrong = |error| Error::new(Code::INTERNAL, "rows that were held back do not fit").because(error);
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            match rows.column_by_name(field.name()) {
                // A column may have become wider since the rows were put aside.
                Some(found) if found.data_type() != field.data_type() => cast(found, field.data_type()),
                Some(found) => Ok(Arc::clone(found)),
                None => Ok(new_null_array(field.data_type(), rows.num_rows())),
            }
        })
        .collect::<std::result::Result<_, _>>()
        .map_err(wrong)?;
    let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(wrong)
}
