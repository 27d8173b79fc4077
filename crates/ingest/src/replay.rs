//! Records out of quarantine, decoded again as their source would.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;

use crate::address::{ADDRESS_COLUMN, Address, address_field};
use crate::files::{
    Column, CsvReader, CsvRecords, Cut, FileFormat, FileInfo, FileStores, Fitted, JsonReader, Line,
    METADATA_COLUMN, csv_header_of, metadata_fields, open, path_columns, record_of,
};
use crate::records::SourceRecord;
use crate::rejects::{Reject, Rejects};
use crate::source::{Limits, Range, Source, Standing};
use crate::streams;

/// How the text of a record becomes a row.
#[derive(Debug, Clone)]
pub struct RecordFormat {
    /// The source, as people know it.
    pub(crate) name: String,
    /// The columns read from records.
    pub(crate) columns: SchemaRef,
    /// The columns read from the paths of their files.
    pub(crate) path_columns: SchemaRef,
    /// Comma-separated text, or JSON.
    pub(crate) cut: Cut,
    pub(crate) rescue: Option<String>,
    /// Where files lie, for the names of CSV columns.
    pub(crate) stores: Arc<FileStores>,
    /// What records of JSON are held to.
    pub(crate) held_to: Option<Arc<streams::RecordSchema>>,
}

/// Some records of a source, as a source of their own: one range, one piece.
#[derive(Debug)]
pub struct ReplaySource {
    inner: Arc<dyn Source>,
    records: Arc<Vec<SourceRecord>>,
}

impl ReplaySource {
    /// Makes a source of records that came from `inner`; a record's place is its index.
    #[must_use]
    pub fn new(inner: Arc<dyn Source>, records: Vec<SourceRecord>) -> Self {
        Self { inner, records: Arc::new(records) }
    }
}

#[async_trait]
impl Source for ReplaySource {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn record_format(&self) -> RecordFormat {
        self.inner.record_format()
    }

    async fn plan(&self, _: &Standing, _: Limits) -> Result<Option<Range>> {
        Ok(None)
    }

    fn read(
        &self,
        _: &Range,
        rejects: Arc<Rejects>,
        first_piece: Option<u32>,
    ) -> Result<Arc<dyn TableProvider>> {
        let mut fields: Vec<_> = self.schema().fields().iter().cloned().collect();
        if first_piece.is_some() {
            fields.push(address_field());
        }
        let schema = Arc::new(Schema::new(fields));
        // The table without addresses is planned with and never scanned.
        let rows = match first_piece {
            Some(piece) => decode(&self.record_format(), &self.records, &schema, piece, &rejects)?,
            None => RecordBatch::new_empty(Arc::clone(&schema)),
        };
        let table = MemTable::try_new(schema, vec![vec![rows]])
            .map_err(|error| Error::new(Code::INTERNAL, "could not read records again").because(error))?;
        Ok(Arc::new(table))
    }

    fn records(&self, _: &Range, first_piece: u32, wanted: &[Address]) -> Result<Vec<SourceRecord>> {
        Ok(wanted
            .iter()
            .filter(|address| address.piece() == u64::from(first_piece))
            .filter_map(|address| {
                let record = self.records.get(usize::try_from(address.place()).ok()?)?;
                Some(SourceRecord { address: *address, ..record.clone() })
            })
            .collect())
    }
}

