//! Comma-separated values (RFC 4180), fields matched to columns by the header's names.

use std::io::BufRead;

use catchment_core::{Code, Error, Result};
use csv::{ByteRecord, ReaderBuilder, Terminator};
use datafusion::arrow::datatypes::Schema;

use crate::files::cells::{Cell, Fitted, fit};
use crate::files::json::Line;
use crate::files::reader::Failure;

/// Records of a CSV file, with the offset of each.
pub(crate) struct CsvRecords {
    reader: csv::Reader<Box<dyn BufRead + Send>>,
    record: ByteRecord,
    /// The names of the header line, when the file has one.
    pub(crate) header: Option<Vec<String>>,
}

impl CsvRecords {
    pub(crate) fn new(source: Box<dyn BufRead + Send>, delimiter: u8, header: bool) -> Result<Self, Failure> {
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .terminator(Terminator::CRLF)
            .from_reader(source);
        let mut record = ByteRecord::new();
        let header = if header && reader.read_byte_record(&mut record).map_err(csv_failure)? {
            let names = record
                .iter()
                .enumerate()
                .map(|(index, name)| {
                    let name =
                        if index == 0 { name.strip_prefix(b"\xef\xbb\xbf").unwrap_or(name) } else { name };
                    simdutf8::basic::from_utf8(name).map(str::to_owned)
                })
                .collect::<Result<_, _>>()
                .map_err(|_| Failure::Broken("the header is not UTF-8".to_owned()))?;
            Some(names)
        } else {
            None
        };
        Ok(Self { reader, record, header })
    }

    /// The next record and its offset, `None` at the end of the file.
    pub(crate) fn next_record(&mut self) -> Result<Option<(u64, &ByteRecord)>, Failure> {
        let more = self.reader.read_byte_record(&mut self.record).map_err(csv_failure)?;
        let offset = self.record.position().map_or(0, csv::Position::byte);
        Ok(more.then_some((offset, &self.record)))
    }
}

fn csv_failure(error: csv::Error) -> Failure {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        other => Failure::Broken(format!("{other:?}")),
    }
}

/// How the fields of a file's records go to columns.
pub(crate) struct CsvReader<'s> {
    schema: &'s Schema,
    /// For each column, the field that holds it.
    fields: Vec<Option<usize>>,
    /// The names of all fields.
    names: Vec<String>,
    rescue: bool,
}

impl<'s> CsvReader<'s> {
    /// Matches a file's header to the columns; a file without a header has them in order.
    pub(crate) fn new(schema: &'s Schema, header: Option<&[String]>, rescue: bool) -> Result<Self, Failure> {
        let names: Vec<String> = match header {
            Some(names) => names.to_vec(),
            None => schema.fields().iter().map(|field| field.name().clone()).collect(),
        };
        let fields: Vec<_> =
            schema.fields().iter().map(|field| names.iter().position(|name| name == field.name())).collect();
        if fields.iter().all(Option::is_none) && !names.is_empty() {
            return Err(Failure::Broken(format!(
                "the header ({}) names none of the columns",
                names.join(", ")
            )));
        }
        Ok(Self { schema, fields, names, rescue })
    }

    /// Reads one record, and adds its values to `values`, which is empty before.
    pub(crate) fn read<'a>(&self, record: &'a ByteRecord, values: &mut Vec<Fitted<'a>>) -> Line {
        let width = self.names.len();
        if record.len() < width || (record.len() > width && !self.rescue) {
            return Line::Malformed(format!("{} fields where {width} should be", record.len()));
        }
        let mut misfits = Vec::new();
        for (index, field) in self.fields.iter().zip(self.schema.fields()) {
            let cell = match index.and_then(|index| record.get(index)) {
                None => Cell::Null,
                Some(bytes) => match simdutf8::basic::from_utf8(bytes) {
                    Ok(text) => Cell::Untyped(text),
                    Err(_) => return Line::Malformed(format!("column \"{}\": invalid UTF-8", field.name())),
                },
            };
            match fit(cell, field.data_type()) {
                Ok(value) => values.push(value),
                Err(_) if self.rescue => {
                    misfits.extend(*index);
                    values.push(Fitted::Null);
                }
                Err(why) => return Line::Malformed(format!("column \"{}\": {why}", field.name())),
            }
        }
        Line::Row(if self.rescue { self.rescued(record, &misfits) } else { None })
    }

    fn rescued(&self, record: &ByteRecord, misfits: &[usize]) -> Option<String> {
        let kept: serde_json::Map<_, _> = record
            .iter()
            .enumerate()
            .filter(|(index, _)| misfits.contains(index) || !self.fields.contains(&Some(*index)))
            .map(|(index, bytes)| {
                let name = self.names.get(index).cloned().unwrap_or_else(|| format!("_c{index}"));
                (name, crate::files::reader::readable(bytes).into())
            })
            .collect();
        (!kept.is_empty()).then(|| serde_json::Value::Object(kept).to_string())
    }
}

/// A record as one line of text again, for quarantine.
pub(crate) fn record_text(record: &ByteRecord, delimiter: u8) -> Result<String> {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).flexible(true).from_writer(Vec::new());
    writer
        .write_byte_record(record)
        .map_err(|error| Error::new(Code::INTERNAL, "could not keep a record").because(error))?;
    let bytes = writer
        .into_inner()
        .map_err(|error| Error::new(Code::INTERNAL, "could not keep a record").because(error.to_string()))?;
    Ok(crate::files::reader::readable(&bytes).trim_end_matches(['\r', '\n']).to_owned())
}

/// The names of columns as one line of text.
pub(crate) fn header_text(names: &[String], delimiter: u8) -> Result<String> {
    record_text(&ByteRecord::from_iter(names), delimiter)
}

/// The names of columns from a line of text.
pub(crate) fn header_of(text: &str, delimiter: u8) -> Vec<String> {
    record_of(text, delimiter).iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

/// The text of a record as a record again.
pub(crate) fn record_of(text: &str, delimiter: u8) -> ByteRecord {
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut record = ByteRecord::new();
    // Reading from memory does not fail; what is no record is an empty one, which has too few fields.
    let _ = reader.read_byte_record(&mut record);
    record
}
