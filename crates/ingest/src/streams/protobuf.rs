//! Protobuf messages of one type, described by a `.proto` file or a compiled set of descriptors.

use std::path::Path;
use std::sync::Arc;

use catchment_core::Result;
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage,
    SerializeOptions, Value,
};

use crate::files::{Cell, Column, Fitted, fit};
use crate::streams::decode::{Framing, Messages};
use crate::streams::options::invalid;

/// The deepest message within messages.
const DEEPEST: usize = 32;

/// Decodes messages of a type.
#[derive(Debug)]
pub(crate) struct ProtobufCodec {
    message: MessageDescriptor,
    schema: SchemaRef,
    framing: Framing,
}

impl ProtobufCodec {
    pub(super) fn new(file: &Path, message: Option<&str>, framing: Framing) -> Result<Self> {
        let wrong = |why: String| invalid(format!("schemaFile {}: {why}", file.display()));
        let pool = pool(file).map_err(wrong)?;
        let known = || {
            let names = pool.all_messages().map(|message| message.full_name().to_owned());
            names.filter(|name| !name.starts_with("google.protobuf.")).collect::<Vec<_>>()
        };
        let message = match message {
            Some(name) => pool.get_message_by_name(name).ok_or_else(|| {
                wrong(format!("has no message {name:?}")).hint(format!("messages: {}", known().join(", ")))
            })?,
            None => {
                return Err(invalid("format \"protobuf\" needs a messageName".to_owned())
                    .hint(format!("messages: {}", known().join(", "))));
            }
        };
        let fields = fields(&message, 0).map_err(wrong)?;
        Ok(Self { message, schema: Arc::new(Schema::new(fields)), framing })
    }
}

fn pool(file: &Path) -> Result<DescriptorPool, String> {
    if file.extension().is_some_and(|extension| extension == "proto") {
        let folder = file.parent().unwrap_or(Path::new("."));
        let set = protox::compile([file], [folder]).map_err(|error| error.to_string())?;
        return DescriptorPool::from_file_descriptor_set(set).map_err(|error| error.to_string());
    }
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    DescriptorPool::decode(bytes.as_slice()).map_err(|error| error.to_string())
}

fn fields(message: &MessageDescriptor, depth: usize) -> Result<Fields, String> {
    if depth > DEEPEST {
        return Err(format!("message {} holds itself, which no column can", message.full_name()));
    }
    message.fields().map(|field| Ok(Field::new(field.name(), type_of(&field, depth)?, true))).collect()
}

fn type_of(field: &FieldDescriptor, depth: usize) -> Result<DataType, String> {
    if field.is_map() {
        return Err(format!("field {} is a map, which is not supported yet", field.full_name()));
    }
    let item = kind_of(&field.kind(), depth + usize::from(field.is_list()))?;
    Ok(match field.is_list() {
        true => DataType::List(Arc::new(Field::new("element", item, true))),
        false => item,
    })
}

fn kind_of(kind: &Kind, depth: usize) -> Result<DataType, String> {
    Ok(match kind {
        Kind::Double => DataType::Float64,
        Kind::Float => DataType::Float32,
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => DataType::Int32,
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint32 | Kind::Fixed32 => DataType::Int64,
        Kind::Uint64 | Kind::Fixed64 => DataType::Decimal128(20, 0),
        Kind::Bool => DataType::Boolean,
        Kind::String | Kind::Enum(_) => DataType::Utf8,
        // Within lists and messages bytes are text, in base 64.
        Kind::Bytes if depth == 0 => DataType::Binary,
        Kind::Bytes => DataType::Utf8,
        Kind::Message(message) if message.full_name() == "google.protobuf.Timestamp" => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        Kind::Message(message) => DataType::Struct(fields(message, depth + 1)?),
    })
}

impl Messages for ProtobufCodec {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn rows(&self, messages: &[&[u8]]) -> Result<RecordBatch, String> {
        let told = |error: catchment_core::Error| error.to_string();
        let mut columns = self
            .schema
            .fields()
            .iter()
            .map(|field| Column::new(field.data_type(), 0).map_err(told))
            .collect::<Result<Vec<_>, _>>()?;
        for bytes in messages {
            let bytes = message_of(self.framing, bytes)?;
            let message =
                DynamicMessage::decode(self.message.clone(), bytes).map_err(|error| error.to_string())?;
            for (column, field) in columns.iter_mut().zip(self.message.fields()) {
                column.push(value_of(&message, &field, &self.schema)?);
            }
        }
        let arrays: Vec<ArrayRef> =
            columns.iter_mut().map(|column| column.finish().map_err(told)).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(messages.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| error.to_string())
    }
}

/// The message behind its frame: behind a schema's number there is a list of numbers, which tells of a message in it.
fn message_of(framing: Framing, record: &[u8]) -> Result<&[u8], String> {
    let mut rest = framing.strip(record)?;
    if framing == Framing::Confluent {
        let count = varint(&mut rest)?;
        for _ in 0..count.min(record.len() as u64) {
            varint(&mut rest)?;
        }
    }
    Ok(rest)
}

/// A number as serializers write it before a message: seven bits a byte, the lowest first; twice the number.
fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("the message ends before it begins")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    Ok(value / 2)
}

fn value_of(
    message: &DynamicMessage,
    field: &FieldDescriptor,
    schema: &Schema,
) -> Result<Fitted<'static>, String> {
    if field.supports_presence() && !message.has_field(field) {
        return Ok(Fitted::Null);
    }
    Ok(match message.get_field(field).as_ref() {
        Value::Bool(value) => Fitted::Boolean(*value),
        Value::I32(value) => Fitted::Integer((*value).into()),
        Value::I64(value) => Fitted::Integer(*value),
        Value::U32(value) => Fitted::Integer((*value).into()),
        Value::U64(value) => Fitted::Decimal((*value).into()),
        Value::F32(value) => Fitted::Float((*value).into()),
        Value::F64(value) => Fitted::Float(*value),
        Value::String(value) => Fitted::Text(value.clone().into()),
        Value::Bytes(value) => Fitted::Bytes(value.clone()),
        Value::EnumNumber(number) => Fitted::Text(match field.kind() {
            Kind::Enum(kind) => match kind.get_value(*number) {
                Some(value) => value.name().to_owned().into(),
                None => number.to_string().into(),
            },
            _ => number.to_string().into(),
        }),
        Value::Message(_) | Value::List(_) | Value::Map(_) => nested(message, field, schema)?,
    })
}

/// A value with parts, by way of the JSON that Protobuf defines for it.
fn nested(
    message: &DynamicMessage,
    field: &FieldDescriptor,
    schema: &Schema,
) -> Result<Fitted<'static>, String> {
    let mut alone = DynamicMessage::new(message.descriptor());
    alone.set_field(field, message.get_field(field).into_owned());
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(false)
        .use_proto_field_name(true)
        .skip_default_fields(false);
    let json = alone
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| error.to_string())?;
    let data_type = schema.field_with_name(field.name()).map_err(|error| error.to_string())?.data_type();
    match &json[field.name()] {
        serde_json::Value::Null => Ok(Fitted::Null),
        serde_json::Value::String(text) => fit(Cell::Text(text.clone().into()), data_type),
        value => {
            let text = value.to_string();
            let fitted = fit(Cell::Raw(&text), data_type)?;
            match fitted {
                Fitted::Array(array) => Ok(Fitted::Array(array)),
                _ => Err(format!("field {} does not fit its column", field.name())),
            }
        }
    }
}
