//! The files of rows that wait for their windows to close.
//!
//! A batch adds one file or some; like ones are merged, so that a window of many batches is a handful of files. A file
//! stays for as long as a staged batch names it, so that whatever a flow goes on from has its rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use catchment_core::{Code, Error, FlowName, Position, Result};
use catchment_lake::{Lake, Owner};
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;

use super::state::Run;
use crate::records::Records;

/// Files of like size that are merged.
const LIKE: usize = 8;

/// Rows of one file.
const FILE_ROWS: u64 = 1 << 20;

/// Rows of one batch of a file.
const BATCH_ROWS: usize = 8_192;

fn corrupt(file: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Code::PLAN_CORRUPT, format!("rows that wait for their windows, in {file:?}, cannot be read"))
        .because(error)
        .hint("`catchment run --full-refresh` builds the dataset anew from its sources")
}

/// Reads the rows of a file.
pub(crate) fn read(bytes: Bytes, file: &str) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
        .map_err(|error| corrupt(file, error))?;
    let file = file.to_owned();
    Ok(reader.map(move |rows| rows.map_err(|error| corrupt(&file, error))))
}

/// The bytes of a file.
pub(crate) async fn load(lake: &Lake, flow: &FlowName, run: &Run) -> Result<Bytes> {
    let path = lake.layout().held(flow).join(run.file.as_str());
    match lake.read_record(&path).await? {
        Some(bytes) => Ok(bytes.into()),
        None => Err(Error::new(
            Code::PLAN_CORRUPT,
            format!("file \"/{path}\" with rows that wait for their windows is gone"),
        )
        .hint("`catchment run --full-refresh` builds the dataset anew from its sources")),
    }
}

/// Writes the files of one batch.
pub(crate) struct RunWriter {
    owner: Arc<Owner>,
    flow: FlowName,
    position: Position,
    /// Files written so far by the batch.
    count: usize,
    schema: SchemaRef,
    open: Option<(ArrowWriter<Vec<u8>>, Run)>,
    written: Vec<Run>,
}

impl RunWriter {
    pub(crate) fn new(
        owner: Arc<Owner>,
        flow: FlowName,
        (position, count): (Position, usize),
        schema: SchemaRef,
    ) -> Self {
        Self { owner, flow, position, count, schema, open: None, written: Vec::new() }
    }

    /// Adds rows, with the first and the last end of each row's windows.
    pub(crate) async fn write(
        &mut self,
        rows: &RecordBatch,
        first: &Int64Array,
        last: &Int64Array,
    ) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let (writer, run) = match &mut self.open {
            Some(open) => open,
            None => {
                let file = format!("{}-{}.parquet", self.position, self.count + self.written.len());
                let run = Run { file, rows: 0, bytes: 0, first_end: i64::MAX, last_end: i64::MIN };
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&self.schema), Some(properties))
                    .map_err(|error| failed(&run.file, error))?;
                self.open.insert((writer, run))
            }
        };
        writer.write(rows).map_err(|error| failed(&run.file, error))?;
        run.rows += rows.num_rows() as u64;
        run.first_end = run.first_end.min(first.iter().flatten().min().unwrap_or(i64::MAX));
        run.last_end = run.last_end.max(last.iter().flatten().max().unwrap_or(i64::MIN));
        if run.rows >= FILE_ROWS {
            self.end().await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        let Some((writer, mut run)) = self.open.take() else { return Ok(()) };
        let bytes = writer.into_inner().map_err(|error| failed(&run.file, error))?;
        run.bytes = bytes.len() as u64;
        let path = self.owner.lake().layout().held(&self.flow).join(run.file.as_str());
        self.owner.write_record(&path, bytes, false).await?;
        self.written.push(run);
        Ok(())
    }

    pub(crate) async fn finish(mut self) -> Result<Vec<Run>> {
        self.end().await?;
        Ok(self.written)
    }
}

fn failed(file: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Code::INTERNAL, format!("could not write rows that wait for their windows, to {file:?}"))
        .because(error)
}

/// The files that should be merged: so many of one size class, the smallest first.
pub(crate) fn to_merge(runs: &[Run]) -> Vec<Run> {
    let mut classes: BTreeMap<u32, Vec<&Run>> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.rows < FILE_ROWS / 2) {
        classes.entry(run.rows.max(1).ilog2() / 3).or_default().push(run);
    }
    let full = classes.into_values().find(|class| class.len() >= LIKE);
    full.into_iter().flatten().cloned().collect()
}

/// Removes the files of a flow that no staged batch names.
pub(crate) async fn remove_unnamed(owner: &Owner, flow: &FlowName) -> Result<()> {
    let lake = owner.lake();
    let folder = lake.layout().held(flow);
    let files = lake.list_records(&folder).await?;
    if files.is_empty() {
        return Ok(());
    }
    let records = Records::new(lake, flow);
    let (_, staged) = records.positions().await?;
    let mut named = BTreeSet::new();
    for at in staged {
        let windows = records.staged(at).await?.windows;
        let runs =
            windows.into_iter().flat_map(|state| state.inputs.into_values()).flat_map(|input| input.runs);
        named.extend(runs.map(|run| run.file));
    }
    for file in files.iter().filter(|file| !named.contains(*file)) {
        owner.remove_record(&folder.clone().join(file.as_str())).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{LIKE, Run, to_merge};

    #[test]
    fn files_of_like_size_are_merged_so_that_few_are_left() {
        let run = |rows: u64| Run { file: rows.to_string(), rows, bytes: rows, first_end: 0, last_end: 0 };
        let (mut runs, mut moved) = (Vec::new(), 0);
        for _ in 0..2_000 {
            runs.push(run(100));
            loop {
                let merged = to_merge(&runs);
                if merged.is_empty() {
                    break;
                }
                let rows = merged.iter().map(|run| run.rows).sum();
                moved += rows;
                merged.iter().for_each(|gone| {
                    let at = runs.iter().position(|run| run == gone).unwrap();
                    runs.remove(at);
                });
                runs.push(run(rows));
            }
        }
        assert!(runs.len() < 4 * LIKE, "{} files", runs.len());
        assert_eq!(runs.iter().map(|run| run.rows).sum::<u64>(), 200_000);
        assert!(moved < 5 * 200_000, "{moved} rows were moved");
    }
}
