//! What records of streams hold, and how that becomes columns.

use std::path::PathBuf;
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use datafusion::arrow::compute::{concat_batches, take};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;

use crate::files::{Column, Failure, Fitted, JsonReader, Line, fit_rows, readable};
use crate::records::json_lines;
use crate::streams::avro::AvroCodec;
use crate::streams::options::invalid;
use crate::streams::protobuf::ProtobufCodec;
use crate::streams::schema::RecordSchema;

/// How records become rows.
#[derive(Debug)]
pub(crate) enum Codec {
    /// One JSON object each, held to a schema when there is one.
    Json(Option<Arc<RecordSchema>>),
    /// Their text as the one column.
    Text,
    /// Avro of one schema.
    Avro(AvroCodec),
    /// A Protobuf message of one type.
    Protobuf(ProtobufCodec),
}

/// What is said of a format besides its name.
#[derive(Debug, Default)]
pub(crate) struct MessageOptions {
    /// The file with the schema of messages.
    pub(crate) file: Option<PathBuf>,
    /// Which message of it.
    pub(crate) message: Option<String>,
    /// What stands before a message.
    pub(crate) framing: Option<String>,
    /// What JSON is held to.
    pub(crate) held_to: Option<Arc<RecordSchema>>,
}

/// Rows of some records, and what is wrong with the others.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// The columns of the rows.
    pub(crate) columns: Vec<ArrayRef>,
    /// Of each row, what has no column.
    pub(crate) rescued: Vec<Option<String>>,
    /// Of each row, the index of its record.
    pub(crate) kept: Vec<usize>,
    /// Records that are no rows, by their indexes, and why.
    pub(crate) rejected: Vec<(usize, String)>,
}

/// The rows of whole messages, or why there are none.
pub(super) trait Messages {
    /// The columns of a message.
    fn schema(&self) -> &SchemaRef;

    /// Decodes messages; fails when one of them cannot be.
    fn rows(&self, messages: &[&[u8]]) -> Result<RecordBatch, String>;
}

impl Codec {
    /// Makes what decodes a format, with the columns that it gives.
    pub(crate) fn new(
        format: &str,
        schema: Option<SchemaRef>,
        MessageOptions { file, message, framing, held_to }: MessageOptions,
    ) -> Result<(Self, SchemaRef)> {
        let format = format.to_lowercase();
        if held_to.is_some() && format != "json" {
            return Err(invalid(format!("format {format:?} takes no jsonSchema")));
        }
        let (file, message) = (file.as_deref(), message.as_deref());
        let has_file = matches!(format.as_str(), "avro" | "protobuf");
        if !has_file && (file.is_some() || message.is_some() || framing.is_some()) {
            return Err(invalid(format!("format {format:?} takes no schemaFile, messageName or framing")));
        }
        let framing = Framing::parse(framing.as_deref())?;
        let codec = match (format.as_str(), file) {
            ("json", _) => {
                let schema = schema.ok_or_else(|| {
                    invalid("a stream of JSON needs a schema".to_owned())
                        .hint("schema => 'id BIGINT, name STRING', or format => 'text'")
                })?;
                return Ok((Self::Json(held_to), schema));
            }
            ("text", _) if schema.is_some() => {
                return Err(invalid("text has the one column \"value\", and no schema".to_owned()));
            }
            ("text", _) => {
                let value = Field::new("value", DataType::Utf8, true);
                return Ok((Self::Text, Arc::new(Schema::new(vec![value]))));
            }
            ("avro" | "protobuf", None) => {
                return Err(invalid(format!("format {format:?} needs a file with its schema"))
                    .hint("schemaFile => 'schemas/click.avsc', or 'schemas/click.proto' with messageName => 'shop.Click'"));
            }
            ("avro", Some(file)) => Self::Avro(AvroCodec::new(file, framing)?),
            ("protobuf", Some(file)) => Self::Protobuf(ProtobufCodec::new(file, message, framing)?),
            _ => {
                return Err(invalid(format!("no format {format:?}"))
                    .hint("formats of a stream: json, text, avro, protobuf"));
            }
        };
        let natural =
            codec.messages().map(Messages::schema).cloned().unwrap_or_else(|| Arc::new(Schema::empty()));
        let columns = match schema {
            Some(schema) => {
                let unknown = schema.fields().iter().find(|field| natural.index_of(field.name()).is_err());
                if let Some(field) = unknown {
                    return Err(invalid(format!("the messages have no field \"{}\"", field.name())));
                }
                schema
            }
            None => catchment_lake::storable_schema(&natural)?,
        };
        Ok((codec, columns))
    }

    fn messages(&self) -> Option<&dyn Messages> {
        match self {
            Self::Json(_) | Self::Text => None,
            Self::Avro(codec) => Some(codec),
            Self::Protobuf(codec) => Some(codec),
        }
    }