/// Decodes records into rows of a schema; those that still cannot be decoded are rejected again.
fn decode(
    format: &RecordFormat,
    records: &[SourceRecord],
    schema: &SchemaRef,
    piece: u32,
    rejects: &Rejects,
) -> Result<RecordBatch> {
    let read = format.columns.fields().len();
    let known = || format.columns.fields().iter().chain(format.path_columns.fields());
    let mut columns = known().map(|field| Column::new(field.data_type(), 0)).collect::<Result<Vec<_>>>()?;
    let (mut rescued, mut kept, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
    let mut headers: HashMap<(bool, &str), Option<Vec<String>>> = HashMap::new();
    let json = JsonReader::new(&format.columns, format.rescue.is_some());
    for (index, record) in records.iter().enumerate() {
        let mut values: Vec<Fitted<'_>> = Vec::new();
        let csv;
        let line = match format.cut.format {
            FileFormat::Csv => {
                // What was kept without its header is read by that of the file as it is now.
                let header = match &record.header {
                    Some(_) => headers.entry((true, record.header.as_deref().unwrap_or_default())),
                    None => headers.entry((false, record.file.as_str())),
                };
                let header = header.or_insert_with(|| match &record.header {
                    Some(header) => Some(csv_header_of(header, format.cut.delimiter)),
                    None => header_of(format, &record.file),
                });
                csv = record_of(&record.record, format.cut.delimiter);
                match CsvReader::new(&format.columns, header.as_deref(), format.rescue.is_some()) {
                    Ok(_) if format.cut.header && header.is_none() => {
                        Line::Malformed("the file that names its columns is gone".to_owned())
                    }
                    Ok(reader) => reader.read(&csv, &mut values),
                    Err(_) => Line::Malformed("the header of its file names none of the columns".to_owned()),
                }
            }
            FileFormat::Text => {
                values.push(Fitted::Text(record.record.as_str().into()));
                Line::Row(None)
            }
            _ => match format.held_to.as_ref().and_then(|schema| schema.fault(record.record.as_bytes())) {
                None => json.read(record.record.as_bytes(), &mut values),
                Some(reason) => Line::Malformed(reason),
            },
        };
        let (here, in_path) = columns.split_at_mut(read);
        let reason = match line {
            Line::Row(rest) => match path_columns::push(&format.path_columns, &record.file, in_path) {
                Ok(()) => {
                    here.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
                    rescued.push(rest);
                    kept.push((index, record));
                    continue;
                }
                Err(reason) => reason,
            },
            Line::New(names) => format!("no columns: {}", names.join(", ")),
            Line::Malformed(reason) => reason,
        };
        rejected.push(Reject {
            source: format.name.clone(),
            file: record.file.clone(),
            offset: record.byte_offset,
            row: record.row_number,
            reason,
            record: Some(record.record.clone()),
            header: record.header.clone(),
        });
    }
    rejects.count(kept.len());
    rejects.keep(rejected);
    let arrays = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            METADATA_COLUMN if format.columns.index_of(METADATA_COLUMN).is_err() => {
                let places = kept.iter().map(|(_, record)| record.file.as_str());
                match field.data_type() {
                    DataType::Struct(fields) => {
                        streams::of_places(fields, places).unwrap_or_else(|| metadata(&format.stores, &kept))
                    }
                    _ => metadata(&format.stores, &kept),
                }
            }
            ADDRESS_COLUMN => {
                let places = kept.iter().map(|(index, _)| Address::new(piece, *index as u64).0);
                Ok(Arc::new(places.collect::<UInt64Array>()) as ArrayRef)
            }
            name => match known().position(|known| known.name() == name) {
                Some(index) => columns[index].finish(),
                None => Ok(Arc::new(StringArray::from(rescued.clone())) as ArrayRef),
            },
        })
        .collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), arrays)
        .map_err(|error| Error::new(Code::INTERNAL, "records do not fit their columns").because(error))
}

/// The names in the first line of a file, when it is still there.
fn header_of(format: &RecordFormat, file: &str) -> Option<Vec<String>> {
    let copy = format.stores.fetch(&named(file)).ok()?;
    let records = CsvRecords::new(open(copy.path()).ok()?, format.cut.delimiter, format.cut.header).ok()?;
    records.header
}

/// A file of which only the name is known.
fn named(file: &str) -> FileInfo {
    FileInfo { path: file.to_owned(), size: 0, modified: 0, etag: String::new() }
}

/// What is known of the files now; of one that is gone, only its name.
fn metadata(stores: &FileStores, kept: &[(usize, &SourceRecord)]) -> Result<ArrayRef> {
    let mut known: HashMap<&str, Option<FileInfo>> = HashMap::new();
    for (_, record) in kept {
        if !known.contains_key(record.file.as_str()) {
            known.insert(&record.file, stores.look_again(&named(&record.file))?);
        }
    }
    let infos: Vec<Option<&FileInfo>> =
        kept.iter().map(|(_, record)| known.get(record.file.as_str()).and_then(Option::as_ref)).collect();
    let files = || kept.iter().map(|(_, record)| Some(record.file.as_str()));
    let names = files().map(|file| file.and_then(|file| file.rsplit('/').next()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(files().collect::<StringArray>()),
        Arc::new(names.collect::<StringArray>()),
        Arc::new(
            infos
                .iter()
                .map(|info| info.and_then(|info| i64::try_from(info.size).ok()))
                .collect::<Int64Array>(),
        ),
        Arc::new(
            infos
                .iter()
                .map(|info| info.map(|info| info.modified))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
    ];
    StructArray::try_new(metadata_fields(), columns, None)
        .map(|metadata| Arc::new(metadata) as ArrayRef)
        .map_err(|error| Error::new(Code::INTERNAL, "could not describe a file").because(error))
}
