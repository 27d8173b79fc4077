//! Scans files as a table: each partition decodes its share of the files on a thread of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use tokio::sync::mpsc::Sender;

use crate::files::cells::Column;
use crate::files::csv::{CsvReader, CsvRecords, record_text};
use crate::files::json::{JsonReader, Line};
use crate::files::options::FileFormat;
use crate::files::reader::{Failure, Lines, open, readable};
use crate::files::{FileInfo, parquet};
use crate::rejects::{Reject, Rejects};
use crate::source::BrokenFile;

/// Rows of a record batch.
const BATCH_ROWS: usize = 8_192;

/// The name of the hidden column with what is known of a row's file.
pub(crate) const METADATA_COLUMN: &str = "_metadata";

/// What all scans of one source share.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) project: PathBuf,
    pub(crate) format: FileFormat,
    /// The columns read from files.
    pub(crate) columns: SchemaRef,
    pub(crate) rescue: Option<String>,
    pub(crate) header: bool,
    pub(crate) delimiter: u8,
}

impl Decoder {
    /// The columns of the scan: those read from files, the rescue column, and the hidden one.
    pub(crate) fn schema(&self) -> SchemaRef {
        let mut fields: Vec<_> = self.columns.fields().iter().cloned().collect();
        fields.extend(self.rescue.iter().map(|name| Arc::new(Field::new(name, DataType::Utf8, true))));
        fields.push(Arc::new(Field::new(METADATA_COLUMN, DataType::Struct(metadata_fields()), true)));
        Arc::new(Schema::new(fields))
    }
}

fn metadata_fields() -> Fields {
    Fields::from(vec![
        Field::new("file_path", DataType::Utf8, true),
        Field::new("file_name", DataType::Utf8, true),
        Field::new("file_size", DataType::Int64, true),
        Field::new(
            "file_modification_time",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        ),
    ])
}

/// Files as a table.
#[derive(Debug)]
pub(crate) struct FileTable {
    decoder: Arc<Decoder>,
    schema: SchemaRef,
    files: Arc<Vec<FileInfo>>,
    rejects: Arc<Rejects>,
    scans: AtomicUsize,
}

impl FileTable {
    pub(crate) fn new(decoder: Arc<Decoder>, files: Vec<FileInfo>, rejects: Arc<Rejects>) -> Self {
        let schema = decoder.schema();
        Self { decoder, schema, files: Arc::new(files), rejects, scans: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let scan = self.scans.fetch_add(1, Ordering::Relaxed);
        let partitions = session.config().target_partitions().clamp(1, self.files.len().max(1));
        let next = Arc::new(AtomicUsize::new(0));
        let parts: Vec<Arc<dyn PartitionStream>> = (0..partitions)
            .map(|_| {
                Arc::new(FilePartition {
                    decoder: Arc::clone(&self.decoder),
                    schema: Arc::clone(&self.schema),
                    files: Arc::clone(&self.files),
                    next: Arc::clone(&next),
                    rejects: Arc::clone(&self.rejects),
                    scan,
                }) as Arc<dyn PartitionStream>
            })
            .collect();
        StreamingTable::try_new(Arc::clone(&self.schema), parts)?
            .scan(session, projection, filters, limit)
            .await
    }
}

/// One of the streams of a scan. The streams take files from one queue, so a large file delays none.
#[derive(Debug)]
struct FilePartition {
    decoder: Arc<Decoder>,
    schema: SchemaRef,
    files: Arc<Vec<FileInfo>>,
    next: Arc<AtomicUsize>,
    rejects: Arc<Rejects>,
    scan: usize,
}

impl PartitionStream for FilePartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), 2);
        let sender = builder.tx();
        let (decoder, schema, files) =
            (Arc::clone(&self.decoder), Arc::clone(&self.schema), Arc::clone(&self.files));
        let (next, rejects, scan) = (Arc::clone(&self.next), Arc::clone(&self.rejects), self.scan);
        builder.spawn_blocking(move || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let reports = rejects.claim(&file.path, scan);
                let mut job = FileJob {
                    decoder: &decoder,
                    schema: &schema,
                    file,
                    rejects: reports.then_some(rejects.as_ref()),
                    sender: &sender,
                    rejected: Vec::new(),
                };
                match job.run() {
                    Ok(Flow::Go) => {}
                    Ok(Flow::Stop) => return Ok(()),
                    Err(Failure::Ours(error)) => return Err(DataFusionError::External(Box::new(error))),
                    Err(failure) => rejects.report_broken(broken(file, failure)),
                }
            }
            Ok(())
        });
        builder.build()
    }
}

fn broken(file: &FileInfo, failure: Failure) -> BrokenFile {
    let (reason, vanished) = match failure {
        Failure::Vanished => ("the file vanished before it was read".to_owned(), true),
        Failure::Broken(reason) => (reason, false),
        Failure::Ours(error) => (error.one_line(), false),
    };
    BrokenFile { file: file.clone(), reason, vanished }
}

/// Whether somebody still wants rows.
#[derive(PartialEq)]
enum Flow {
    Go,
    Stop,
}

struct FileJob<'a> {
    decoder: &'a Decoder,
    schema: &'a SchemaRef,
    file: &'a FileInfo,
    rejects: Option<&'a Rejects>,
    sender: &'a Sender<EngineResult<RecordBatch>>,
    rejected: Vec<Reject>,
}

