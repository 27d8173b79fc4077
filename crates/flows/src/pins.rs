//! What flows still need of a table's files.

use std::collections::BTreeSet;

use catchment_core::{FlowName, Result, TableName};
use catchment_ingest::Range;
use catchment_lake::{Lake, Pins};

use crate::passed::Passed;
use crate::records::Records;
use crate::replay::replay_flow;

/// What the flows of a project still need of a table: files of batches that are planned or staged and not
/// published, and files that its readers have not read yet.
///
/// `flows` are all flows, with the tables that they write.
///
/// # Errors
/// Returns errors of reading.
pub async fn pins(lake: &Lake, table: &TableName, flows: &[(FlowName, TableName)]) -> Result<Pins> {
    let mut pins = Pins::default();
    let mut unread = BTreeSet::new();
    for (flow, target) in flows {
        for flow in [flow.clone(), replay_flow(flow)] {
            let published = match lake.table(target).latest().await? {
                Some(snapshot) => snapshot.position(flow.as_str()).await?,
                None => None,
            };
            let records = Records::new(lake, &flow);
            let (plans, staged) = records.positions().await?;
            for at in plans.into_iter().filter(|at| published.is_none_or(|published| *at > published)) {
                for (name, range) in records.plan(at).await?.ranges {
                    if let Range::Table { files, .. } = range
                        && name == table.to_string()
                    {
                        pins.paths.extend(files.into_iter().map(|file| file.path));
                    }
                }
            }
            for at in staged.into_iter().filter(|at| published.is_none_or(|published| *at > published)) {
                let outputs = records.staged(at).await?.outputs;
                let adds = outputs.into_iter().filter(|output| output.table == *table);
                pins.paths.extend(adds.flat_map(|output| output.adds).map(|add| add.path));
            }
            if let Some(published) = published {
                let tables = match Passed::read(lake, &flow, published).await? {
                    Some(passed) => passed.tables,
                    None => records.plan(published).await?.tables,
                };
                let standing = tables.get(&table.to_string());
                unread.extend(standing.map(|standing| (standing.version, standing.last, standing.snapshot)));
            }
        }
    }
    let table = lake.table(table);
    for (version, last, snapshot) in unread {
        if snapshot {
            pins.versions.push(version);
        }
        let mut next = version;
        while let Some(entry) = table.entry(next).await? {
            // Of its own version a reader has read all files of a snapshot, or those up to the last.
            let read = match (next == version, snapshot) {
                (true, true) => usize::MAX,
                (true, false) => last + 1,
                (false, _) => 0,
            };
            let adds = entry.adds.into_iter().filter(|add| add.data_change).skip(read);
            pins.paths.extend(adds.map(|add| add.path));
            next += 1;
        }
    }
    Ok(pins)
}
