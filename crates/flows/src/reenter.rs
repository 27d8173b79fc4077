//! Enters published batches into the books anew, from the commits that hold them.

use catchment_catalog::Store;
use catchment_core::{FlowName, Position, Result, TableName};
use catchment_lake::{Entry, Lake};

use crate::records::BatchSummary;

/// Enters all batches of a dataset that its log still tells of; those that are known stay as they are.
/// Returns how many there are.
///
/// # Errors
/// Returns errors of reading the log and of the catalog.
pub async fn reenter(lake: &Lake, store: &dyn Store, dataset: &TableName) -> Result<u64> {
    let table = lake.table(dataset);
    let Some(latest) = table.latest().await? else { return Ok(0) };
    let mut entered = 0;
    // Undone versions are told of, too, and marked below.
    let mut next = Some(latest.version());
    while let Some(version) = next
        && let Some(entry) = table.entry(version).await?
    {
        if let Some((flow, at, summary)) = batch_of(&entry) {
            store.put_batch(&summary.record(&flow, dataset, at, version, entry.timestamp * 1_000))?;
            entered += 1;
        }
        next = version.checked_sub(1);
    }
    let line = latest.line()?;
    store.mark_undone(dataset, &|version| !line.holds(version))?;
    Ok(entered)
}

/// The batch of an entry, when it holds one.
fn batch_of(entry: &Entry) -> Option<(FlowName, Position, BatchSummary)> {
    let flow: FlowName = serde_json::from_value(entry.batch["flow"].clone()).ok()?;
    let summary = serde_json::from_value(entry.batch["summary"].clone()).ok()?;
    Some((flow.clone(), entry.position(flow.as_str())?, summary))
}