impl FileJob<'_> {
    fn run(&mut self) -> Result<Flow, Failure> {
        let path = self.file.location(&self.decoder.project);
        let flow = match self.decoder.format {
            FileFormat::Json => self.json(Lines::new(open(&path)?)),
            FileFormat::Csv => {
                self.csv(CsvRecords::new(open(&path)?, self.decoder.delimiter, self.decoder.header)?)
            }
            FileFormat::Parquet => self.parquet(parquet::open(&path, BATCH_ROWS)?),
        }?;
        self.flush_rejects()?;
        Ok(flow)
    }

    fn json(&mut self, mut lines: Lines) -> Result<Flow, Failure> {
        let reader = JsonReader::new(&self.decoder.columns, self.decoder.rescue.is_some());
        let mut rows = Rows::new(self.decoder)?;
        while let Some((offset, line)) = lines.next_line()? {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match reader.read(line) {
                Line::Row(values, rescued) => rows.push(values, rescued),
                Line::Malformed(reason) => self.reject(offset, reason, readable(line))?,
            }
            if rows.count == BATCH_ROWS && self.send(&mut rows)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        self.send(&mut rows)
    }

    fn csv(&mut self, mut records: CsvRecords) -> Result<Flow, Failure> {
        let header = records.header.clone();
        if self.decoder.header && header.is_none() {
            return Ok(Flow::Go);
        }
        let reader = CsvReader::new(&self.decoder.columns, header.as_deref(), self.decoder.rescue.is_some())?;
        let mut rows = Rows::new(self.decoder)?;
        while let Some((offset, record)) = records.next_record()? {
            match reader.read(record) {
                Line::Row(values, rescued) => rows.push(values, rescued),
                Line::Malformed(reason) => {
                    let text = record_text(record, self.decoder.delimiter)?;
                    self.reject(offset, reason, text)?;
                }
            }
            if rows.count == BATCH_ROWS && self.send(&mut rows)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        self.send(&mut rows)
    }

    fn parquet(
        &mut self,
        (_, reader): (SchemaRef, ::parquet::arrow::arrow_reader::ParquetRecordBatchReader),
    ) -> Result<Flow, Failure> {
        for rows in reader {
            let rows = rows.map_err(|error| Failure::Broken(error.to_string()))?;
            let (columns, rescued) =
                parquet::fit_rows(&rows, &self.decoder.columns, self.decoder.rescue.is_some())?;
            if self.send_columns(columns, rescued, rows.num_rows())? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Go)
    }

    fn reject(&mut self, offset: u64, reason: String, record: String) -> Result<()> {
        if self.rejects.is_some() {
            let file = self.file.path.clone();
            self.rejected.push(Reject { file, offset: Some(offset), reason, record: Some(record) });
            if self.rejected.len() == 1_024 {
                self.flush_rejects()?;
            }
        }
        Ok(())
    }

    fn flush_rejects(&mut self) -> Result<()> {
        match self.rejects {
            Some(rejects) => rejects.report(&std::mem::take(&mut self.rejected)),
            None => Ok(()),
        }
    }

    fn send(&self, rows: &mut Rows) -> Result<Flow, Failure> {
        if rows.count == 0 {
            return Ok(Flow::Go);
        }
        let (columns, rescued, count) = rows.take()?;
        self.send_columns(columns, rescued, count)
    }

    fn send_columns(
        &self,
        mut columns: Vec<ArrayRef>,
        rescued: Option<StringArray>,
        rows: usize,
    ) -> Result<Flow, Failure> {
        if self.decoder.rescue.is_some() {
            columns.push(Arc::new(rescued.unwrap_or_else(|| StringArray::new_null(rows))));
        }
        columns.push(Arc::new(self.metadata(rows)?));
        if let Some(rejects) = self.rejects {
            rejects.count(rows);
        }
        let batch = RecordBatch::try_new(Arc::clone(self.schema), columns).map_err(|error| {
            Error::new(Code::INTERNAL, "decoded columns do not fit their schema").because(error)
        })?;
        Ok(if self.sender.blocking_send(Ok(batch)).is_ok() { Flow::Go } else { Flow::Stop })
    }

    fn metadata(&self, rows: usize) -> Result<StructArray> {
        let name = self.file.path.rsplit('/').next().unwrap_or(&self.file.path);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![self.file.path.as_str(); rows])),
            Arc::new(StringArray::from(vec![name; rows])),
            Arc::new(Int64Array::from(vec![i64::try_from(self.file.size).unwrap_or(i64::MAX); rows])),
            Arc::new(TimestampMicrosecondArray::from(vec![self.file.modified; rows]).with_timezone("UTC")),
        ];
        StructArray::try_new(metadata_fields(), columns, None)
            .map_err(|error| Error::new(Code::INTERNAL, "could not describe a file").because(error))
    }
}

/// Rows being collected.
struct Rows {
    columns: Vec<Column>,
    rescued: Vec<Option<String>>,
    count: usize,
}

impl Rows {
    fn new(decoder: &Decoder) -> Result<Self> {
        let columns = decoder
            .columns
            .fields()
            .iter()
            .map(|field| Column::new(field.data_type()))
            .collect::<Result<_>>()?;
        Ok(Self { columns, rescued: Vec::new(), count: 0 })
    }

    fn push(&mut self, values: Vec<crate::files::cells::Fitted<'_>>, rescued: Option<String>) {
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push(value);
        }
        self.rescued.push(rescued);
        self.count += 1;
    }

    fn take(&mut self) -> Result<(Vec<ArrayRef>, Option<StringArray>, usize)> {
        let columns = self.columns.iter_mut().map(Column::finish).collect::<Result<_>>()?;
        let rescued = std::mem::take(&mut self.rescued);
        Ok((columns, Some(StringArray::from(rescued)), std::mem::take(&mut self.count)))
    }
}
