//! The options of `read_files`.

use std::path::{Path, PathBuf};

use catchment_core::{Code, Error, Result, parse_bytes};
use catchment_sql::{Argument, SqlText, nearest};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::source::Limits;
use crate::types::parse_schema;

/// Files taken by one batch unless `maxFilesPerTrigger` says otherwise.
const FILES_PER_BATCH: usize = 1_000;

/// Bytes taken by one batch unless `maxBytesPerTrigger` says otherwise.
const BYTES_PER_BATCH: u64 = 8 << 30;

/// What a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// One JSON object a line.
    Json,
    /// Comma-separated values.
    Csv,
    /// Apache Parquet.
    Parquet,
}

/// A call of `read_files`, checked.
#[derive(Debug, Clone)]
pub struct ReadFiles {
    /// The path as written, for people.
    pub path: String,
    /// The folder that relative paths of the project start from.
    pub project: PathBuf,
    /// The format; by default the files' extension tells.
    pub format: Option<FileFormat>,
    /// Columns as declared; by default they are inferred.
    pub schema: Option<SchemaRef>,
    /// Whether the first line of a CSV file names the columns.
    pub header: bool,
    /// What separates the fields of a CSV line.
    pub delimiter: u8,
    /// The column that takes what does not fit the schema.
    pub rescue: Option<String>,
    /// Whether a file that changed after it was read is read again.
    pub allow_overwrites: bool,
    /// How many files the schema is inferred from.
    pub sample_files: usize,
    /// Whether types are inferred, or every column is text.
    pub infer_types: bool,
    /// How much one batch takes.
    pub limits: Limits,
}

/// Options of the reference that are known and not there yet.
const NOT_YET: &[&str] = &[
    "schemaHints",
    "schemaEvolutionMode",
    "schemaLocation",
    "multiLine",
    "mergeSchema",
    "useNotifications",
    "useManagedFileEvents",
    "queueUrl",
    "region",
    "backfillInterval",
    "pathGlobFilter",
    "modifiedAfter",
    "modifiedBefore",
    "partitionColumns",
    "cleanSource",
    "includeExistingFiles",
];

/// Options that work.
const KNOWN: &[&str] = &[
    "format",
    "schema",
    "header",
    "delimiter",
    "sep",
    "rescuedDataColumn",
    "allowOverwrites",
    "schemaInferenceSampleSize",
    "inferColumnTypes",
    "maxFilesPerTrigger",
    "maxBytesPerTrigger",
];

impl ReadFiles {
    /// Reads the arguments of a call; relative paths start from `project`.
    ///
    /// # Errors
    /// Returns [`Code::OPTION_INVALID`] or [`Code::NOT_SUPPORTED`] for each option that is wrong, with its place.
    pub fn parse(arguments: &[Argument], project: &Path, text: &SqlText, span: Span) -> Result<Self> {
        let mut errors = Vec::new();
        let mut path = None;
        let mut call = Self {
            path: String::new(),
            project: project.to_path_buf(),
            format: None,
            schema: None,
            header: true,
            delimiter: b',',
            rescue: None,
            allow_overwrites: false,
            sample_files: 50,
            infer_types: true,
            limits: Limits { files: FILES_PER_BATCH, bytes: BYTES_PER_BATCH },
        };
        for argument in arguments {
            let done = match &argument.name {
                None if path.is_none() => {
                    path = Some(argument.value.clone());
                    Ok(())
                }
                None => Err(invalid("read_files takes one path".to_owned())),
                Some(name) => call.set(name, &argument.value),
            };
            if let Err(error) = done {
                errors.push(error.at(text.place(argument.span)));
            }
        }
        match path {
            Some(path) if !path.is_empty() => call.path = path,
            _ => errors.push(invalid("read_files needs a path".to_owned()).at(text.place(span))),
        }
        Error::join(errors)?;
        if call.schema.is_none() && call.rescue.is_none() {
            // A schema that was guessed may be wrong: what does not fit it is kept.
            call.rescue = Some("_rescued_data".to_owned());
        }
        Ok(call)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let known = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(name));
        match known.copied() {
            Some("format") => self.format = Some(format_of(value)?),
            Some("schema") => self.schema = Some(parse_schema(value)?),
            Some("header") => self.header = boolean(name, value)?,
            Some("delimiter" | "sep") => self.delimiter = one_byte(name, value)?,
            Some("rescuedDataColumn") => self.rescue = Some(value.to_owned()),
            Some("allowOverwrites") => self.allow_overwrites = boolean(name, value)?,
            Some("inferColumnTypes") => self.infer_types = boolean(name, value)?,
            Some("schemaInferenceSampleSize") => self.sample_files = count(name, value)?,
            Some("maxFilesPerTrigger") => self.limits.files = count(name, value)?,
            Some("maxBytesPerTrigger") => {
                self.limits.bytes = parse_bytes(value).filter(|bytes| *bytes > 0).ok_or_else(|| {
                    invalid(format!("option \"{name}\" is {value:?}, not a size such as '512MB'"))
                })?;
            }
            _ if NOT_YET.iter().any(|known| known.eq_ignore_ascii_case(name)) => {
                return Err(Error::new(
                    Code::NOT_SUPPORTED,
                    format!("option \"{name}\" of read_files is not supported yet"),
                ));
            }
            _ => {
                let error = invalid(format!("read_files has no option \"{name}\""));
                return Err(match nearest(name, KNOWN) {
                    Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                    None => error.hint(format!("options: {}", KNOWN.join(", "))),
                });
            }
        }
        Ok(())
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::OPTION_INVALID, message)
}

fn format_of(value: &str) -> Result<FileFormat> {
    match value.to_lowercase().as_str() {
        "json" | "jsonl" | "ndjson" => Ok(FileFormat::Json),
        "csv" => Ok(FileFormat::Csv),
        "parquet" => Ok(FileFormat::Parquet),
        "avro" | "text" | "xml" | "orc" | "binaryfile" => {
            Err(Error::new(Code::NOT_SUPPORTED, format!("format {value:?} is not supported yet")))
        }
        _ => Err(invalid(format!("no format {value:?}")).hint("formats: json, csv, parquet")),
    }
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    value
        .to_lowercase()
        .parse()
        .map_err(|_| invalid(format!("option \"{name}\" is {value:?}, not true or false")))
}

fn count(name: &str, value: &str) -> Result<usize> {
    match value.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(invalid(format!("option \"{name}\" is {value:?}, not a count of at least 1"))),
    }
}

fn one_byte(name: &str, value: &str) -> Result<u8> {
    match value {
        "\\t" => Ok(b'\t'),
        _ if value.len() == 1 && value.is_ascii() => Ok(value.as_bytes()[0]),
        _ => Err(invalid(format!("option \"{name}\" is {value:?}, not one ASCII character"))),
    }
}
