//! Computes partitions of datasets anew: all at once, or step by step.
//!
//! A backfill that has begun is written down in the lake, with what is left of it; whoever runs the project
//! next finishes it first. So a dataset that reads the partitions as a stream cannot miss that they changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catchment_core::{Code, Error, Result, TableName};
use catchment_flows::{
    ALL_PARTITIONS, FlowSpec, InputKind, PartitionCondition, Progress, ReplaceRequest, Settles,
    cancel_replacement,
};
use catchment_ingest::files::FileInfo;
use catchment_lake::{Lake, Owner, rows_of};
use catchment_sql::Moment;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::check::Dataset;
use crate::run::{ALL_UPKEEP, Mode, RunOptions, RunReport, Workspace, select};
use crate::statement::DatasetKind;
use crate::time_range::{Step, TimeRange};

/// What a backfill is asked for.
#[derive(Debug, Clone)]
pub struct BackfillOptions {
    /// The datasets.
    pub datasets: Vec<String>,
    /// Their partitions.
    pub partitions: Partitions,
    /// Whether datasets that read them as a stream may be computed anew as a whole.
    pub cascade: bool,
    /// Whether files that changed hold, and held, rows of these partitions alone: they count as read then.
    pub settle: bool,
    /// Whether to do nothing but plan.
    pub dry_run: bool,
}

/// Which partitions are meant.
#[derive(Debug, Clone)]
pub enum Partitions {
    /// All.
    All,
    /// Those that meet a condition.
    Where(String),
    /// Those of a span of time, a step at a time.
    Range(TimeRange, Option<Step>),
}

/// A backfill, planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// A name of its own.
    pub id: String,
    /// Whether anything of it is published.
    pub begun: bool,
    /// What happens to each dataset, those first that others read.
    pub steps: Vec<BackfillStep>,
}

/// What a backfill does to one dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillStep {
    /// The dataset.
    pub dataset: TableName,
    /// The dataset that it reads and that is the reason, `None` when it was asked for.
    pub because_of: Option<TableName>,
    /// All partitions that are computed anew, as a condition.
    pub within: String,
    /// Those of each commit that is still to come.
    pub left: Vec<String>,
    /// Whether files that changed count as read, once all is done.
    pub settle: bool,
    /// Files that changed and whose rows were all computed again by each commit so far, as they were then; `None`
    /// before the first one.
    pub again: Option<Vec<FileInfo>>,
    /// The partitions there are now.
    pub partitions: u64,
    /// Their data files.
    pub files: u64,
    /// Their rows, where statistics tell.
    pub rows: Option<u64>,
    /// Their size in bytes.
    pub bytes: u64,
}

/// What became of a backfill.
#[derive(Debug, Clone)]
pub struct BackfillReport {
    /// What it does, or would do.
    pub backfill: Backfill,
    /// The run that did it; `None` when nothing was done.
    pub run: Option<RunReport>,
    /// Whether something is left to do.
    pub unfinished: bool,
}

/// A backfill that is under way.
#[derive(Debug)]
pub(crate) struct Open {
    owner: Arc<Owner>,
    backfill: Mutex<Backfill>,
}

impl Open {
    /// What is left to do for a dataset.
    pub(crate) async fn step(&self, dataset: &TableName) -> Option<BackfillStep> {
        let backfill = self.backfill.lock().await;
        backfill.steps.iter().find(|step| step.dataset == *dataset).cloned()
    }

    /// What the next commit of a step is asked for.
    pub(crate) async fn request(&self, step: &BackfillStep) -> Option<ReplaceRequest> {
        let settles = match (step.settle && step.left.len() == 1, &step.again) {
            (false, _) => Settles::Nothing,
            (true, None) => Settles::All,
            (true, Some(seen)) => Settles::Seen(seen.clone()),
        };
        Some(ReplaceRequest {
            condition: step.left.first()?.clone(),
            within: step.within.clone(),
            backfill: self.backfill.lock().await.id.clone(),
            settles,
        })
    }

    /// Notes that the first of what is left is done, and which files that changed it covered.
    pub(crate) async fn done(&self, dataset: &TableName, again: &[FileInfo]) -> Result<()> {
        let mut backfill = self.backfill.lock().await;
        backfill.begun = true;
        if let Some(step) = backfill.steps.iter_mut().find(|step| step.dataset == *dataset) {
            step.left.remove(0);
            step.again = Some(match step.again.take() {
                None => again.to_vec(),
                Some(before) => before.into_iter().filter(|file| again.contains(file)).collect(),
            });
        }
        write(&self.owner, &backfill).await
    }
}

