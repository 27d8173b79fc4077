//! What a flow is: a query, what it reads, and the table it keeps up to date.

use std::collections::BTreeMap;
use std::sync::Arc;

use catchment_core::{Code, Error, FlowName, Result, TableName};
use catchment_ingest::files::FileInfo;
use catchment_ingest::{Limits, Source};
use catchment_lake::TableSpec;
use catchment_quality::Expectation;
use catchment_quality::dqdl::Ruleset;
use catchment_sql::{BoundQuery, SqlText};

use crate::records::BatchPlan;
use crate::serving::Serving;
use crate::windows::EventTime;

/// How a flow's result goes into its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowKind {
    /// Each input row once: the result of every batch is added.
    Append,
    /// The result is added once, and never again unless the dataset is rebuilt.
    AppendOnce,
    /// The result replaces what the table held.
    Replace,
    /// The result replaces what some partitions held, see [`FlowSpec::replaces`].
    ReplaceWhere,
}

/// A flow, ready to run.
#[derive(Debug, Clone)]
pub struct FlowSpec {
    /// Its name.
    pub name: FlowName,
    /// The table it writes.
    pub target: TableName,
    /// How.
    pub kind: FlowKind,
    /// The file its query stands in.
    pub text: Arc<SqlText>,
    /// The partitions that the result replaces, as a condition; all rows of it are in these.
    pub replaces: Option<String>,
    /// Its query.
    pub query: BoundQuery,
    /// What the query reads, one for each relation.
    pub inputs: Vec<Input>,
    /// The event time of the inputs whose rows the query puts into windows, by the input's name.
    pub windows: BTreeMap<String, EventTime>,
    /// The table that takes rows that came too late for their windows, and what it is declared to be.
    pub late: Option<(TableName, TableSpec)>,
    /// What its rows are held to.
    pub expectations: Arc<Vec<Expectation>>,
    /// What each batch is held to as a whole.
    pub ruleset: Option<Arc<Ruleset>>,
    /// What the table is declared to be.
    pub table: TableSpec,
    /// How rows are found, when they go into a serving table instead of one of the lake.
    pub serving: Option<Arc<Serving>>,
    /// The flow's definition as text; when it changes, a replaced table is computed anew.
    pub definition: String,
}

/// Something a flow's query reads.
#[derive(Debug, Clone)]
pub struct Input {
    /// The relation's key in the query.
    pub key: String,
    /// What people know it by.
    pub name: String,
    /// How it is read.
    pub kind: InputKind,
}

/// How an input is read.
#[derive(Debug, Clone)]
pub enum InputKind {
    /// A piece at a time, each once.
    Stream(Arc<dyn Source>, Limits),
    /// All that the source has when the batch is planned.
    Everything(Arc<dyn Source>),
    /// A table at the version it has when the batch is planned, or at a fixed one.
    Table(TableName, Option<u64>),
}

impl Input {
    /// Whether it is a stream, which does not end.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(&self.kind, InputKind::Stream(source, _) if source.is_stream())
    }

    /// Where a flow that has taken nothing begins with it, for people.
    pub async fn begins(&self) -> String {
        match &self.kind {
            InputKind::Stream(source, _) => match source.begins().await {
                Ok(begins) => begins,
                Err(error) if error.code() == Code::STREAM_UNKNOWN => {
                    format!("what comes to {} from now on", self.name)
                }
                Err(error) if error.code() == Code::STREAM_OWNED => {
                    format!("all that {} holds, which a service has open", self.name)
                }
                Err(error) => format!("all that {} holds ({})", self.name, error.one_line()),
            },
            InputKind::Everything(_) | InputKind::Table(_, None) => format!("all that {} holds", self.name),
            InputKind::Table(_, Some(version)) => format!("version {version} of {}", self.name),
        }
    }

    /// Whether files that are there when the flow first reads are never read.
    pub(crate) fn leaves_existing(&self) -> bool {
        matches!(&self.kind, InputKind::Stream(source, _) if source.leaves_existing())
    }
}

impl FlowSpec {
    /// Whether the flow reads a source that has to be asked for news.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let is_live = |input: &Input| matches!(&input.kind, InputKind::Stream(source, _) if source.is_live());
        self.inputs.iter().any(is_live)
    }

    /// Whether files are taken away when the flow has read them.
    #[must_use]
    pub fn cleans(&self) -> bool {
        self.inputs.iter().any(|input| matches!(&input.kind, InputKind::Stream(source, _) if source.cleans()))
    }

    /// Makes sure that the flow goes on as it began: what replaced partitions does not know what it has taken, and
    /// what added rows has left rows that nothing would replace.
    pub(crate) fn require_kind_of(&self, last: Option<&BatchPlan>) -> Result<()> {
        let Some(last) = last.filter(|last| !last.is_opening()) else { return Ok(()) };
        if last.replaces_where.is_some() == self.replaces.is_some() || self.kind == FlowKind::Replace {
            return Ok(());
        }
        let (before, now) = match self.replaces {
            Some(_) => ("added rows", "replaces partitions"),
            None => ("replaced partitions", "adds rows"),
        };
        Err(Error::new(
            Code::FLOW_TARGET,
            format!("flow \"{}\" {before} before, and {now} by its new definition", self.name),
        )
        .hint(format!("build the table anew: `catchment run --full-refresh --select {}`", self.target)))
    }

    /// Files that are there before the flow reads anything, and that it leaves out for good.
    pub(crate) async fn existing_files(&self) -> Result<Vec<FileInfo>> {
        let mut existing = Vec::new();
        for input in self.inputs.iter().filter(|input| input.leaves_existing()) {
            if let InputKind::Stream(source, _) = &input.kind {
                let all = source.everything().await?;
                existing.extend(all.iter().flat_map(|range| range.files()).cloned());
            }
        }
        Ok(existing)
    }
}
