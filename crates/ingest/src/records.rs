//! Records looked up by their addresses: what a row looked like in its source.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::json::LineDelimitedWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};

use crate::address::Address;
use crate::files::{Body, CsvRecords, Cut, Failure, FileFormat, UnitQueue, is_compressed, lines, readable};
use crate::files::{avro, json_records};
use crate::files::{open, record_text};

/// A record as it stands in its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRecord {
    /// Its address in the batch.
    pub address: Address,
    /// The file it stands in.
    pub file: String,
    /// Where it begins in the decompressed file, in bytes; for text.
    pub byte_offset: Option<u64>,
    /// Its number in the file, from 0; for formats with rows.
    pub row_number: Option<u64>,
    /// The record: as it stands in a text, as a JSON object elsewhere.
    pub record: String,
    /// The names of its columns, for a record of a CSV file whose first line has them.
    pub header: Option<String>,
}

/// A place in a file and the address that stands for it; places ascend.
pub(crate) type Wanted<'a> = &'a [Address];

/// Looks records up in one file.
pub(crate) fn look_up(
    path: &Path,
    cut: &Cut,
    wanted: Wanted<'_>,
    fit: &dyn Fn(RecordBatch) -> Result<RecordBatch>,
) -> Result<Vec<(Address, String)>, Failure> {
    match cut.format {
        FileFormat::Json if cut.multi_line => find_records(path, cut, wanted),
        FileFormat::Json | FileFormat::Text if is_compressed(path)? => scan_lines(path, cut, wanted),
        FileFormat::Json | FileFormat::Text => seek_lines(path, wanted),
        FileFormat::Avro => select_avro(path, wanted, fit),
        FileFormat::Csv => scan_records(path, cut, wanted),
        FileFormat::Parquet => select_rows(path, cut, wanted, fit),
    }
}

fn seek_lines(path: &Path, wanted: Wanted<'_>) -> Result<Vec<(Address, String)>, Failure> {
    let mut file = BufReader::new(File::open(path)?);
    let mut at = 0_u64;
    let mut found = Vec::with_capacity(wanted.len());
    let mut line = Vec::new();
    for address in wanted {
        match i64::try_from(address.place() - at) {
            Ok(ahead) => file.seek_relative(ahead)?,
            Err(_) => file.seek(SeekFrom::Start(address.place())).map(|_| ())?,
        }
        line.clear();
        at = address.place() + file.read_until(b'\n', &mut line)? as u64;
        let mut text = line.strip_suffix(b"\n").unwrap_or(&line);
        text = text.strip_suffix(b"\r").unwrap_or(text);
        if address.place() == 0 {
            text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        }
        found.push((*address, readable(text)));
    }
    Ok(found)
}

fn find_records(path: &Path, cut: &Cut, wanted: Wanted<'_>) -> Result<Vec<(Address, String)>, Failure> {
    let units = UnitQueue::of_file(cut.clone(), path);
    let Some(unit) = units.next().map_err(|(_, failure)| failure)? else { return Ok(Vec::new()) };
    let Body::Document { text } = unit.body else { return Ok(Vec::new()) };
    let mut rest = wanted.iter().peekable();
    let mut found = Vec::with_capacity(wanted.len());
    for (at, record) in json_records(&text)? {
        if let Some(address) = rest.next_if(|address| address.place() == at) {
            // Line ends stand only between the parts of a JSON value, never within them.
            found.push((*address, readable(record).replace(['\n', '\r'], " ")));
        }
    }
    Ok(found)
}

fn select_avro(
    path: &Path,
    wanted: Wanted<'_>,
    fit: &dyn Fn(RecordBatch) -> Result<RecordBatch>,
) -> Result<Vec<(Address, String)>, Failure> {
    let mut found = Vec::with_capacity(wanted.len());
    let mut rest = wanted.iter().peekable();
    let mut row = 0;
    for rows in avro::open(path, 8_192)? {
        let rows = rows.map_err(|error| Failure::Broken(error.to_string()))?;
        let count = rows.num_rows() as u64;
        while let Some(address) = rest.next_if(|address| address.place() < row + count) {
            let at = usize::try_from(address.place() - row).unwrap_or(usize::MAX);
            let lines = json_lines(&fit(rows.slice(at, 1))?)?;
            found.extend(lines.into_iter().map(|line| (*address, line)));
        }
        row += count;
    }
    Ok(found)
}

