//! What could not be published is kept beside its dataset, in `<table>__quarantine`.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_ingest::{BrokenFile, RejectSink};
use catchment_lake::{FileWriter, TableSpec, WrittenFiles};
use datafusion::arrow::array::{
    ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};

use crate::records::BatchPlan;

/// The rule that a record breaks when it cannot be decoded.
const MALFORMED: &str = "malformed_record";

/// The rule that a file breaks when it cannot be read as a whole.
const BROKEN: &str = "broken_file";

/// What a quarantine table is declared to be. Its columns are the same for every dataset, and all
/// values are kept as text, so that any row can be stored.
#[must_use]
pub fn quarantine_spec(dataset: &catchment_core::TableName) -> TableSpec {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let schema = Schema::new(vec![
        Field::new("rules", DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))), true),
        text("reason"),
        text("file_path"),
        number("byte_offset"),
        text("record"),
        text("flow"),
        number("epoch"),
        number("batch"),
        Field::new("quarantined_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ]);
    TableSpec {
        schema: Arc::new(schema),
        partition_columns: Vec::new(),
        comment: Some(format!("what could not be published to {dataset}")),
        properties: Vec::new(),
    }
}

/// Takes rejected records off their channel and writes them, until all senders are gone.
pub(crate) async fn write_rejects(
    mut sink: RejectSink,
    mut open: impl FnMut() -> Result<FileWriter>,
    plan: BatchPlan,
) -> Result<Option<FileWriter>> {
    let mut writer = None;
    while let Some(rejects) = sink.recv().await {
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(open()?),
        };
        writer.write(&rows(&plan, MALFORMED, &rejects)?).await?;
    }
    Ok(writer)
}

/// Adds the broken files, and finishes the quarantine's data files.
pub(crate) async fn finish(
    writer: Option<FileWriter>,
    open: impl FnOnce() -> Result<FileWriter>,
    broken: &[BrokenFile],
    plan: &BatchPlan,
) -> Result<WrittenFiles> {
    let kept: Vec<&BrokenFile> = broken.iter().filter(|broken| !broken.vanished).collect();
    let mut writer = match writer {
        Some(writer) => writer,
        None if kept.is_empty() => return Ok(WrittenFiles::default()),
        None => open()?,
    };
    if !kept.is_empty() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "file_path",
                Arc::new(StringArray::from_iter_values(kept.iter().map(|broken| &broken.file.path))),
            ),
            ("byte_offset", Arc::new(Int64Array::new_null(kept.len()))),
            ("reason", Arc::new(StringArray::from_iter_values(kept.iter().map(|broken| &broken.reason)))),
            ("record", Arc::new(StringArray::new_null(kept.len()))),
        ];
        let files = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        )
        .map_err(internal)?;
        writer.write(&rows(plan, BROKEN, &files)?).await?;
    }
    writer.finish().await
}

/// Rejects as rows of the quarantine table.
fn rows(plan: &BatchPlan, rule: &str, rejects: &RecordBatch) -> Result<RecordBatch> {
    let count = rejects.num_rows();
    let column = |name: &str| {
        rejects
            .column_by_name(name)
            .cloned()
            .ok_or_else(|| Error::new(Code::INTERNAL, format!("rejects lack {name}")))
    };
    let number =
        |value: u64| Arc::new(Int64Array::from(vec![i64::try_from(value).unwrap_or(i64::MAX); count]));
    let rules = ListArray::try_new(
        Arc::new(Field::new("element", DataType::Utf8, true)),
        OffsetBuffer::from_lengths(std::iter::repeat_n(1, count)),
        Arc::new(StringArray::from(vec![rule; count])),
        None,
    )
    .map_err(internal)?;
    let offsets: Int64Array = column("byte_offset")?.as_primitive::<Int64Type>().clone();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rules),
        column("reason")?,
        column("file_path")?,
        Arc::new(offsets),
        column("record")?,
        Arc::new(StringArray::from(vec![plan.flow.as_str(); count])),
        number(u64::from(plan.position.epoch)),
        number(plan.position.number),
        Arc::new(TimestampMicrosecondArray::from(vec![plan.planned_at; count]).with_timezone("UTC")),
    ];
    let dataset = catchment_core::TableName::new("", "");
    RecordBatch::try_new(quarantine_spec(&dataset).schema, columns).map_err(internal)
}

fn internal(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::new(Code::INTERNAL, "could not write to quarantine").because(error)
}
