//! JSON lines: one object a line, strictly.
//!
//! The values of a line are read first and fitted to their columns, and only then added, so that a
//! bad line leaves no trace in the columns. Duplicate names take the last value.

use std::borrow::Cow;

use catchment_core::Result;
use datafusion::arrow::datatypes::Schema;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::files::cells::{Cell, Fitted, fit, needs_raw};
use crate::files::quick::QuickReader;
use crate::files::reader::Failure;
use crate::files::scan::is_reserved;

/// What became of a record.
pub(crate) enum Line {
    /// Its values were added, one per column; here are the fields that have no place there.
    Row(Option<String>),
    /// It has none, for this reason.
    Malformed(String),
    /// It has fields with these names that have no column, which is not to be.
    New(Vec<String>),
}

/// The records of a file that holds one value, or nothing: the items of an array, or the value itself; each
/// with its offset in the text.
pub(crate) fn json_records(text: &str) -> Result<Vec<(u64, &[u8])>, Failure> {
    let broken = |error: serde_json::Error| Failure::Broken(format!("invalid JSON: {error}"));
    let unmarked = text.strip_prefix('\u{feff}').unwrap_or(text);
    if unmarked.trim().is_empty() {
        return Ok(Vec::new());
    }
    let value: &RawValue = serde_json::from_str(unmarked).map_err(broken)?;
    let items: Vec<&RawValue> = match value.get().starts_with('[') {
        true => serde_json::from_str(value.get()).map_err(broken)?,
        false => vec![value],
    };
    // Raw values are parts of the text.
    let offset = |item: &RawValue| (item.get().as_ptr() as usize - text.as_ptr() as usize) as u64;
    Ok(items.into_iter().map(|item| (offset(item), item.get().as_bytes())).collect())
}

/// Reads lines into values of a schema's columns.
pub(crate) struct JsonReader<'s> {
    schema: &'s Schema,
    raw: Vec<bool>,
    rescue: bool,
    fails_on_new: bool,
    quick: QuickReader,
}

impl<'s> JsonReader<'s> {
    pub(crate) fn new(schema: &'s Schema, rescue: bool) -> Self {
        let raw = schema.fields().iter().map(|field| needs_raw(field.data_type())).collect();
        Self { schema, raw, rescue, fails_on_new: false, quick: QuickReader::new(schema) }
    }

    /// Tells of fields that have no column instead of leaving them out.
    pub(crate) fn failing_on_new(self, fails_on_new: bool) -> Self {
        Self { fails_on_new, ..self }
    }

    /// Reads one line, and adds its values to `values`, which is empty before.
    pub(crate) fn read<'a>(&self, line: &'a [u8], values: &mut Vec<Fitted<'a>>) -> Line {
        let text = match simdutf8::compat::from_utf8(line) {
            Ok(text) => text,
            Err(error) => {
                return Line::Malformed(format!(
                    "invalid UTF-8 at byte {} of the record",
                    error.valid_up_to()
                ));
            }
        };
        if self.quick.read(text, values) {
            return Line::Row(None);
        }
        values.clear();
        self.read_any(text, values)
    }

    /// Reads one line, whatever it looks like.
    pub(crate) fn read_any<'a>(&self, text: &'a str, values: &mut Vec<Fitted<'a>>) -> Line {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let seed = Row { reader: self, unknown: false };
        let (cells, unknown) =
            match seed.deserialize(&mut deserializer).and_then(|row| deserializer.end().map(|()| row)) {
                Ok(row) => row,
                Err(error) => return Line::Malformed(json_reason(&error)),
            };
        if unknown && self.fails_on_new {
            let new = self.new_names(text);
            if !new.is_empty() {
                return Line::New(new);
            }
        }
        let mut misfits = Vec::new();
        for (cell, field) in cells.into_iter().zip(self.schema.fields()) {
            match fit(cell, field.data_type()) {
                Ok(value) => values.push(value),
                Err(why) if self.rescue => {
                    misfits.push(field.name().as_str());
                    drop(why);
                    values.push(Fitted::Null);
                }
                Err(why) => return Line::Malformed(format!("column \"{}\": {why}", field.name())),
            }
        }
        let rescued =
            (self.rescue && (unknown || !misfits.is_empty())).then(|| self.rescued(text, &misfits)).flatten();
        Line::Row(rescued)
    }

    fn new_names(&self, text: &str) -> Vec<String> {
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).unwrap_or_default();
        let names = fields.into_iter().map(|(name, _)| name);
        names.filter(|name| self.schema.index_of(name).is_err() && !is_reserved(name)).collect()
    }

    /// The fields of a line that have no column, or a column they do not fit, as a JSON object.
    fn rescued(&self, text: &str, misfits: &[&str]) -> Option<String> {
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
        let kept: serde_json::Map<_, _> = fields
            .into_iter()
            .filter(|(name, _)| self.schema.index_of(name).is_err() || misfits.contains(&name.as_str()))
            .collect();
        (!kept.is_empty()).then(|| serde_json::Value::Object(kept).to_string())
    }

    /// The column of a name; lines mostly name columns in the order of the schema.
    fn column(&self, name: &str, expected: usize) -> Option<usize> {
        let fields = self.schema.fields();
        if fields.get(expected).is_some_and(|field| field.name() == name) {
            return Some(expected);
        }
        fields.iter().position(|field| field.name() == name)
    }
}

fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Lines are read one by one, so the library's line number says nothing.
    let what = text.split(" at line ").next().unwrap_or(&text);
    if error.is_data() {
        format!("not a JSON object: {what}")
    } else {
        format!("invalid JSON: {what} at column {}", error.column())
    }
}

struct Row<'r, 's> {
    reader: &'r JsonReader<'s>,
    unknown: bool,
}

impl<'de> DeserializeSeed<'de> for Row<'_, '_> {
    type Value = (Vec<Cell<'de>>, bool);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_, '_> {
    type Value = (Vec<Cell<'de>>, bool);

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut cells = vec![Cell::Null; self.reader.raw.len()];
        let mut expected = 0;
        while let Some(name) = map.next_key_seed(Name)? {
            let Some(column) = self.reader.column(&name, expected) else {
                self.unknown = true;
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            cells[column] = if self.reader.raw[column] {
                Cell::Raw(map.next_value::<&RawValue>()?.get())
            } else {
                map.next_value_seed(Scalar)?
            };
            expected = column + 1;
        }
        Ok((cells, self.unknown))
    }
}

/// A field's name, borrowed unless it holds an escape.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

struct Scalar;

impl<'de> DeserializeSeed<'de> for Scalar {
    type Value = Cell<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scalar {
    type Value = Cell<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Cell::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Cell::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Cell::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(Cell::Unsigned(value), Cell::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Cell::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cell::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cell::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cell::Nested)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Cell::Nested)
    }
}