fn scan_lines(path: &Path, cut: &Cut, wanted: Wanted<'_>) -> Result<Vec<(Address, String)>, Failure> {
    let units = UnitQueue::of_file(cut.clone(), path);
    let mut found = Vec::with_capacity(wanted.len());
    let mut rest = wanted.iter().peekable();
    while rest.peek().is_some()
        && let Some(unit) = units.next().map_err(|(_, failure)| failure)?
    {
        let Body::Lines { offset, bytes } = unit.body else { break };
        for (at, line) in lines(offset, &bytes) {
            if let Some(address) = rest.next_if(|address| address.place() == at) {
                found.push((*address, readable(line)));
            }
        }
    }
    Ok(found)
}

fn scan_records(path: &Path, cut: &Cut, wanted: Wanted<'_>) -> Result<Vec<(Address, String)>, Failure> {
    let mut records = CsvRecords::new(open(path)?, cut.delimiter, cut.header)?;
    let mut found = Vec::with_capacity(wanted.len());
    let mut rest = wanted.iter().peekable();
    while rest.peek().is_some()
        && let Some((at, record)) = records.next_record()?
    {
        if let Some(address) = rest.next_if(|address| address.place() == at) {
            found.push((*address, record_text(record, cut.delimiter)?));
        }
    }
    Ok(found)
}

fn select_rows(
    path: &Path,
    cut: &Cut,
    wanted: Wanted<'_>,
    fit: &dyn Fn(RecordBatch) -> Result<RecordBatch>,
) -> Result<Vec<(Address, String)>, Failure> {
    let broken = |error: String| Failure::Broken(error);
    let units = UnitQueue::of_file(cut.clone(), path);
    let mut found = Vec::with_capacity(wanted.len());
    while let Some(unit) = units.next().map_err(|(_, failure)| failure)? {
        let Body::RowGroup { metadata, group, first_row } = unit.body else { break };
        let rows = u64::try_from(metadata.metadata().row_group(group).num_rows()).unwrap_or(0);
        let inside: Vec<Address> = wanted
            .iter()
            .copied()
            .filter(|address| (first_row..first_row + rows).contains(&address.place()))
            .collect();
        if inside.is_empty() {
            continue;
        }
        let ranges = inside.iter().map(|address| {
            let at = usize::try_from(address.place() - first_row).unwrap_or(usize::MAX);
            at..at + 1
        });
        let total = usize::try_from(rows).unwrap_or(usize::MAX);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(File::open(path)?, metadata)
            .with_row_groups(vec![group])
            .with_row_selection(RowSelection::from_consecutive_ranges(ranges, total))
            .build()
            .map_err(|error| broken(error.to_string()))?;
        let mut addresses = inside.into_iter();
        for rows in reader {
            let rows = rows.map_err(|error| broken(error.to_string()))?;
            found.extend(addresses.by_ref().zip(json_lines(&fit(rows)?)?));
        }
    }
    Ok(found)
}

/// Rows as JSON objects.
///
/// # Errors
/// Returns [`Code::INTERNAL`] for types that have no JSON form.
pub fn json_lines(rows: &RecordBatch) -> Result<Vec<String>> {
    let failed = |error: datafusion::arrow::error::ArrowError| {
        Error::new(Code::INTERNAL, "could not write rows as JSON").because(error)
    };
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(rows).and_then(|()| writer.finish()).map_err(failed)?;
    let text = String::from_utf8_lossy(&writer.into_inner()).into_owned();
    Ok(text.lines().map(str::to_owned).collect())
}

/// Cuts addresses in ascending order into runs of one piece each.
pub(crate) fn by_piece(wanted: &[Address]) -> impl Iterator<Item = &[Address]> {
    wanted.chunk_by(|a, b| a.piece() == b.piece())
}
