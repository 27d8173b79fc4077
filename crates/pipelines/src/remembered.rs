//! What a flow remembers of its file sources between runs: files taken, and columns inferred.

use std::collections::BTreeSet;

use catchment_core::{FlowName, Result, TableName};
use catchment_flows::bookmarks;
use catchment_lake::{Lake, parse_schema_text};
use datafusion::arrow::datatypes::SchemaRef;

/// The files that a flow has taken, by their paths.
pub(crate) async fn taken_files(
    lake: &Lake,
    target: Option<&TableName>,
    flow: &FlowName,
) -> Result<BTreeSet<String>> {
    let Some(target) = target else { return Ok(BTreeSet::new()) };
    let Some(snapshot) = lake.table(target).latest().await? else { return Ok(BTreeSet::new()) };
    let Some(published) = snapshot.position(flow.as_str()).await? else { return Ok(BTreeSet::new()) };
    let taken = bookmarks(lake, flow, published).await?;
    Ok(taken.into_iter().map(|bookmark| bookmark.seen.file.path).collect())
}

/// Where the inferred schema of a flow's file source is kept.
pub(crate) fn schema_record(lake: &Lake, flow: &FlowName, path: &str) -> object_store::path::Path {
    let name = format!("{:016x}.json", hash(path));
    lake.layout().flow(flow).join("schemas").join(name)
}

fn hash(text: &str) -> u64 {
    // FNV-1a: the name only has to differ between the few paths of one flow.
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

pub(crate) async fn remembered_schema(lake: &Lake, flow: &FlowName, path: &str) -> Result<Option<SchemaRef>> {
    match lake.read_record(&schema_record(lake, flow, path)).await? {
        Some(bytes) => parse_schema_text(&String::from_utf8_lossy(&bytes)).map(Some),
        None => Ok(None),
    }
}
