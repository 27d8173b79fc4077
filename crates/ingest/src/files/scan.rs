//! Scans files as a table: the streams of a scan decode units of the files side by side.

use std::sync::Arc;

use async_trait::async_trait;
use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use tokio::sync::mpsc::Sender;

use crate::address::{ADDRESS_COLUMN, Address, address_field, consecutive};
use crate::files::cells::{Column, Fitted};
use crate::files::csv::{CsvReader, header_text, record_text};
use crate::files::json::{JsonReader, Line, json_records};
use crate::files::options::FileFormat;
use crate::files::reader::{Failure, readable};
use crate::files::stores::FileStores;
use crate::files::units::{Body, Cut, Unit, UnitQueue, lines};
use crate::files::{FileInfo, avro, parquet, path_columns};
use crate::rejects::{Reject, Rejects};
use crate::source::BrokenFile;

/// Rows of a record batch.
const BATCH_ROWS: usize = 8_192;

/// The name of the hidden column with what is known of a row's file.
pub(crate) const METADATA_COLUMN: &str = "_metadata";

/// Whether a name is one of the hidden columns': a file's field of that name has no column.
pub(crate) fn is_reserved(name: &str) -> bool {
    matches!(name, METADATA_COLUMN | ADDRESS_COLUMN)
}

/// What all scans of one source share.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The path or pattern, as people know the source.
    pub(crate) name: String,
    pub(crate) stores: Arc<FileStores>,
    pub(crate) cut: Cut,
    /// The columns read from files.
    pub(crate) columns: SchemaRef,
    /// The columns read from their paths.
    pub(crate) path_columns: SchemaRef,
    pub(crate) rescue: Option<String>,
    /// Whether fields that have no column let the flow fail.
    pub(crate) fails_on_new: bool,
}

impl Decoder {
    /// The columns of files and paths.
    pub(crate) fn known(&self) -> Vec<Arc<Field>> {
        self.columns.fields().iter().chain(self.path_columns.fields()).cloned().collect()
    }

    /// The columns of the scan: those of files and paths, the rescue column, and the hidden one.
    pub(crate) fn schema(&self) -> SchemaRef {
        let mut fields = self.known();
        fields.extend(self.rescue.iter().map(|name| Arc::new(Field::new(name, DataType::Utf8, true))));
        fields.push(Arc::new(Field::new(METADATA_COLUMN, DataType::Struct(metadata_fields()), true)));
        Arc::new(Schema::new(fields))
    }
}

pub(crate) fn metadata_fields() -> Fields {
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
    first_piece: Option<u32>,
}

impl FileTable {
    /// Makes a table of files. With `first_piece` its rows carry their addresses, the files being
    /// pieces counted from there.
    pub(crate) fn new(
        decoder: Arc<Decoder>,
        files: Vec<FileInfo>,
        rejects: Arc<Rejects>,
        first_piece: Option<u32>,
    ) -> Self {
        let mut schema = decoder.schema();
        if first_piece.is_some() {
            let fields: Vec<_> = schema.fields().iter().cloned().chain([address_field()]).collect();
            schema = Arc::new(Schema::new(fields));
        }
        Self { decoder, schema, files: Arc::new(files), rejects, first_piece }
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
        let schema = match projection {
            Some(projection) => Arc::new(self.schema.project(projection)?),
            None => Arc::clone(&self.schema),
        };
        let fetch = Box::new(self.decoder.stores.fetcher(&self.files));
        let scan = Arc::new(Scan {
            decoder: Arc::clone(&self.decoder),
            wanted: Wanted::new(&self.decoder, &schema),
            schema: Arc::clone(&schema),
            files: Arc::clone(&self.files),
            units: UnitQueue::new(self.decoder.cut.clone(), self.files.len(), fetch),
            rejects: Arc::clone(&self.rejects),
            first_piece: self.first_piece.unwrap_or(0),
            number: self.rejects.next_scan(),
        });
        let partitions = if self.files.is_empty() { 1 } else { session.config().target_partitions().max(1) };
        let parts = (0..partitions)
            .map(|_| Arc::new(FilePartition { scan: Arc::clone(&scan) }) as Arc<dyn PartitionStream>)
            .collect();
        StreamingTable::try_new(schema, parts)?.scan(session, None, filters, limit).await
    }
}

