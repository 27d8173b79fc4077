//! What is known of a record besides what it holds: the hidden column `_metadata`.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::{
    ArrayRef, Int32Array, Int64Array, StringArray, StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use crate::streams::feed::FeedRecord;

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn time(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true)
}

/// Of a record of a shard.
pub(crate) fn of_shards() -> Fields {
    Fields::from(vec![
        text("stream"),
        text("shard_id"),
        text("sequence_number"),
        text("partition_key"),
        time("arrived_at"),
    ])
}

/// Of a record of a topic.
pub(crate) fn of_topics() -> Fields {
    Fields::from(vec![
        text("topic"),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        text("key"),
        time("timestamp"),
    ])
}

fn texts(value: &str, count: usize) -> ArrayRef {
    Arc::new(StringArray::from(vec![value; count]))
}

fn keys(records: &[&FeedRecord]) -> ArrayRef {
    Arc::new(records.iter().map(|record| record.key.as_deref()).collect::<StringArray>())
}

fn times(records: &[&FeedRecord]) -> ArrayRef {
    let times: TimestampMicrosecondArray =
        records.iter().map(|record| record.arrived.checked_mul(1_000)).collect();
    Arc::new(times.with_timezone("UTC"))
}

/// Columns of [`of_shards`].
pub(crate) fn shard_columns(
    stream: &str,
    shard: &str,
    sequences: Vec<String>,
    records: &[&FeedRecord],
) -> Vec<ArrayRef> {
    let count = records.len();
    vec![
        texts(stream, count),
        texts(shard, count),
        Arc::new(StringArray::from(sequences)),
        keys(records),
        times(records),
    ]
}

/// Columns of [`of_topics`].
pub(crate) fn topic_columns(topic: &str, partition: i32, records: &[&FeedRecord]) -> Vec<ArrayRef> {
    let offsets = records.iter().map(|record| record.ordinal.and_then(|offset| i64::try_from(offset).ok()));
    vec![
        texts(topic, records.len()),
        Arc::new(Int32Array::from(vec![partition; records.len()])),
        Arc::new(offsets.collect::<Int64Array>()),
        keys(records),
        times(records),
    ]
}

/// The column of these parts.
pub(crate) fn column(fields: Fields, parts: Vec<ArrayRef>) -> Result<ArrayRef> {
    StructArray::try_new(fields, parts, None)
        .map(|column| Arc::new(column) as ArrayRef)
        .map_err(|error| Error::new(Code::INTERNAL, "could not describe a record").because(error))
}

/// What is known of records in quarantine from their places, `stream/partition/number`: key and time are not. `None`
/// when these are not the fields of a stream.
pub(crate) fn of_places<'a>(
    fields: &Fields,
    places: impl Iterator<Item = &'a str>,
) -> Option<Result<ArrayRef>> {
    let is_topic = *fields == of_topics();
    if !is_topic && *fields != of_shards() {
        return None;
    }
    let parts: Vec<Vec<&str>> = places.map(|place| place.splitn(3, '/').collect()).collect();
    let part = |index: usize| parts.iter().map(move |parts| parts.get(index).copied());
    let text = |index: usize| -> ArrayRef { Arc::new(part(index).collect::<StringArray>()) };
    let columns: [ArrayRef; 3] = if is_topic {
        let numbers = |index| part(index).map(|part| part.and_then(|part| part.parse().ok()));
        let partitions: Int32Array =
            numbers(1).map(|number: Option<i64>| number.and_then(|n| i32::try_from(n).ok())).collect();
        [text(0), Arc::new(partitions), Arc::new(numbers(2).collect::<Int64Array>())]
    } else {
        [text(0), text(1), text(2)]
    };
    let none: ArrayRef = Arc::new(StringArray::new_null(parts.len()));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::new_null(parts.len()).with_timezone("UTC"));
    Some(column(fields.clone(), columns.into_iter().chain([none, times]).collect()))
}
