//! Parquet files, columns matched by name.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use catchment_core::Result;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use crate::files::reader::Failure;
use crate::types::sql_name;

/// The columns of a file.
pub(crate) fn columns(path: &Path) -> Result<SchemaRef, Failure> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)
        .map_err(|error| Failure::Broken(error.to_string()))?;
    Ok(Arc::clone(builder.schema()))
}

/// Opens one row group of a file; `rows` is the size of its record batches. Columns that `schema` does not
/// name are left out.
pub(crate) fn row_group(
    path: &Path,
    metadata: ArrowReaderMetadata,
    group: usize,
    rows: usize,
    schema: &Schema,
) -> Result<ParquetRecordBatchReader, Failure> {
    let columns = metadata.schema().fields().iter().enumerate();
    let wanted = columns.filter(|(_, field)| schema.index_of(field.name()).is_ok()).map(|(index, _)| index);
    let mask = ProjectionMask::roots(metadata.parquet_schema(), wanted);
    ParquetRecordBatchReaderBuilder::new_with_metadata(File::open(path)?, metadata)
        .with_projection(mask)
        .with_row_groups(vec![group])
        .with_batch_size(rows)
        .build()
        .map_err(|error| Failure::Broken(error.to_string()))
}

/// The columns of a schema from rows of a file, and what else the rows hold as JSON.
pub(crate) fn fit_rows(
    rows: &RecordBatch,
    schema: &SchemaRef,
    rescue: bool,
) -> Result<(Vec<ArrayRef>, Option<StringArray>), Failure> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(match rows.column_by_name(field.name()) {
            None => new_null_array(field.data_type(), rows.num_rows()),
            Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
            Some(column) if loses_digits(column.data_type(), field.data_type()) => {
                return Err(Failure::Broken(format!(
                    "column \"{}\" is {} in the file and {} in the schema",
                    field.name(),
                    sql_name(column.data_type()),
                    sql_name(field.data_type())
                )));
            }
            Some(column) => cast_with_options(column, field.data_type(), &options)
                .map_err(|error| Failure::Broken(format!("column \"{}\": {error}", field.name())))?,
        });
    }
    let rescued = if rescue { rescued(rows, schema)? } else { None };
    Ok((columns, rescued))
}

/// Casts that the kernel would make by rounding, or between kinds that have nothing in common.
fn loses_digits(from: &DataType, to: &DataType) -> bool {
    let plain = |kind: &DataType| match kind {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    };
    let is_text =
        |kind: &DataType| matches!(plain(kind), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    (from.is_floating() && to.is_integer())
        || (from.is_decimal() && (to.is_integer() || to.is_floating()))
        || (is_text(from) != is_text(to))
        || (from.is_nested() != to.is_nested())
}

fn rescued(rows: &RecordBatch, schema: &SchemaRef) -> Result<Option<StringArray>, Failure> {
    let file = rows.schema();
    let extra: Vec<usize> = file
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| schema.index_of(field.name()).is_err())
        .map(|(index, _)| index)
        .collect();
    if extra.is_empty() || rows.num_rows() == 0 {
        return Ok(None);
    }
    let broken = |error: datafusion::arrow::error::ArrowError| Failure::Broken(error.to_string());
    let kept = rows.project(&extra).map_err(broken)?;
    let mut writer = datafusion::arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(&kept).and_then(|()| writer.finish()).map_err(broken)?;
    let text = String::from_utf8_lossy(&writer.into_inner()).into_owned();
    // Rows of nulls alone have nothing to rescue.
    Ok(Some(text.lines().map(|line| (line != "{}").then_some(line)).collect()))
}
