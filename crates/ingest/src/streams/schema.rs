//! JSON Schema, which records of a stream are held to.

use std::path::Path;

use catchment_core::{Code, Error, Result};
use jsonschema::{PatternOptions, Validator};

/// A JSON Schema. It is read from its file alone: references to others are an error.
#[derive(Debug)]
pub struct RecordSchema(Validator);

impl RecordSchema {
    /// Reads a schema from a file.
    ///
    /// # Errors
    /// Returns [`Code::OPTION_INVALID`] when the file cannot be read, or is no schema.
    pub fn open(file: &Path) -> Result<Self> {
        let wrong =
            |why: String| Error::new(Code::OPTION_INVALID, format!("JSON Schema {}: {why}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let schema = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        // Patterns that take as long as their text, whatever it is.
        let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
        options.build(&schema).map(Self).map_err(|error| wrong(error.to_string()))
    }

    /// What is wrong with a record, `None` when nothing is.
    #[must_use]
    pub fn fault(&self, record: &[u8]) -> Option<String> {
        let value = match serde_json::from_slice(record) {
            Ok(value) => value,
            Err(error) => return Some(format!("not JSON: {error}")),
        };
        let error = self.0.iter_errors(&value).next()?;
        let place = error.instance_path().to_string();
        Some(if place.is_empty() { error.to_string() } else { format!("{place}: {error}") })
    }
}