    /// What JSON is held to.
    pub(crate) fn schema(&self) -> Option<Arc<RecordSchema>> {
        match self {
            Self::Json(schema) => schema.clone(),
            _ => None,
        }
    }

    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Self::Text)
    }

    /// Decodes records into rows of `columns`; what has no column is kept with `rescue`. One that holds nothing is a row of
    /// nulls.
    pub(crate) fn decode(
        &self,
        columns: &SchemaRef,
        rescue: bool,
        records: &[Option<&[u8]>],
    ) -> Result<Decoded> {
        match self.messages() {
            Some(messages) => decode_messages(messages, columns, rescue, records),
            None => self.decode_text(columns, rescue, records),
        }
    }

    fn decode_text(&self, columns: &SchemaRef, rescue: bool, records: &[Option<&[u8]>]) -> Result<Decoded> {
        let json = JsonReader::new(columns, rescue);
        let mut building = columns
            .fields()
            .iter()
            .map(|field| Column::new(field.data_type(), 0))
            .collect::<Result<Vec<_>>>()?;
        let mut decoded = Decoded::default();
        for (index, record) in records.iter().enumerate() {
            let mut values: Vec<Fitted<'_>> = Vec::new();
            let line = match (self, record) {
                (_, None) => {
                    values.extend(columns.fields().iter().map(|_| Fitted::Null));
                    Line::Row(None)
                }
                (Self::Text, Some(record)) => match simdutf8::basic::from_utf8(record) {
                    Ok(text) => {
                        values.push(Fitted::Text(text.into()));
                        Line::Row(None)
                    }
                    Err(_) => Line::Malformed("invalid UTF-8".to_owned()),
                },
                (Self::Json(Some(schema)), Some(record)) => match schema.fault(record) {
                    None => json.read(record, &mut values),
                    Some(reason) => Line::Malformed(reason),
                },
                (_, Some(record)) => json.read(record, &mut values),
            };
            match line {
                Line::Row(rest) => {
                    building.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
                    decoded.rescued.push(rest);
                    decoded.kept.push(index);
                }
                Line::New(names) => {
                    decoded.rejected.push((index, format!("no columns: {}", names.join(", "))));
                }
                Line::Malformed(reason) => decoded.rejected.push((index, reason)),
            }
        }
        decoded.columns = building.iter_mut().map(Column::finish).collect::<Result<_>>()?;
        Ok(decoded)
    }

    /// A record as quarantine keeps it: as it is when it is text, else as a JSON object when it can be decoded.
    pub(crate) fn text_of(&self, columns: &SchemaRef, record: Option<&[u8]>) -> String {
        let Some(record) = record else { return "null".to_owned() };
        let Some(messages) = self.messages() else { return readable(record) };
        let line = one(messages, columns, &[record]).ok().and_then(|rows| json_lines(&rows).ok()?.pop());
        line.unwrap_or_else(|| readable(record))
    }
}

/// The rows of messages in the columns wanted, or why there are none.
fn one(messages: &dyn Messages, columns: &SchemaRef, records: &[&[u8]]) -> Result<RecordBatch, String> {
    let told = |failure: Failure| match failure {
        Failure::Broken(why) => why,
        Failure::Vanished => "it is gone".to_owned(),
        Failure::Ours(error) => error.to_string(),
    };
    let rows = messages.rows(records)?;
    let (arrays, _) = fit_rows(&rows, columns, false).map_err(told)?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), arrays, &options)
        .map_err(|error| error.to_string())
}

/// Decodes all at once; what fails is halved until those that are at fault are found.
fn decode_messages(
    messages: &dyn Messages,
    columns: &SchemaRef,
    rescue: bool,
    records: &[Option<&[u8]>],
) -> Result<Decoded> {
    let failed =
        |error: ArrowError| Error::new(Code::INTERNAL, "could not join rows of messages").because(error);
    let mut decoded = Decoded::default();
    let (indexes, given): (Vec<usize>, Vec<&[u8]>) =
        records.iter().enumerate().filter_map(|(index, record)| Some((index, (*record)?))).unzip();
    let (mut parts, mut found): (Vec<RecordBatch>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut todo = Vec::from_iter(std::iter::once(0..given.len()));
    while let Some(range) = todo.pop().filter(|range| !range.is_empty()) {
        match one(messages, columns, &given[range.clone()]) {
            Ok(rows) => {
                found.extend(&indexes[range]);
                parts.push(rows);
            }
            Err(reason) if range.len() == 1 => decoded.rejected.push((indexes[range.start], reason)),
            Err(_) => {
                let middle = range.start + range.len() / 2;
                todo.push(middle..range.end);
                todo.push(range.start..middle);
            }
        }
    }
    // Rows of nulls stand where records held nothing.
    let mut rows =
        (0..).zip(found).map(|(row, index)| (index, Some(row))).collect::<Vec<(usize, Option<u64>)>>();
    rows.extend(
        records.iter().enumerate().filter(|(_, record)| record.is_none()).map(|(index, _)| (index, None)),
    );
    rows.sort_unstable_by_key(|(index, _)| *index);
    let places: UInt64Array = rows.iter().map(|(_, row)| *row).collect();
    let all = concat_batches(columns, &parts).map_err(failed)?;
    decoded.columns = all
        .columns()
        .iter()
        .map(|column| take(column, &places, None))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    decoded.kept = rows.into_iter().map(|(index, _)| index).collect();
    // Whatever a message has is a column of its schema: what is left out was left out by choice.
    decoded.rescued = if rescue { vec![None; decoded.kept.len()] } else { Vec::new() };
    Ok(decoded)
}

/// What stands before a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing.
    None,
    /// What serializers of a schema registry write: a zero byte, the schema's number, and for Protobuf which message
    /// of the schema it is.
    Confluent,
}

impl Framing {
    fn parse(value: Option<&str>) -> Result<Self> {
        match value.map(str::to_lowercase).as_deref() {
            None | Some("none") => Ok(Self::None),
            Some("confluent") => Ok(Self::Confluent),
            Some(other) => Err(invalid(format!("no framing {other:?}")).hint("framings: none, confluent")),
        }
    }

    /// The message behind what stands before it.
    pub(super) fn strip(self, record: &[u8]) -> Result<&[u8], String> {
        match (self, record) {
            (Self::None, _) => Ok(record),
            (Self::Confluent, [0, _, _, _, _, message @ ..]) => Ok(message),
            (Self::Confluent, _) => Err("no zero byte and number of a schema before the message".to_owned()),
        }
    }
}
