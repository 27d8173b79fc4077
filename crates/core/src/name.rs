//! Names of tables and flows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A table's full name: `schema.table`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema, by convention the layer: `raw`, `curated`, `enriched`.
    pub schema: String,
    /// The table within it.
    pub table: String,
}

impl TableName {
    /// Makes a name from its two parts, as they are.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }

    /// Reads `schema.table`, or `table` in `default_schema`.
    ///
    /// `None` when it has more than two parts or an empty one.
    #[must_use]
    pub fn parse(text: &str, default_schema: &str) -> Option<Self> {
        let name = match text.split_once('.') {
            Some((schema, table)) => Self::new(schema, table),
            None => Self::new(default_schema, text),
        };
        (!name.schema.is_empty() && !name.table.is_empty() && !name.table.contains('.')).then_some(name)
    }

    /// The folder of the table inside the lake: `schema/table`.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}/{}", self.schema, self.table)
    }

    /// The table beside it that keeps the rows that could not be published.
    #[must_use]
    pub fn quarantine(&self) -> Self {
        Self::new(self.schema.clone(), format!("{}__quarantine", self.table))
    }

    /// Whether this is the quarantine of another table.
    #[must_use]
    pub fn is_quarantine(&self) -> bool {
        self.table.ends_with("__quarantine")
    }

    /// Whether both parts can be folders in a lake: letters, digits, `_` and `-`, not starting with `_` or `-`,
    /// at most 120 characters.
    #[must_use]
    pub fn is_storable(&self) -> bool {
        [&self.schema, &self.table].into_iter().all(|part| {
            part.len() <= 120
                && part.starts_with(|first: char| first.is_alphanumeric())
                && part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
        })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// A flow's name. A dataset declared with `AS query` has one flow, named like the dataset.
///
/// It is also the application id of the flow's `txn` in the Delta log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlowName(String);

impl FlowName {
    /// Makes a flow name; it names a folder, so the parser lets only storable names through.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FlowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::TableName;

    #[test]
    fn a_name_has_one_or_two_parts() {
        assert_eq!(TableName::parse("raw.flights", "main"), Some(TableName::new("raw", "flights")));
        assert_eq!(TableName::parse("flights", "main"), Some(TableName::new("main", "flights")));
        assert_eq!(TableName::parse("a.b.c", "main"), None);
        assert_eq!(TableName::parse(".b", "main"), None);
    }

    #[test]
    fn a_name_that_escapes_its_folder_is_not_storable() {
        for bad in ["..", "a/b", "_catchment", "", "a b", "-x"] {
            assert!(!TableName::new("raw", bad).is_storable(), "{bad}");
            assert!(!TableName::new(bad, "raw").is_storable(), "{bad}");
        }
        assert!(TableName::new("raw", "flights__quarantine").is_storable());
    }
}
