//! The records of a flow in the lake: plans and staged batches.

use std::collections::{BTreeMap, BTreeSet};

use catchment_catalog::{BatchRecord, ColumnSource, ExpectationCount, InputVersion, RuleRecord};
use catchment_core::{Code, Error, FlowName, Position, Result, TableName};
use catchment_ingest::files::FileInfo;
use catchment_ingest::{BrokenFile, Range, StreamStanding, TableStanding};
use catchment_lake::{Add, Lake, Owner, TableSpec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::windows::WindowState;

/// What a batch is going to do, made durable before it does anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchPlan {
    /// The flow.
    pub flow: FlowName,
    /// The batch.
    pub position: Position,
    /// The batch that this one's epoch goes on from, when a rollback opened it.
    pub parent: Option<Position>,
    /// The version of the table that this batch brings back, when a rollback opens an epoch with it. All
    /// else in the plan is then as in the plan of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    /// Not empty when the batch empties the table instead of reading anything, since a full refresh
    /// begins: then all flows of the table, with the batches that begin their new epochs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resets: Vec<(FlowName, Position)>,
    /// The partitions that the batch computes anew, from what was taken before, when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Replacement>,
    /// The partitions that the flow's results replace, when it is such a flow, as a condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces_where: Option<String>,
    /// Files that were there before a flow and that it never reads, by flow: found by its first batch, and kept by
    /// those that begin anew.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub passed_over: BTreeMap<FlowName, Vec<FileInfo>>,
    /// What `now()` says in the batch, in microseconds since the Unix epoch.
    pub planned_at: i64,
    /// What `random()` starts from in the batch.
    pub seed: u64,
    /// The batch whose state a flow with windows goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Position>,
    /// The table that takes late rows, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<TableName>,
    /// Inputs with windows that have more than the batch reads, and whose time must wait for it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub behind: BTreeSet<String>,
    /// What each streamed or listed input gives to the batch, by the input's name.
    pub ranges: BTreeMap<String, Range>,
    /// Where the flow stands in each streamed table when the batch is published, by the table's name.
    pub tables: BTreeMap<String, TableStanding>,
    /// Where the flow stands in each stream when the batch is published, by the stream's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub streams: BTreeMap<String, StreamStanding>,
    /// The version at which each other table is read, by the table's name.
    pub versions: BTreeMap<String, u64>,
    /// A hash of the definition.
    pub definition_hash: String,
    /// The definition.
    pub definition: String,
}

/// Partitions that batches of all flows of a table compute anew together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replacement {
    /// The backfill that they are part of.
    pub backfill: String,
    /// The partitions of this commit, as a condition on partition columns.
    pub condition: String,
    /// All partitions that were asked for.
    pub within: String,
    /// The flows with their batches; the first one publishes for all.
    pub parts: Vec<(FlowName, Position)>,
    /// Files that changed since they were taken, as they are now.
    pub changed: Vec<FileInfo>,
}

impl BatchPlan {
    /// A plan that reads nothing.
    #[must_use]
    pub fn empty(flow: FlowName, position: Position, planned_at: i64) -> Self {
        Self {
            flow,
            position,
            parent: None,
            restores: None,
            resets: Vec::new(),
            replaces: None,
            passed_over: BTreeMap::new(),
            replaces_where: None,
            planned_at,
            seed: 0,
            state: None,
            late: None,
            behind: BTreeSet::new(),
            ranges: BTreeMap::new(),
            tables: BTreeMap::new(),
            streams: BTreeMap::new(),
            versions: BTreeMap::new(),
            definition_hash: String::new(),
            definition: String::new(),
        }
    }