async fn write(owner: &Owner, backfill: &Backfill) -> Result<()> {
    let bytes = serde_json::to_vec(backfill)
        .map_err(|error| Error::new(Code::INTERNAL, "could not write a backfill down").because(error))?;
    owner.write_record(&owner.lake().layout().backfill(), bytes, false).await.map(|_| ())
}

/// The backfill that was begun and not finished.
///
/// # Errors
/// Returns [`Code::PLAN_CORRUPT`] when its record cannot be read.
pub(crate) async fn unfinished(lake: &Lake) -> Result<Option<Backfill>> {
    let Some(bytes) = lake.read_record(&lake.layout().backfill()).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Error::new(Code::PLAN_CORRUPT, "the record of an unfinished backfill is corrupt").because(error)
    })
}

impl Workspace {
    /// Computes partitions of datasets anew from everything that these have taken, in one commit for each
    /// step, after they have taken what is new.
    ///
    /// Without `cascade` nothing is done when other datasets read them as a stream.
    ///
    /// # Errors
    /// Returns errors of the options, the project and the lease. Those of datasets are in the report; the next run
    /// goes on with what is left, unless nothing was done.
    pub async fn backfill(
        &self,
        options: &BackfillOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<BackfillReport> {
        let checked = self.check().await;
        Error::join(checked.errors)?;
        let backfill = self.plan_backfill(&checked.datasets, options).await?;
        let more = backfill.steps.iter().any(|step| step.because_of.is_some());
        if options.dry_run || (more && !options.cascade) {
            return Ok(BackfillReport { backfill, run: None, unfinished: false });
        }
        let (owner, _heartbeat) = self.own().await?;
        self.finish_backfill(&owner, &checked.datasets, &progress).await?;
        write(&owner, &backfill).await?;
        let run = self.do_backfill(&owner, &checked.datasets, backfill.clone(), progress).await;
        owner.end_upkeep(ALL_UPKEEP).await;
        let run = run?;
        let unfinished = unfinished(&self.lake).await?.is_some();
        Ok(BackfillReport { backfill, run: Some(run), unfinished })
    }

    /// Finishes a backfill that was begun. Call it before anything else is brought up to date.
    pub(crate) async fn finish_backfill(
        &self,
        owner: &Arc<Owner>,
        datasets: &[Dataset],
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let Some(backfill) = unfinished(&self.lake).await? else { return Ok(()) };
        tracing::info!("an unfinished backfill is finished first");
        let run = self.do_backfill(owner, datasets, backfill, Arc::clone(progress)).await?;
        Error::join(run.errors.into_iter().map(|(_, error)| {
            error.hint("it ends an unfinished backfill; `catchment backfill --cancel` gives that up")
        }))
    }

    /// Brings datasets up to date, and computes those of their partitions anew that a span of time has. What
    /// reads them follows.
    ///
    /// # Errors
    /// As [`Workspace::run`] and [`Workspace::backfill`].
    pub async fn run_range(
        &self,
        options: &RunOptions,
        range: TimeRange,
        progress: Arc<dyn Progress>,
    ) -> Result<RunReport> {
        let checked = self.check().await;
        Error::join(checked.errors)?;
        let chosen = select(checked.datasets, &options.select)?;
        let tables = chosen.iter().filter(|dataset| dataset.kind == DatasetKind::StreamingTable);
        let backfill = BackfillOptions {
            datasets: tables.map(|dataset| dataset.name.to_string()).collect(),
            partitions: Partitions::Range(range, None),
            cascade: false,
            settle: false,
            dry_run: false,
        };
        if backfill.datasets.is_empty() {
            return Err(Error::new(Code::OPTION_INVALID, "no streaming table is selected"));
        }
        let BackfillReport { backfill, run, .. } = self.backfill(&backfill, Arc::clone(&progress)).await?;
        let Some(mut filled) = run else {
            let others = backfill.steps.iter().filter(|step| step.because_of.is_some());
            let others: Vec<String> = others.map(|step| step.dataset.to_string()).collect();
            return Err(Error::new(
                Code::CASCADE_NEEDED,
                format!("nothing was done: {} would have to be computed anew with it", others.join(", ")),
            )
            .hint("select them, too, or use `catchment backfill --cascade`"));
        };
        if !filled.errors.is_empty() {
            return Ok(filled);
        }
        let rest = self.run(options, progress).await?;
        // What was computed anew counts, and what had nothing to do after that does not.
        filled.add(rest);
        Ok(filled)
    }

    /// Gives up a backfill that was begun; what was published stays. Returns what is left of it.
    ///
    /// # Errors
    /// Returns errors of the lease and of writing.
    pub async fn cancel_backfill(&self) -> Result<Option<Backfill>> {
        let checked = self.check().await;
        let (owner, _heartbeat) = self.own().await?;
        let mut found = unfinished(&self.lake).await?;
        if let Some(backfill) = &mut found {
            backfill.steps.retain(|step| !step.left.is_empty());
            for dataset in of(&checked.datasets, backfill) {
                let flows: Vec<_> = dataset.flows.iter().map(|flow| flow.name.clone()).collect();
                cancel_replacement(&owner, &dataset.name, &flows).await?;
            }
        }
        owner.remove_record(&self.lake.layout().backfill()).await?;
        Ok(found)
    }

    async fn do_backfill(
        &self,
        owner: &Arc<Owner>,
        datasets: &[Dataset],
        backfill: Backfill,
        progress: Arc<dyn Progress>,
    ) -> Result<RunReport> {
        let chosen = of(datasets, &backfill);
        let open = Arc::new(Open { owner: Arc::clone(owner), backfill: Mutex::new(backfill.clone()) });
        let report = self.run_datasets(chosen, Mode::Backfill(Arc::clone(&open)), owner, progress).await?;
        // Nothing is published, so nothing has to follow.
        let refused = !open.backfill.lock().await.begun;
        if report.errors.is_empty() || refused {
            if refused {
                for dataset in of(datasets, &backfill) {
                    let flows: Vec<_> = dataset.flows.iter().map(|flow| flow.name.clone()).collect();
                    cancel_replacement(owner, &dataset.name, &flows).await?;
                }
            }
            owner.remove_record(&self.lake.layout().backfill()).await?;
        }
        Ok(report)
    }

    async fn plan_backfill(&self, datasets: &[Dataset], options: &BackfillOptions) -> Result<Backfill> {
        // A serving table is built anew as a whole, when what it has read is not what is there any more.
        let is_serving = |dataset: &&Dataset| dataset.kind == DatasetKind::ServingTable;
        let datasets: Vec<Dataset> =
            datasets.iter().filter(|dataset| !is_serving(dataset)).cloned().collect();
        let datasets = datasets.as_slice();
        let named = select(datasets.to_vec(), &options.datasets)?;
        let mut steps = Vec::new();
        let mut reasons: Vec<(TableName, Option<TableName>)> = Vec::new();
        for dataset in &named {
            if dataset.kind == DatasetKind::MaterializedView {
                return Err(Error::new(
                    Code::FLOW_TARGET,
                    format!(
                        "\"{}\" is a materialized view, which is computed anew from its query",
                        dataset.name
                    ),
                )
                .hint("`catchment run` does that when what it reads has changed"));
            }
            require_fillable(dataset)?;
            reasons.push((dataset.name.clone(), None));
        }
        // Datasets come after those that they read.
        for dataset in datasets.iter().filter(|dataset| named.iter().all(|named| named.name != dataset.name))
        {
            let read = streamed(&dataset.flows).find(|name| reasons.iter().any(|(known, _)| known == name));
            if read.is_some() {
                require_fillable(dataset)?;
            }
            reasons.extend(read.map(|read| (dataset.name.clone(), Some(read))));
        }
        let mut conditions: BTreeMap<TableName, PartitionCondition> = BTreeMap::new();
        for dataset in datasets {
            let Some((_, because_of)) = reasons.iter().find(|(name, _)| *name == dataset.name) else {
                continue;
            };
            let (within, left) = match (&options.partitions, because_of) {
                // The same partitions when rows stay in theirs, or else all.
                (_, Some(read)) => match self.follow(dataset, read, &steps, &conditions) {
                    Some(step) => (step.within.clone(), step.left.clone()),
                    None => (ALL_PARTITIONS.to_owned(), vec![ALL_PARTITIONS.to_owned()]),
                },
                (Partitions::All, None) => (ALL_PARTITIONS.to_owned(), vec![ALL_PARTITIONS.to_owned()]),
                (Partitions::Where(text), None) => (text.clone(), vec![text.clone()]),
                (Partitions::Range(range, step), None) => {
                    let condition = |range: &TimeRange| range.condition(&dataset.name, &dataset.table);
                    (condition(range)?, range.steps(*step).iter().map(condition).collect::<Result<_>>()?)
                }
            };
            let moment = Moment { micros: self.clock.now_micros(), seed: 0 };
            let condition = PartitionCondition::plan(&self.sessions, moment, &within, &dataset.table)?;
            // Where all is computed, no old row is left.
            let settle = options.settle || within == ALL_PARTITIONS;
            let step = self.backfill_step(dataset, within, &condition).await?;
            conditions.insert(dataset.name.clone(), condition);
            steps.push(BackfillStep { because_of: because_of.clone(), left, settle, ..step });
        }
        Ok(Backfill { id: uuid::Uuid::now_v7().to_string(), begun: false, steps })
    }

    /// The step of what a dataset reads whose partitions are those of the dataset, too: each of its flows that
    /// reads what is computed anew passes the columns on by which that is partitioned.
    fn follow<'a>(
        &self,
        dataset: &Dataset,
        read: &TableName,
        steps: &'a [BackfillStep],
        conditions: &BTreeMap<TableName, PartitionCondition>,
    ) -> Option<&'a BackfillStep> {
        let step = steps.iter().find(|step| step.dataset == *read)?;
        let columns = conditions.get(read)?.columns();
        let computed = |name: &TableName| steps.iter().any(|step| step.dataset == *name);
        let keeps = |flow: &FlowSpec, column: &String| {
            dataset.kept.contains(&(flow.name.clone(), read.to_string(), column.clone()))
        };
        let follows = dataset.flows.iter().all(|flow| {
            let mut computed = streamed(std::slice::from_ref(flow)).filter(|name| computed(name)).peekable();
            computed.peek().is_none()
                || (computed.all(|name| name == *read) && columns.iter().all(|column| keeps(flow, column)))
        });
        let partitioned = columns.iter().all(|column| dataset.table.partition_columns.contains(column));
        (follows && partitioned).then_some(step)
    }

    async fn backfill_step(
        &self,
        dataset: &Dataset,
        within: String,
        condition: &PartitionCondition,
    ) -> Result<BackfillStep> {
        let files = match self.lake.table(&dataset.name).latest().await? {
            Some(snapshot) => snapshot.files()?,
            None => Vec::new(),
        };
        let matched = condition.files(&files)?;
        let files: Vec<_> =
            files.into_iter().zip(matched).filter(|(_, matched)| *matched).map(|(file, _)| file).collect();
        let partitions: BTreeSet<Vec<_>> = files
            .iter()
            .map(|file| {
                let mut values: Vec<_> = file.partition_values.clone().into_iter().collect();
                values.sort();
                values
            })
            .collect();
        Ok(BackfillStep {
            dataset: dataset.name.clone(),
            because_of: None,
            within,
            left: Vec::new(),
            settle: false,
            again: None,
            partitions: partitions.len() as u64,
            files: files.len() as u64,
            rows: files.iter().map(rows_of).sum(),
            bytes: files.iter().map(|file| u64::try_from(file.size).unwrap_or(0)).sum(),
        })
    }
}

