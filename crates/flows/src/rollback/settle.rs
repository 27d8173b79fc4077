//! Finds the newest version of a table at which none of its flows stands on something undone.

use std::collections::{BTreeMap, BTreeSet};

use catchment_catalog::InputVersion;
use catchment_core::{FlowName, Position, Result, TableName};
use catchment_lake::{Entry, Lake, Line, OWNER_APPLICATION, Snapshot};

use crate::ancestry::Ancestry;
use crate::records::Records;

/// The lines of versions that tables are going to have, `None` for those that are emptied.
pub(super) type Lines = BTreeMap<TableName, Option<Line>>;

/// Tells whether a batch may stay.
pub(super) enum Judge<'a> {
    /// When all tables that it read hold the versions read.
    Inputs(&'a Lines),
    /// When it is one of those that the flows' positions stand on.
    Within(&'a BTreeMap<FlowName, Ancestry>),
}

impl Judge<'_> {
    pub(super) async fn may_stay(
        &self,
        lake: &Lake,
        flow: &FlowName,
        at: Position,
        entry: Option<&Entry>,
    ) -> Result<bool> {
        match self {
            Judge::Within(ancestries) => Ok(ancestries.get(flow).is_some_and(|ancestry| ancestry.holds(at))),
            Judge::Inputs(lines) => {
                let Some(read) = versions_read(lake, flow, at, entry).await? else { return Ok(false) };
                Ok(read.iter().all(|(name, version)| {
                    let line = TableName::parse(name, "").and_then(|name| lines.get(&name));
                    line.is_none_or(|line| line.as_ref().is_some_and(|line| line.holds(*version)))
                }))
            }
        }
    }
}

/// The tables that a flow had read up to a batch, with their versions; `None` when nothing tells any more.
async fn versions_read(
    lake: &Lake,
    flow: &FlowName,
    at: Position,
    entry: Option<&Entry>,
) -> Result<Option<Vec<(String, u64)>>> {
    if let Some(plan) = Records::new(lake, flow).kept_plan(at).await? {
        let streamed = plan.tables.into_iter().map(|(name, standing)| (name, standing.version));
        return Ok(Some(streamed.chain(plan.versions).collect()));
    }
    let inputs = entry.map(|entry| entry.batch["summary"]["inputs"].clone()).unwrap_or_default();
    let inputs: Option<Vec<InputVersion>> = serde_json::from_value(inputs).ok();
    Ok(inputs
        .map(|inputs| inputs.into_iter().filter_map(|input| Some((input.name, input.version?))).collect()))
}

/// Goes back from a version to one at which every batch may stay; `None` when none is left that the log tells of.
pub(super) async fn settle(
    lake: &Lake,
    start: &Snapshot,
    flows: &BTreeSet<FlowName>,
    judge: &Judge<'_>,
) -> Result<Option<u64>> {
    let table = lake.table(start.name());
    let line = start.line()?;
    let mut open = BTreeMap::new();
    for flow in flows {
        if let Some(at) = start.position(flow.as_str()).await? {
            open.insert(flow.clone(), at);
        }
    }
    // Below the newest batch of a flow that may stay, all of its batches may.
    let mut settled = BTreeSet::new();
    let mut lowest = None;
    let mut next = Some(start.version());
    while let Some(version) = next
        && !open.is_empty()
    {
        let Some(entry) = table.entry(version).await? else { break };
        for txn in entry.transactions.iter().filter(|txn| txn.app_id != OWNER_APPLICATION) {
            let flow = FlowName::new(txn.app_id.clone());
            let Some(at) = Position::from_version(txn.version) else { continue };
            if settled.contains(&flow) {
                continue;
            }
            if judge.may_stay(lake, &flow, at, Some(&entry)).await? {
                open.remove(&flow);
                settled.insert(flow);
            } else {
                lowest = Some(version);
                open.insert(flow, at);
            }
        }
        next = line.previous(version);
    }
    Ok(match lowest {
        // The log does not reach back to the last batch of some flows; their positions are known.
        None => {
            let mut stays = true;
            for (flow, at) in &open {
                stays &= judge.may_stay(lake, flow, *at, None).await?;
            }
            stays.then_some(start.version())
        }
        Some(_) if next.is_some() && !open.is_empty() => None,
        Some(lowest) => line.previous(lowest),
    })
}