    /// Whether the batch empties the table and begins an epoch.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        !self.resets.is_empty()
    }

    /// Whether the batch opens an epoch and reads nothing itself.
    #[must_use]
    pub fn is_opening(&self) -> bool {
        self.is_reset() || self.restores.is_some()
    }

    /// Whether the flow has taken nothing yet when this batch is published.
    #[must_use]
    pub fn starts_over(&self) -> bool {
        self.is_opening() && self.parent.is_none()
    }

    /// Whether this plan would give the same result as `other`, whose tables had the same rows at `versions`.
    #[must_use]
    pub fn same_input(&self, other: &BatchPlan, versions: &BTreeMap<String, u64>) -> bool {
        !self.is_reset()
            && !other.is_reset()
            && self.ranges == other.ranges
            && self.versions == *versions
            && self.definition_hash == other.definition_hash
    }
}

/// A batch whose files are written and wait to be published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagedBatch {
    /// The batch.
    pub position: Position,
    /// What goes into which table; the flow's target comes last.
    pub outputs: Vec<StagedOutput>,
    /// Files that could not be read as a whole; none of their rows are in the outputs.
    pub broken: Vec<BrokenFile>,
    /// Files taken before whose rows were all computed again from what they hold now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub again: Vec<FileInfo>,
    /// Of a flow with windows: how far its time has come, and the rows that it holds back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<WindowState>,
    /// What the books and the commits say about the batch.
    pub summary: BatchSummary,
}

/// What a batch gives to one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagedOutput {
    /// The table.
    pub table: TableName,
    /// What the table is declared to be.
    pub spec: TableSpec,
    /// Whether the files replace what the table holds.
    pub replace: bool,
    /// The partitions whose files they replace, as a condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// The data files.
    pub adds: Vec<Add>,
    /// Files of the table that they take the place of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removes: Vec<Add>,
}

/// What a batch did, apart from when and as which version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSummary {
    /// Rows read from sources.
    pub rows_in: u64,
    /// Rows published.
    pub rows_out: u64,
    /// Rows and files put into quarantine.
    pub quarantined: u64,
    /// Rows left out: by expectations that drop them, or since they came too late for their windows.
    #[serde(default)]
    pub dropped: u64,
    /// Bytes written to disk for want of memory.
    #[serde(default)]
    pub spilled_bytes: u64,
    /// Files taken from file sources.
    pub files: u64,
    /// When the batch was planned, in microseconds since the Unix epoch.
    pub planned_at: i64,
    /// A digest of what was read.
    pub ranges: String,
    /// The versions of the tables it read.
    pub inputs: Vec<InputVersion>,
    /// Where the columns come from.
    pub columns: Vec<ColumnSource>,
    /// How many rows met each expectation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expectations: Vec<ExpectationCount>,
    /// What became of the rules of the dataset's ruleset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleRecord>,
}

impl BatchSummary {
    /// What several flows did in one commit.
    #[must_use]
    pub fn sum<'a>(parts: impl IntoIterator<Item = &'a BatchSummary>) -> Self {
        let mut parts = parts.into_iter();
        let Some(mut sum) = parts.next().cloned() else { return Self::default() };
        for part in parts {
            sum.rows_in += part.rows_in;
            sum.rows_out += part.rows_out;
            sum.quarantined += part.quarantined;
            sum.dropped += part.dropped;
            sum.spilled_bytes += part.spilled_bytes;
            sum.files += part.files;
            sum.inputs.extend(
                part.inputs.iter().filter(|input| !sum.inputs.contains(input)).cloned().collect::<Vec<_>>(),
            );
            sum.columns.extend(
                part.columns
                    .iter()
                    .filter(|column| !sum.columns.contains(column))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
            for count in &part.expectations {
                match sum.expectations.iter_mut().find(|known| known.name == count.name) {
                    Some(known) => {
                        known.passed += count.passed;
                        known.failed += count.failed;
                    }
                    None => sum.expectations.push(count.clone()),
                }
            }
        }
        sum
    }

    /// The row that the books keep of the batch.
    #[must_use]
    pub fn record(
        &self,
        flow: &FlowName,
        dataset: &TableName,
        at: Position,
        version: u64,
        committed_at: i64,
    ) -> BatchRecord {
        BatchRecord {
            flow: flow.clone(),
            dataset: dataset.clone(),
            position: at,
            version,
            run: None,
            rows_in: self.rows_in,
            rows_out: self.rows_out,
            quarantined: self.quarantined,
            dropped: self.dropped,
            spilled_bytes: self.spilled_bytes,
            files: self.files,
            planned_at: self.planned_at,
            committed_at,
            inputs: self.inputs.clone(),
            columns: self.columns.clone(),
            expectations: self.expectations.clone(),
            rules: self.rules.clone(),
            undone: false,
        }
    }
}

