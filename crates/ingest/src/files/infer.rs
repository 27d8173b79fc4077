//! Guesses the columns of files from a sample of them.

use std::path::Path;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde_json::Value;

use crate::files::cells::{Cell, fit};
use crate::files::csv::CsvRecords;
use crate::files::json::json_records;
use crate::files::options::{FileFormat, ReadFiles};
use crate::files::reader::{Failure, open};
use crate::files::scan::is_reserved;
use crate::files::units::{Body, Cut, UnitQueue, lines};
use crate::files::{FileInfo, avro, parquet, path_columns};

/// Records looked at in each file of the sample.
const RECORDS: usize = 2_000;

/// The format of a file by its name; compression endings are looked through.
pub(crate) fn format_of(path: &str) -> Option<FileFormat> {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    let name = [".gz", ".zst", ".zstd"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("json" | "jsonl" | "ndjson") => Some(FileFormat::Json),
        Some("csv") => Some(FileFormat::Csv),
        Some("parquet") => Some(FileFormat::Parquet),
        Some("avro") => Some(FileFormat::Avro),
        Some("txt" | "log") => Some(FileFormat::Text),
        _ => None,
    }
}

/// The columns of the files, from a sample spread over them. Files that cannot be read are left out here;
/// reading them will tell.
pub(crate) fn infer_schema(files: &[FileInfo], format: FileFormat, options: &ReadFiles) -> Result<SchemaRef> {
    if format == FileFormat::Text {
        return Ok(Arc::new(Schema::new(with_path_columns(
            vec![Field::new("value", DataType::Utf8, true)],
            files,
            options,
        ))));
    }
    let mut guess = Guess::default();
    let step = files.len().div_ceil(options.sample_files).max(1);
    for file in files.iter().step_by(step) {
        let copy = match options.stores.fetch(file) {
            Ok(copy) => copy,
            Err(Failure::Ours(error)) => return Err(error),
            Err(_) => continue,
        };
        let path = copy.path();
        let looked = match format {
            FileFormat::Json => json(path, options, &mut guess),
            FileFormat::Csv => csv(path, options, &mut guess),
            FileFormat::Parquet => parquet::columns(path).and_then(|found| stored(&found, &mut guess)),
            FileFormat::Avro => avro::columns(path).and_then(|found| stored(&found, &mut guess)),
            FileFormat::Text => Ok(()),
        };
        match looked {
            Ok(()) | Err(Failure::Vanished | Failure::Broken(_)) => {}
            Err(Failure::Ours(error)) => return Err(error),
        }
    }
    if guess.fields.is_empty() {
        return Err(Error::new(Code::NO_INPUT, format!("no file of {:?} tells its columns", options.path))
            .hint("declare them with schema => 'name TYPE, ...', or add a file"));
    }
    Ok(Arc::new(Schema::new(with_path_columns(guess.finish(options.infer_types), files, options))))
}

fn with_path_columns(mut read: Vec<Field>, files: &[FileInfo], options: &ReadFiles) -> Vec<Field> {
    let names = &options.partition_columns;
    read.retain(|field| {
        let name = field.name();
        // Fields with names of our own are kept in the rescue column.
        !names.contains(name) && !is_reserved(name) && options.rescue.as_ref() != Some(name)
    });
    read.extend(path_columns::infer(names, files, options.infer_types));
    read
}

/// Fields by name in the order in which they appeared.
#[derive(Debug, Default, Clone, PartialEq)]
struct Guess {
    fields: Vec<(String, Option<DataType>)>,
}

impl Guess {
    fn add(&mut self, name: &str, found: Option<DataType>) {
        match self.fields.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => {
                *known = match (known.take(), found) {
                    (Some(a), Some(b)) => Some(join(a, b)),
                    (a, b) => a.or(b),
                };
            }
            None => self.fields.push((name.to_owned(), found)),
        }
    }

    /// Columns that held nothing but nulls are text.
    fn finish(self, typed: bool) -> Vec<Field> {
        let kept = |found: Option<DataType>| found.filter(|_| typed).unwrap_or(DataType::Utf8);
        self.fields.into_iter().map(|(name, found)| Field::new(name, kept(found), true)).collect()
    }
}