/// Refuses a dataset with a flow that replaces partitions: which rows it made of those that its condition has left
/// by now, nothing tells.
fn require_fillable(dataset: &Dataset) -> Result<()> {
    if let Some(flow) = dataset.flows.iter().find(|flow| !flow.windows.is_empty()) {
        return Err(Error::new(
            Code::NOT_SUPPORTED,
            format!(
                "partitions of \"{}\" cannot be computed anew: the windows of its flow \"{}\" are closed",
                dataset.name, flow.name
            ),
        )
        .hint("`catchment run --full-refresh` builds the dataset anew from its sources"));
    }
    match dataset.flows.iter().find(|flow| flow.replaces.is_some()) {
        None => Ok(()),
        Some(flow) => Err(Error::new(
            Code::NOT_SUPPORTED,
            format!(
                "partitions of \"{}\" cannot be computed anew: its flow \"{}\" replaces partitions by itself",
                dataset.name, flow.name
            ),
        )
        .hint("a run computes them when what it reads has changed; `catchment run --full-refresh` builds all anew")),
    }
}

/// The datasets of a backfill.
fn of(datasets: &[Dataset], backfill: &Backfill) -> Vec<Dataset> {
    let named = |dataset: &&Dataset| backfill.steps.iter().any(|step| step.dataset == dataset.name);
    datasets.iter().filter(named).cloned().collect()
}

/// The tables that flows read as streams.
fn streamed(flows: &[FlowSpec]) -> impl Iterator<Item = TableName> + '_ {
    flows.iter().flat_map(|flow| &flow.inputs).filter_map(|input| match &input.kind {
        InputKind::Stream(..) => TableName::parse(&input.name, ""),
        _ => None,
    })
}
