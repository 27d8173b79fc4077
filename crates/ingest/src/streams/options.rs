//! The options of `read_stream`.

use catchment_core::{Code, Error, Result, parse_bytes};
use catchment_log::StreamName;
use catchment_sql::{Argument, SqlText, nearest};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::tokenizer::Span;
use std::sync::Arc;

use crate::files::FileFormat;
use crate::source::Limits;
use crate::types::parse_schema;

/// Bytes taken by one batch unless `maxBytesPerTrigger` says otherwise: what a batch of Firehose holds.
const BYTES_PER_BATCH: u64 = 128 << 20;

/// Where a flow begins that has read nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialPosition {
    /// With the oldest record that the stream keeps.
    Earliest,
    /// With the next record that comes.
    Latest,
}

/// A call of `read_stream`, checked.
#[derive(Debug, Clone)]
pub struct ReadStream {
    /// The stream.
    pub stream: StreamName,
    /// What a record is: JSON, or text.
    pub(crate) format: FileFormat,
    /// Columns of records.
    pub(crate) columns: SchemaRef,
    /// The column that takes what does not fit the schema.
    pub(crate) rescue: Option<String>,
    /// Where a flow begins.
    pub(crate) initial: InitialPosition,
    /// Whether records that are gone before they were read are an error.
    pub(crate) fails_on_loss: bool,
    /// How much one batch takes.
    pub limits: Limits,
}

/// Options that work.
const KNOWN: &[&str] =
    &["format", "schema", "rescuedDataColumn", "initialPosition", "failOnDataLoss", "maxBytesPerTrigger"];

impl ReadStream {
    /// What people know the source by; not the path of a file.
    #[must_use]
    pub fn name(&self) -> String {
        format!("stream:{}", self.stream)
    }

    /// Reads the arguments of a call.
    ///
    /// # Errors
    /// Returns [`Code::OPTION_INVALID`] or [`Code::NOT_SUPPORTED`] for each option that is wrong, with its place.
    pub fn parse(arguments: &[Argument], text: &SqlText, span: Span) -> Result<Self> {
        let mut errors = Vec::new();
        let (mut stream, mut format, mut schema) = (None, None, None);
        let mut call = Self {
            stream: StreamName::new("s")?,
            format: FileFormat::Json,
            columns: Arc::new(Schema::empty()),
            rescue: None,
            initial: InitialPosition::Earliest,
            fails_on_loss: true,
            limits: Limits { files: usize::MAX, bytes: BYTES_PER_BATCH },
        };
        for argument in arguments {
            let value = argument.value.as_str();
            let known = argument
                .name
                .as_deref()
                .map(|name| KNOWN.iter().find(|known| known.eq_ignore_ascii_case(name)).copied().ok_or(name));
            let done = match known {
                None if stream.is_none() => StreamName::new(value).map(|name| stream = Some(name)),
                None => Err(invalid("read_stream takes one name".to_owned())),
                Some(Ok("format")) => format_of(value).map(|known| format = Some(known)),
                Some(Ok("schema")) => parse_schema(value).map(|columns| schema = Some(columns)),
                Some(Ok("rescuedDataColumn")) => {
                    call.rescue = Some(value.to_owned());
                    Ok(())
                }
                Some(Ok("initialPosition")) => initial_of(value).map(|initial| call.initial = initial),
                Some(Ok("failOnDataLoss")) => {
                    value.to_lowercase().parse().map(|fails| call.fails_on_loss = fails).map_err(|_| {
                        invalid(format!("option \"failOnDataLoss\" is {value:?}, not true or false"))
                    })
                }
                Some(Ok(_)) => parse_bytes(value)
                    .filter(|bytes| *bytes > 0)
                    .map(|bytes| call.limits.bytes = bytes)
                    .ok_or_else(|| {
                        invalid(format!(
                            "option \"maxBytesPerTrigger\" is {value:?}, not a size such as '64MB'"
                        ))
                    }),
                Some(Err(name)) => {
                    let error = invalid(format!("read_stream has no option \"{name}\""));
                    Err(match nearest(name, KNOWN) {
                        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                        None => error.hint(format!("options: {}", KNOWN.join(", "))),
                    })
                }
            };
            if let Err(error) = done {
                errors.push(error.at(text.place(argument.span)));
            }
        }
        let here = |error: Error| error.at(text.place(span));
        match stream {
            Some(stream) => call.stream = stream,
            None if errors.is_empty() => {
                errors.push(here(invalid("read_stream needs the name of a stream".to_owned())))
            }
            None => {}
        }
        Error::join(errors)?;
        call.format = format.unwrap_or(FileFormat::Json);
        call.columns = match (call.format, schema) {
            (FileFormat::Text, None) => {
                Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, true)]))
            }
            (FileFormat::Text, Some(_)) => {
                return Err(here(invalid("text has the one column \"value\", and no schema".to_owned())));
            }
            (_, Some(schema)) => schema,
            (_, None) => {
                return Err(here(
                    invalid("read_stream needs a schema for JSON".to_owned())
                        .hint("schema => 'id BIGINT, name STRING', or format => 'text'"),
                ));
            }
        };
        Ok(call)
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::OPTION_INVALID, message)
}

fn format_of(value: &str) -> Result<FileFormat> {
    match value.to_lowercase().as_str() {
        "json" => Ok(FileFormat::Json),
        "text" => Ok(FileFormat::Text),
        "avro" | "protobuf" => {
            Err(Error::new(Code::NOT_SUPPORTED, format!("format {value:?} of a stream is not supported yet")))
        }
        _ => Err(invalid(format!("no format {value:?}")).hint("formats of a stream: json, text")),
    }
}

fn initial_of(value: &str) -> Result<InitialPosition> {
    match value.to_lowercase().as_str() {
        "earliest" | "trim_horizon" => Ok(InitialPosition::Earliest),
        "latest" => Ok(InitialPosition::Latest),
        "at_timestamp" => {
            Err(Error::new(Code::NOT_SUPPORTED, "initialPosition => 'at_timestamp' is not supported yet")
                .hint("begin with 'earliest' and filter by _metadata.arrived_at"))
        }
        _ => Err(invalid(format!("no initial position {value:?}")).hint("positions: earliest, latest")),
    }
}