/// One scan of a table, shared by its streams.
#[derive(Debug)]
struct Scan {
    decoder: Arc<Decoder>,
    schema: SchemaRef,
    wanted: Wanted,
    files: Arc<Vec<FileInfo>>,
    units: UnitQueue,
    rejects: Arc<Rejects>,
    first_piece: u32,
    number: usize,
}

/// The columns of a scan that somebody reads.
#[derive(Debug)]
struct Wanted {
    /// For each column of the scan, where it comes from.
    columns: Vec<Origin>,
    /// For each column of the decoder, whether it is read.
    decoded: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Origin {
    Decoded(usize),
    Path(usize),
    Rescued,
    Metadata,
    Address,
}

impl Wanted {
    fn new(decoder: &Decoder, schema: &Schema) -> Self {
        let mut decoded = vec![false; decoder.columns.fields().len()];
        let columns = schema
            .fields()
            .iter()
            .map(|field| match decoder.columns.index_of(field.name()) {
                Ok(index) => {
                    decoded[index] = true;
                    Origin::Decoded(index)
                }
                Err(_) if decoder.path_columns.index_of(field.name()).is_ok() => {
                    Origin::Path(decoder.path_columns.index_of(field.name()).unwrap_or_default())
                }
                Err(_) if decoder.rescue.as_ref() == Some(field.name()) => Origin::Rescued,
                Err(_) if field.name() == METADATA_COLUMN => Origin::Metadata,
                Err(_) => Origin::Address,
            })
            .collect();
        Self { columns, decoded }
    }

