//! Versions of tables that a flow has seen to hold nothing new, such as compactions.
//!
//! A record of them saves reading the same log entries in every run. Losing it costs time and nothing
//! else; it counts only while the flow stands where it stood when the record was written.

use std::collections::BTreeMap;

use catchment_core::{Position, Result};
use catchment_ingest::TableStanding;
use catchment_lake::{Lake, Owner, Table};
use serde::{Deserialize, Serialize};

/// What a flow need not read again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Passed {
    /// Where the flow stood.
    pub(crate) position: Option<Position>,
    /// Where it stands in streamed tables, by their names.
    pub(crate) tables: BTreeMap<String, TableStanding>,
    /// Versions of other tables with the same rows as those it read last, by their names.
    pub(crate) versions: BTreeMap<String, u64>,
}

impl Passed {
    /// The record of a flow that stands at `published`, if there is one.
    pub(crate) async fn read(
        lake: &Lake,
        flow: &catchment_core::FlowName,
        published: Position,
    ) -> Result<Option<Self>> {
        let Some(bytes) = lake.read_record(&lake.layout().passed(flow)).await? else { return Ok(None) };
        let passed: Option<Self> = serde_json::from_slice(&bytes).ok();
        Ok(passed.filter(|passed| passed.position == Some(published)))
    }

    /// Keeps the record.
    pub(crate) async fn write(&self, owner: &Owner, flow: &catchment_core::FlowName) -> Result<()> {
        let bytes = crate::records::to_json(self)?;
        owner.write_record(&owner.lake().layout().passed(flow), bytes, false).await.map(|_| ())
    }
}

/// Whether a table has the same rows and columns at both versions, as far as its log still tells.
pub(crate) async fn same_rows(table: &Table, before: u64, after: u64) -> Result<bool> {
    for version in before + 1..=after {
        let Some(entry) = table.entry(version).await? else { return Ok(false) };
        let changes = entry.changes_metadata
            || entry.adds.iter().any(|add| add.data_change)
            || entry.removes.iter().any(|remove| remove.data_change);
        if changes {
            return Ok(false);
        }
    }
    Ok(before <= after)
}
