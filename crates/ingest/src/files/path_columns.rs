//! Columns whose values stand in the folders of a file's path: `day=2024-01-31/part.json`, as Hive names them.

use std::borrow::Cow;
use std::sync::Arc;

use catchment_core::Result;
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use percent_encoding::percent_decode_str;

use crate::files::FileInfo;
use crate::files::cells::{Cell, Column, Fitted, fit};
use crate::files::infer::{join, text_type};
use crate::files::reader::Failure;

/// How Hive writes that a value is null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Parts columns into those read from files and those read from their paths, which are text unless a type is given.
pub(crate) fn split(columns: &Schema, names: &[String]) -> (SchemaRef, SchemaRef) {
    let read = columns.fields().iter().filter(|field| !names.contains(field.name())).cloned();
    let from_path = names.iter().map(|name| match columns.field_with_name(name) {
        Ok(field) => field.clone(),
        Err(_) => Field::new(name, DataType::Utf8, true),
    });
    (Arc::new(Schema::new(read.collect::<Vec<_>>())), Arc::new(Schema::new(from_path.collect::<Vec<_>>())))
}

/// The narrowest type for each of the named columns that holds its values in all paths.
pub(crate) fn infer(names: &[String], files: &[FileInfo], typed: bool) -> Vec<Field> {
    names
        .iter()
        .map(|name| {
            let values = files.iter().filter_map(|file| value(&file.path, name));
            // Months and days are written with leading zeros, which codes in files are not numbers with.
            let number = |value: &str| value.parse::<i64>().is_ok().then_some(DataType::Int64);
            let found = values.filter_map(|value| number(&value).or_else(|| text_type(&value))).reduce(join);
            Field::new(name, found.filter(|_| typed).unwrap_or(DataType::Utf8), true)
        })
        .collect()
}

/// The values of the columns in one path, `rows` times each.
pub(crate) fn repeated(columns: &Schema, path: &str, rows: usize) -> Result<Vec<ArrayRef>, Failure> {
    let mut arrays = Vec::new();
    for field in columns.fields() {
        let mut column = Column::new(field.data_type(), 0)?;
        let text = value(path, field.name());
        for _ in 0..rows {
            column.push(fitted(text.as_deref(), field).map_err(Failure::Broken)?);
        }
        arrays.push(column.finish()?);
    }
    Ok(arrays)
}

/// Adds the values of the columns in one path.
///
/// # Errors
/// Says why a value does not fit; nothing was added then.
pub(crate) fn push(columns: &Schema, path: &str, to: &mut [Column]) -> Result<(), String> {
    let texts: Vec<_> = columns.fields().iter().map(|field| value(path, field.name())).collect();
    let fields = || columns.fields().iter().zip(&texts);
    let values =
        fields().map(|(field, text)| fitted(text.as_deref(), field)).collect::<Result<Vec<_>, _>>()?;
    to.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
    Ok(())
}

fn fitted<'a>(text: Option<&'a str>, field: &Field) -> Result<Fitted<'a>, String> {
    let cell = text.map_or(Cell::Null, Cell::Untyped);
    fit(cell, field.data_type()).map_err(|why| format!("column \"{}\" in the path: {why}", field.name()))
}

/// The value of a column in a path; the last folder that names it counts.
fn value<'p>(path: &'p str, name: &str) -> Option<Cow<'p, str>> {
    let (folders, _) = path.rsplit_once('/')?;
    let found = folders.rsplit('/').find_map(|folder| {
        let (key, value) = folder.split_once('=')?;
        (percent_decode_str(key).decode_utf8_lossy() == name).then_some(value)
    })?;
    (found != NULL).then(|| percent_decode_str(found).decode_utf8_lossy())
}