    fn has(&self, origin: Origin) -> bool {
        self.columns.contains(&origin)
    }
}

/// One of the streams of a scan.
#[derive(Debug)]
struct FilePartition {
    scan: Arc<Scan>,
}

impl PartitionStream for FilePartition {
    fn schema(&self) -> &SchemaRef {
        &self.scan.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.scan.schema), 2);
        let sender = builder.tx();
        let scan = Arc::clone(&self.scan);
        builder.spawn_blocking(move || {
            loop {
                let done = match scan.units.next() {
                    Ok(None) => return Ok(()),
                    Ok(Some(unit)) => {
                        let file = unit.file;
                        UnitJob::new(&scan, file, &sender).run(unit).map_err(|failure| (file, failure))
                    }
                    Err(failed) => Err(failed),
                };
                match done {
                    Ok(Flow::Go) => {}
                    Ok(Flow::Stop) => return Ok(()),
                    Err((_, Failure::Ours(error))) => return Err(DataFusionError::External(Box::new(error))),
                    Err((file, failure)) => scan.rejects.report_broken(broken(&scan.files[file], failure)),
                }
            }
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

struct UnitJob<'a> {
    scan: &'a Scan,
    file: &'a FileInfo,
    piece: u32,
    reports: bool,
    sender: &'a Sender<EngineResult<RecordBatch>>,
    rejected: Vec<Reject>,
}

impl<'a> UnitJob<'a> {
    fn new(scan: &'a Scan, file: usize, sender: &'a Sender<EngineResult<RecordBatch>>) -> Self {
        let piece = scan.first_piece.saturating_add(u32::try_from(file).unwrap_or(u32::MAX));
        let file = &scan.files[file];
        let reports = scan.rejects.claim(&file.path, scan.number);
        Self { scan, file, piece, reports, sender, rejected: Vec::new() }
    }

    fn run(&mut self, unit: Unit) -> Result<Flow, Failure> {
        let flow = match unit.body {
            Body::Lines { offset, bytes } if self.scan.decoder.cut.format == FileFormat::Text => {
                self.text(offset, &bytes)
            }
            Body::Lines { offset, bytes } => self.json(lines(offset, &bytes), bytes.len()),
            Body::Document { text } => self.json(json_records(&text)?.into_iter(), text.len()),
            Body::Container => self.stored(avro::open(unit.at.path(), BATCH_ROWS)?, 0),
            Body::Records { header, records } => self.csv(header.as_deref().map(Vec::as_slice), &records),
            Body::RowGroup { metadata, group, first_row } => {
                let columns = match self.scan.decoder.rescue {
                    // What is not in the schema is rescued, so all is read.
                    Some(_) => Arc::clone(metadata.schema()),
                    None => Arc::clone(&self.scan.decoder.columns),
                };
                self.require_known(metadata.schema().fields().iter().map(|field| field.name().as_str()))?;
                self.stored(
                    parquet::row_group(unit.at.path(), metadata, group, BATCH_ROWS, &columns)?,
                    first_row,
                )
            }
        }?;
        self.flush_rejects()?;
        Ok(flow)
    }

    /// Lines of text: the one column is the line.
    fn text(&mut self, offset: u64, bytes: &[u8]) -> Result<Flow, Failure> {
        let mut rows = Rows::new(self.scan, bytes.len())?;
        let mut values = Vec::new();
        for (at, line) in lines(offset, bytes) {
            match simdutf8::basic::from_utf8(line) {
                Ok(line) => {
                    values.push(Fitted::Text(line.into()));
                    rows.push(&mut values, None, at);
                }
                Err(_) => self.reject(at, "invalid UTF-8".to_owned(), readable(line), None)?,
            }
            if rows.count == BATCH_ROWS && self.send(&mut rows)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        self.send(&mut rows)
    }

    fn json<'r>(
        &mut self,
        records: impl Iterator<Item = (u64, &'r [u8])>,
        bytes: usize,
    ) -> Result<Flow, Failure> {
        let decoder = &self.scan.decoder;
        let reader =
            JsonReader::new(&decoder.columns, decoder.rescue.is_some()).failing_on_new(decoder.fails_on_new);
        let mut rows = Rows::new(self.scan, bytes)?;
        let mut values = Vec::new();
        for (at, line) in records {
            if line.trim_ascii().is_empty() {
                continue;
            }
            values.clear();
            match reader.read(line, &mut values) {
                Line::Row(rescued) => rows.push(&mut values, rescued, at),
                Line::Malformed(reason) => self.reject(at, reason, readable(line), None)?,
                Line::New(names) => return Err(self.new_columns(&names).into()),
            }
            if rows.count == BATCH_ROWS && self.send(&mut rows)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        self.send(&mut rows)
    }

    fn csv(
        &mut self,
        header: Option<&[String]>,
        records: &[(u64, ::csv::ByteRecord)],
    ) -> Result<Flow, Failure> {
        let decoder = &self.scan.decoder;
        if let Some(header) = header {
            self.require_known(header.iter().map(String::as_str))?;
        }
        let reader = CsvReader::new(&decoder.columns, header, decoder.rescue.is_some())?;
        let mut rows = Rows::new(self.scan, 0)?;
        let mut values = Vec::new();
        for (at, record) in records {
            values.clear();
            match reader.read(record, &mut values) {
                Line::Row(rescued) => rows.push(&mut values, rescued, *at),
                Line::New(names) => return Err(self.new_columns(&names).into()),
                Line::Malformed(reason) => {
                    let text = record_text(record, decoder.cut.delimiter)?;
                    let header = header.map(|names| header_text(names, decoder.cut.delimiter));
                    self.reject(*at, reason, text, header.transpose()?)?;
                }
            }
        }
        self.send(&mut rows)
    }

    /// The rows of a file that stores columns, matched by name.
    fn stored(
        &mut self,
        batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
        first_row: u64,
    ) -> Result<Flow, Failure> {
        let mut row = first_row;
        let decoder = &self.scan.decoder;
        for rows in batches {
            let rows = rows.map_err(|error| Failure::Broken(error.to_string()))?;
            self.require_known(rows.schema().fields().iter().map(|field| field.name().as_str()))?;
            let (columns, rescued) = parquet::fit_rows(&rows, &decoder.columns, decoder.rescue.is_some())?;
            let count = rows.num_rows();
            let addresses = consecutive(self.piece, row, count);
            row += count as u64;
            if self.send_columns(&columns, rescued, addresses, count)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Go)
    }

    /// Fails when a file has columns that the source does not know, and is not to have.
    fn require_known<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<()> {
        if !self.scan.decoder.fails_on_new {
            return Ok(());
        }
        let new: Vec<String> = names
            .filter(|name| self.scan.decoder.columns.index_of(name).is_err() && !is_reserved(name))
            .map(str::to_owned)
            .collect();
        if new.is_empty() { Ok(()) } else { Err(self.new_columns(&new)) }
    }

    fn new_columns(&self, names: &[String]) -> Error {
        let lines: Vec<String> = names.iter().map(|name| format!("+ {name}")).collect();
        Error::new(
            Code::SCHEMA_CHANGED,
            format!("file {:?} has columns that {:?} does not have: {}", self.file.path, self.scan.decoder.name, lines.join(", ")),
        )
        .hint("nothing of the batch was published; declare the columns, or choose schemaEvolutionMode 'addNewColumns' or 'rescue'")
    }

    fn reject(&mut self, offset: u64, reason: String, record: String, header: Option<String>) -> Result<()> {
        if self.reports {
            let (source, file) = (self.scan.decoder.name.clone(), self.file.path.clone());
            let (offset, record) = (Some(offset), Some(record));
            self.rejected.push(Reject { source, file, offset, row: None, reason, record, header });
            if self.rejected.len() == 1_024 {
                self.flush_rejects()?;
            }
        }
        Ok(())
    }

    fn flush_rejects(&mut self) -> Result<()> {
        self.scan.rejects.report(&std::mem::take(&mut self.rejected))
    }

    fn send(&self, rows: &mut Rows) -> Result<Flow, Failure> {
        if rows.count == 0 {
            return Ok(Flow::Go);
        }
        let columns = rows.columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>>>()?;
        let rescued = StringArray::from(std::mem::take(&mut rows.rescued));
        let places = std::mem::take(&mut rows.places);
        let addresses = places.into_iter().map(|place| Address::new(self.piece, place).0).collect();
        self.send_columns(&columns, Some(rescued), addresses, std::mem::take(&mut rows.count))
    }

    fn send_columns(
        &self,
        decoded: &[ArrayRef],
        rescued: Option<StringArray>,
        addresses: UInt64Array,
        rows: usize,
    ) -> Result<Flow, Failure> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.scan.wanted.columns.len());
        let in_path = path_columns::repeated(&self.scan.decoder.path_columns, &self.file.path, rows)?;
        for origin in &self.scan.wanted.columns {
            columns.push(match origin {
                Origin::Decoded(index) => Arc::clone(&decoded[*index]),
                Origin::Path(index) => Arc::clone(&in_path[*index]),
                Origin::Rescued => Arc::new(rescued.clone().unwrap_or_else(|| StringArray::new_null(rows))),
                Origin::Metadata => Arc::new(self.metadata(rows)?),
                Origin::Address => Arc::new(addresses.clone()),
            });
        }
        if self.reports {
            self.scan.rejects.count(rows);
        }
        let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.scan.schema), columns, &options)
            .map_err(|error| {
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

/// Rows being collected. Values are fitted to all columns, so that a bad one is found whatever the query
/// reads, but kept only for those that somebody reads.
struct Rows {
    columns: Vec<Column>,
    rescued: Vec<Option<String>>,
    places: Vec<u64>,
    keeps_rescued: bool,
    keeps_places: bool,
    count: usize,
}

impl Rows {
    fn new(scan: &Scan, bytes: usize) -> Result<Self> {
        let fields = scan.decoder.columns.fields();
        let columns = fields
            .iter()
            .zip(&scan.wanted.decoded)
            .map(|(field, wanted)| match wanted {
                true => Column::new(field.data_type(), bytes / fields.len()),
                false => Ok(Column::Unwanted),
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            columns,
            rescued: Vec::new(),
            places: Vec::new(),
            keeps_rescued: scan.wanted.has(Origin::Rescued),
            keeps_places: scan.wanted.has(Origin::Address),
            count: 0,
        })
    }

    fn push(&mut self, values: &mut Vec<Fitted<'_>>, rescued: Option<String>, place: u64) {
        for (column, value) in self.columns.iter_mut().zip(values.drain(..)) {
            column.push(value);
        }
        if self.keeps_rescued {
            self.rescued.push(rescued);
        }
        if self.keeps_places {
            self.places.push(place);
        }
        self.count += 1;
    }
}