/// Reads and writes the records of one flow.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    lake: &'a Lake,
    flow: &'a FlowName,
}

impl<'a> Records<'a> {
    pub(crate) fn new(lake: &'a Lake, flow: &'a FlowName) -> Self {
        Self { lake, flow }
    }

    /// The positions of all plans and of all staged records, in order.
    pub(crate) async fn positions(&self) -> Result<(Vec<Position>, Vec<Position>)> {
        let names = self.lake.list_records(&self.lake.layout().batches(self.flow)).await?;
        let mut plans = Vec::new();
        let mut staged = Vec::new();
        for name in names {
            let Some(stem) = name.strip_suffix(".json") else { continue };
            match stem.strip_suffix(".staged") {
                Some(position) => staged.extend(position.parse::<Position>()),
                None => plans.extend(stem.parse::<Position>()),
            }
        }
        plans.sort();
        staged.sort();
        Ok((plans, staged))
    }

    pub(crate) async fn plan(&self, at: Position) -> Result<BatchPlan> {
        let path = self.lake.layout().plan(self.flow, at);
        self.read(&path).await?.ok_or_else(|| self.gone(&path))
    }

    /// The plan of a batch, `None` when it is not kept any more.
    pub(crate) async fn kept_plan(&self, at: Position) -> Result<Option<BatchPlan>> {
        self.read(&self.lake.layout().plan(self.flow, at)).await
    }

    pub(crate) async fn staged(&self, at: Position) -> Result<StagedBatch> {
        let path = self.lake.layout().staged(self.flow, at);
        self.read(&path).await?.ok_or_else(|| self.gone(&path))
    }

    fn gone(&self, path: &object_store::path::Path) -> Error {
        Error::new(Code::PLAN_CORRUPT, format!("record \"/{path}\" of flow \"{}\" is gone", self.flow))
    }

    async fn read<T: DeserializeOwned>(&self, path: &object_store::path::Path) -> Result<Option<T>> {
        let corrupt = || {
            Error::new(Code::PLAN_CORRUPT, format!("record \"/{path}\" of flow \"{}\" is corrupt", self.flow))
        };
        let Some(bytes) = self.lake.read_record(path).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| corrupt().because(error))
    }

    /// Makes a plan durable; when another process was first, its plan counts.
    pub(crate) async fn write_plan(&self, owner: &Owner, plan: BatchPlan) -> Result<BatchPlan> {
        let path = self.lake.layout().plan(self.flow, plan.position);
        match owner.write_record(&path, to_json(&plan)?, true).await? {
            true => Ok(plan),
            false => self.plan(plan.position).await,
        }
    }

    /// Makes a staged record durable; when another process was first, its record counts.
    pub(crate) async fn write_staged(&self, owner: &Owner, staged: StagedBatch) -> Result<StagedBatch> {
        let path = self.lake.layout().staged(self.flow, staged.position);
        match owner.write_record(&path, to_json(&staged)?, true).await? {
            true => Ok(staged),
            false => self.staged(staged.position).await,
        }
    }

    pub(crate) async fn remove(&self, owner: &Owner, at: Position) -> Result<()> {
        let layout = self.lake.layout();
        owner.remove_record(&layout.staged(self.flow, at)).await?;
        owner.remove_record(&layout.plan(self.flow, at)).await
    }
}

pub(crate) fn to_json<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record)
        .map_err(|error| Error::new(Code::INTERNAL, "could not write a record").because(error))
}