/// The narrowest type that holds values of both.
pub(crate) fn join(a: DataType, b: DataType) -> DataType {
    use DataType::{Date32, Float64, Int64, List, Struct, Timestamp, Utf8};
    match (a, b) {
        (a, b) if a == b => a,
        (Int64, Float64) | (Float64, Int64) => Float64,
        (Date32, Timestamp(unit, zone)) | (Timestamp(unit, zone), Date32) => Timestamp(unit, zone),
        (List(a), List(b)) => {
            List(Arc::new(Field::new("element", join(a.data_type().clone(), b.data_type().clone()), true)))
        }
        (Struct(a), Struct(b)) => {
            let mut guess = Guess::default();
            a.iter()
                .chain(b.iter())
                .for_each(|field| guess.add(field.name(), Some(field.data_type().clone())));
            Struct(Fields::from(guess.finish(true)))
        }
        _ => Utf8,
    }
}

fn json(path: &Path, options: &ReadFiles, guess: &mut Guess) -> Result<(), Failure> {
    // The lines of one block are a large enough sample of a file.
    let multi_line = options.multi_line;
    let cut = Cut { format: FileFormat::Json, header: false, delimiter: b',', multi_line };
    let units = UnitQueue::of_file(cut, path);
    let Some(unit) = units.next().map_err(|(_, failure)| failure)? else { return Ok(()) };
    let mut look = |line: &[u8]| {
        if let Ok(Value::Object(fields)) = serde_json::from_slice(line) {
            fields.iter().for_each(|(name, value)| guess.add(name, json_type(value)));
        }
    };
    match &unit.body {
        Body::Lines { offset, bytes } => {
            lines(*offset, bytes).take(RECORDS).for_each(|(_, line)| look(line));
        }
        Body::Document { text } => {
            json_records(text)?.iter().take(RECORDS).for_each(|(_, record)| look(record));
        }
        _ => {}
    }
    Ok(())
}

fn json_type(value: &Value) -> Option<DataType> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some(DataType::Boolean),
        Value::Number(number) if number.is_i64() => Some(DataType::Int64),
        Value::Number(_) => Some(DataType::Float64),
        Value::String(_) => Some(DataType::Utf8),
        Value::Array(items) => {
            let item = items.iter().filter_map(json_type).reduce(join).unwrap_or(DataType::Utf8);
            Some(DataType::List(Arc::new(Field::new("element", item, true))))
        }
        Value::Object(fields) => {
            let mut guess = Guess::default();
            fields.iter().for_each(|(name, value)| guess.add(name, json_type(value)));
            (!guess.fields.is_empty()).then(|| DataType::Struct(Fields::from(guess.finish(true))))
        }
    }
}

fn csv(path: &Path, options: &ReadFiles, guess: &mut Guess) -> Result<(), Failure> {
    let mut records = CsvRecords::new(open(path)?, options.delimiter, options.header)?;
    let mut names = records.header.clone().unwrap_or_default();
    names.iter().for_each(|name| guess.add(name, None));
    for _ in 0..RECORDS {
        let Some((_, record)) = records.next_record()? else { break };
        if !options.header {
            names = (0..record.len()).map(|index| format!("_c{index}")).collect();
        }
        for (name, bytes) in names.iter().zip(record) {
            if let Ok(text) = simdutf8::basic::from_utf8(bytes) {
                guess.add(name, text_type(text));
            }
        }
    }
    Ok(())
}

/// The type of a text: the first of these that it reads as.
pub(crate) fn text_type(text: &str) -> Option<DataType> {
    if text.is_empty() {
        return None;
    }
    let micros = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    let reads_as = |kind: &DataType| fit(Cell::Untyped(text), kind).is_ok();
    let has_letters = text.bytes().any(|byte| byte.is_ascii_alphabetic());
    // 00501 is a code, not a number.
    let is_code = text.len() > 1 && text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    let found = if is_code {
        DataType::Utf8
    } else if reads_as(&DataType::Int64) {
        DataType::Int64
    } else if !has_letters && reads_as(&DataType::Float64) {
        DataType::Float64
    } else if reads_as(&DataType::Boolean) {
        DataType::Boolean
    } else if text.len() == 10 && reads_as(&DataType::Date32) {
        DataType::Date32
    } else if text.len() > 10 && reads_as(&micros(None)) {
        let time = &text[10..];
        micros((time.ends_with('Z') || time.contains('+') || time.contains('-')).then_some("UTC"))
    } else {
        DataType::Utf8
    };
    Some(found)
}

fn stored(schema: &Schema, guess: &mut Guess) -> Result<(), Failure> {
    let stored = catchment_lake::storable_schema(schema)?;
    stored.fields().iter().for_each(|field| guess.add(field.name(), Some(field.data_type().clone())));
    Ok(())
}
