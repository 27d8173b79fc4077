//! The actions of a log that declare a table: protocol and metadata.

use catchment_core::{Result, TableName};
use serde_json::{Map, Value, json};

use crate::line::{Line, UNDONE};
use crate::schema::{has_timestamp_without_zone, schema_text};
use crate::table::Snapshot;
use crate::writer::TableSpec;

/// What a table keeps, however it is declared.
#[derive(Debug)]
pub(crate) struct Identity {
    name: TableName,
    id: String,
    undone: String,
}

impl Identity {
    /// A table that is new.
    pub(crate) fn new(name: &TableName) -> Self {
        Self { name: name.clone(), id: uuid::Uuid::new_v4().to_string(), undone: String::new() }
    }

    /// The table of a snapshot.
    pub(crate) fn of(snapshot: &Snapshot) -> Result<Self> {
        let undone = snapshot.line()?.to_string();
        Ok(Self { name: snapshot.name().clone(), id: snapshot.id()?, undone })
    }

    /// The table with another line of versions.
    pub(crate) fn on(self, line: &Line) -> Self {
        Self { undone: line.to_string(), ..self }
    }
}

/// The protocol and metadata actions that declare a table.
pub(crate) fn header(spec: &TableSpec, now_millis: i64, identity: Identity) -> Result<Vec<Value>> {
    // Timestamps without a zone are a feature of their own, and features need the newer protocol.
    let protocol = if has_timestamp_without_zone(spec.schema.fields()) {
        json!({
            "minReaderVersion": 3, "minWriterVersion": 7,
            "readerFeatures": ["timestampNtz"], "writerFeatures": ["timestampNtz", "appendOnly", "invariants"],
        })
    } else {
        json!({ "minReaderVersion": 1, "minWriterVersion": 2 })
    };
    let mut configuration: Map<String, Value> =
        spec.properties.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    configuration.remove(UNDONE);
    if !identity.undone.is_empty() {
        configuration.insert(UNDONE.to_owned(), identity.undone.into());
    }
    let metadata = json!({
        "id": identity.id,
        "name": identity.name.to_string(),
        "description": spec.comment,
        "format": { "provider": "parquet", "options": {} },
        "schemaString": schema_text(&spec.schema)?,
        "partitionColumns": spec.partition_columns,
        "createdTime": now_millis,
        "configuration": configuration,
    });
    Ok(vec![json!({ "protocol": protocol }), json!({ "metaData": metadata })])
}
