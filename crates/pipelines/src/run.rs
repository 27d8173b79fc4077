//! Brings the datasets of a project up to date: each after what it reads, branches side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catchment_catalog::{DatasetOutcome, DatasetStatus, RunRecord, RunStatus, SqliteStore, Store};
use catchment_core::{Backoff, Clock, Code, Error, Result, TableName};
use catchment_flows::{
    CatchUp, FlowReport, FlowSpec, KeyCache, Phases, Progress, Runtime, RuntimeOptions, ServingFolder,
    finish_rollback,
};
use catchment_lake::{Lake, MaintenanceOptions, Owner, RENEW_MILLIS, schema_text};
use catchment_sql::{SessionOptions, Sessions, nearest};
use tokio::task::JoinSet;

use crate::backfill::{BackfillStep, Open};
use crate::check::{Checked, Dataset, check};
use crate::place::{Machine, open_lake};
use crate::project::Project;
use crate::remembered::schema_record;
use crate::statement::DatasetKind;
use crate::streams::Streams;

/// The catalog database in a project's data folder.
/// A command that ends leaves tables as quick to open as they can be.
pub(crate) const ALL_UPKEEP: Duration = Duration::from_secs(3_600);

pub(crate) const CATALOG_FILE: &str = "catalog.sqlite";

/// A project with its lake, catalog and engine: what every command works on.
pub struct Workspace {
    /// The project.
    pub project: Project,
    /// Its lake.
    pub lake: Arc<Lake>,
    /// Its catalog.
    pub store: Arc<dyn Store>,
    /// Its engine.
    pub sessions: Sessions,
    /// Its streams.
    pub streams: Arc<Streams>,
    /// Its serving tables.
    pub(crate) serving: Arc<ServingFolder>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Gives variables of the environment, for `${env:NAME}`.
    pub(crate) variable: fn(&str) -> Option<String>,
    /// Keys of tables that must be unique, for as long as the lake is owned.
    pub(crate) keys: Arc<KeyCache>,
}

/// What `run` is asked to do.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// The datasets to run; all when empty.
    pub select: Vec<String>,
    /// Whether to rebuild them from the start.
    pub full_refresh: bool,
}

/// What is done with datasets.
#[derive(Debug, Clone)]
pub(crate) enum Mode {
    /// They take what is new.
    Update,
    /// They are built again from all their input.
    Refresh,
    /// Rows are taken out of their quarantine.
    Replay,
    /// Partitions of them are computed anew.
    Backfill(Arc<Open>),
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// The run.
    pub run: RunRecord,
    /// What it did for each dataset, in the order of the graph.
    pub datasets: Vec<DatasetOutcome>,
    /// Files that could not be read: dataset, path, reason.
    pub broken: Vec<(TableName, String, String)>,
    /// Files that changed after they were read, and are not read again.
    pub changed: Vec<(TableName, String)>,
    /// Errors of datasets, with their places and causes.
    pub errors: Vec<(TableName, Error)>,
    /// Batches published for each dataset, and where their time went.
    pub phases: Vec<(TableName, u64, Phases)>,
}

impl Workspace {
    /// Opens a project. Nothing is written but the data folder.
    ///
    /// # Errors
    /// Returns errors of the configuration, of reading files and of the catalog.
    pub fn open(folder: &Path, settings: &[String], machine: &Machine) -> Result<Self> {
        let project = Project::load(folder, settings, machine)?;
        let config = &project.config;
        let data = config.data();
        let spill_folder = config.spill_folder();
        std::fs::create_dir_all(&spill_folder).map_err(|error| {
            catchment_lake::storage_error(format!("could not make data folder {data:?}"), error)
        })?;
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&data.join(CATALOG_FILE))?);
        let engine = &config.config.engine;
        let sessions = Sessions::new(&SessionOptions {
            memory_bytes: engine.memory_bytes()?,
            threads: engine.thread_count(),
            spill_folder: spill_folder.clone(),
        })?;
        let lake = open_lake(config, machine, &sessions, spill_folder)?;
        let streams = Arc::new(Streams::new(&project.config, machine));
        let (clock, keys) = (Arc::clone(&machine.clock), Arc::default());
        let serving =
            Arc::new(ServingFolder::new(project.config.data().join("serving"), engine.state_bytes()?));
        let variable = machine.variable;
        Ok(Self { project, lake, store, sessions, streams, serving, clock, variable, keys })
    }

    /// Checks the project without touching data.
    pub async fn check(&self) -> Checked {
        let mut checked = check(&self.project, &self.lake, &self.sessions, &self.streams).await;
        self.check_readers(&mut checked).await;
        checked
    }

    /// Brings datasets up to date with all input available now.
    ///
    /// A dataset that fails keeps those that read it from running, and nothing else.
    ///
    /// # Errors
    /// Returns errors that keep anything from running: of the project, the selection, the lease, the catalog.
    pub async fn run(&self, options: &RunOptions, progress: Arc<dyn Progress>) -> Result<RunReport> {
        let checked = self.check().await;
        Error::join(checked.errors)?;
        let datasets = select(checked.datasets.clone(), &options.select)?;
        let (owner, _heartbeat) = self.own().await?;
        self.finish_backfill(&owner, &checked.datasets, &progress).await?;
        self.declare_streams()?;
        let mode = if options.full_refresh { Mode::Refresh } else { Mode::Update };
        let report = self.run_datasets(datasets, mode, &owner, progress).await;
        owner.end_upkeep(ALL_UPKEEP).await;
        report
    }

    /// Takes the right to write the lake, and keeps it for as long as the heartbeat is held.
    pub(crate) async fn own(&self) -> Result<(Arc<Owner>, Heartbeat)> {
        let owner = Arc::new(self.lake.own().await?);
        self.keys.clear();
        let task = tokio::spawn(keep_lease(Arc::clone(&owner)));
        Ok((Arc::clone(&owner), Heartbeat { owner, task }))
    }

    /// Sends what a dataset has in quarantine through its current definition.
    ///
    /// # Errors
    /// As [`Workspace::run`].
    pub async fn replay(&self, dataset: &str, progress: Arc<dyn Progress>) -> Result<RunReport> {
        let checked = self.check().await;
        Error::join(checked.errors)?;
        let datasets = select(checked.datasets.clone(), &[dataset.to_owned()])?;
        if let Some(view) = datasets.iter().find(|dataset| dataset.kind == DatasetKind::MaterializedView) {
            return Err(Error::new(
                Code::FLOW_TARGET,
                format!("\"{}\" is a materialized view, which is computed anew from its query", view.name),
            )
            .hint("mend what it reads and run it"));
        }
        let mut flows = datasets.iter().flat_map(|dataset| &dataset.flows);
        if let Some(flow) = flows.find(|flow| !flow.windows.is_empty()) {
            return Err(Error::new(
                Code::NOT_SUPPORTED,
                format!(
                    "flow \"{}\" puts rows into windows, for which those in quarantine are late",
                    flow.name
                ),
            )
            .hint("`catchment run --full-refresh` builds the dataset anew from its sources"));
        }
        let (owner, _heartbeat) = self.own().await?;
        self.finish_backfill(&owner, &checked.datasets, &progress).await?;
        let report = self.run_datasets(datasets, Mode::Replay, &owner, progress).await;
        owner.end_upkeep(ALL_UPKEEP).await;
        report
    }

    pub(crate) async fn run_datasets(
        &self,
        datasets: Vec<Dataset>,
        mode: Mode,
        owner: &Arc<Owner>,
        progress: Arc<dyn Progress>,
    ) -> Result<RunReport> {
        finish_rollback(owner, self.store.as_ref()).await?;
        let mut run = RunRecord {
            id: uuid::Uuid::now_v7().to_string(),
            status: RunStatus::Running,
            started_at: self.clock.now_micros(),
            finished_at: None,
            error: None,
        };
        self.store.put_run(&run)?;
        let runtime = Arc::new(self.runtime(owner, run.id.clone())?);
        let worker =
            Arc::new(Worker { runtime: Arc::clone(&runtime), owner: Arc::clone(owner), progress, mode });
        let done = schedule(datasets, &worker, self.project.config.config.engine.thread_count()).await?;
        let mut report = RunReport {
            run: run.clone(),
            datasets: Vec::new(),
            broken: Vec::new(),
            changed: Vec::new(),
            errors: Vec::new(),
            phases: Vec::new(),
        };
        for done in done {
            let mut flow = done.report;
            report.broken.extend(flow.broken.drain(..).map(|(path, why)| (done.name.clone(), path, why)));
            report.changed.extend(flow.changed.drain(..).map(|path| (done.name.clone(), path)));
            report.phases.push((done.name.clone(), flow.batches, flow.phases));
            let status = match &done.state {
                State::Done if flow.batches > 0 => DatasetStatus::Updated,
                State::Done => DatasetStatus::UpToDate,
                State::Failed(_) => DatasetStatus::Failed,
                State::Skipped(_) => DatasetStatus::Skipped,
            };
            let error = match &done.state {
                State::Done => None,
                State::Failed(error) => Some(error.one_line()),
                State::Skipped(why) => Some(why.clone()),
            };
            report.datasets.push(DatasetOutcome {
                run: run.id.clone(),
                dataset: done.name.clone(),
                status,
                rows_in: flow.rows_in,
                rows_out: flow.rows_out,
                quarantined: flow.quarantined,
                dropped: flow.dropped,
                version: flow.version,
                milliseconds: u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX),
                error,
            });
            if let State::Failed(error) = done.state {
                report.errors.push((done.name, error));
            }
        }
        run.status = report.status();
        run.finished_at = Some(self.clock.now_micros());
        run.error = report.errors.first().map(|(_, error)| error.one_line());
        self.store.put_outcomes(&report.datasets)?;
        self.store.put_run(&run)?;
        report.run = run;
        Ok(report)
    }

    /// What runs flows in a run.
    pub(crate) fn runtime(&self, owner: &Arc<Owner>, run: String) -> Result<Runtime> {
        let config = &self.project.config.config;
        let options_of_flows = RuntimeOptions {
            backoff: Backoff { retries: config.engine.retries, ..Backoff::default() },
            maintenance: MaintenanceOptions {
                checkpoint_after: config.maintenance.checkpoint_after,
                minimum_files: config.maintenance.minimum_files,
                target_bytes: config.maintenance.target_bytes()?,
            },
            kept_plans: config.maintenance.kept_plans,
            // Operators of queries share the rest.
            key_bytes: config.engine.memory_bytes()? / 8,
        };
        Ok(Runtime::new(
            Arc::clone(owner),
            self.sessions.clone(),
            Arc::clone(&self.store),
            (Arc::clone(&self.project.files), Arc::clone(&self.serving)),
            (run, Arc::clone(&self.keys)),
            options_of_flows,
        ))
    }
}

impl RunReport {
    /// Adds what a later run did for other datasets, and what it met in the same ones.
    pub(crate) fn add(&mut self, later: RunReport) {
        let known = |name: &TableName| self.datasets.iter().any(|dataset| dataset.dataset == *name);
        let (again, new): (Vec<_>, Vec<_>) =
            later.datasets.into_iter().partition(|dataset| known(&dataset.dataset));
        for outcome in again.into_iter().filter(|outcome| outcome.status != DatasetStatus::UpToDate) {
            self.datasets.retain(|dataset| dataset.dataset != outcome.dataset);
            self.datasets.push(outcome);
        }
        self.datasets.extend(new);
        self.broken.extend(later.broken);
        self.changed = later.changed;
        self.errors.extend(later.errors);
        self.phases.extend(later.phases);
        self.run.finished_at = later.run.finished_at;
    }

    /// How the run ended.
    #[must_use]
    pub fn status(&self) -> RunStatus {
        let any = |wanted: DatasetStatus| self.datasets.iter().any(|dataset| dataset.status == wanted);
        if any(DatasetStatus::Failed) {
            RunStatus::Failed
        } else if !self.broken.is_empty() || self.datasets.iter().any(|dataset| dataset.quarantined > 0) {
            RunStatus::Quarantined
        } else {
            RunStatus::Succeeded
        }
    }
}

/// Renews the lease until it is dropped, and gives it up then.
pub(crate) struct Heartbeat {
    owner: Arc<Owner>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
        let lease = self.owner.lease();
        // Nothing can wait in a destructor; one that is not given up expires.
        if let Ok(handle) = tokio::runtime::Handle::try_current()
            && handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread
        {
            tokio::task::block_in_place(|| handle.block_on(lease.release()));
        }
    }
}

/// Renews the lease until it is lost; commits then fail by themselves.
async fn keep_lease(owner: Arc<Owner>) {
    loop {
        tokio::time::sleep(Duration::from_millis(RENEW_MILLIS)).await;
        if let Err(error) = owner.lease().renew().await {
            tracing::error!(error = %error.one_line(), "could not renew the lease");
            if error.code() == Code::LEASE_LOST {
                return;
            }
        }
    }
}

/// The datasets of these names; all when there is none.
///
/// # Errors
/// Returns [`Code::TABLE_UNKNOWN`] for each name that is none of a dataset.
pub fn select(datasets: Vec<Dataset>, names: &[String]) -> Result<Vec<Dataset>> {
    if names.is_empty() {
        return Ok(datasets);
    }
    let known: Vec<String> = datasets.iter().map(|dataset| dataset.name.to_string()).collect();
    let errors = names.iter().filter(|name| !known.contains(name)).map(|name| {
        let error = Error::new(Code::TABLE_UNKNOWN, format!("no dataset \"{name}\" in the project"));
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        match nearest(name, &names) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error,
        }
    });
    Error::join(errors)?;
    Ok(datasets.into_iter().filter(|dataset| names.contains(&dataset.name.to_string())).collect())
}

struct Worker {
    runtime: Arc<Runtime>,
    owner: Arc<Owner>,
    progress: Arc<dyn Progress>,
    mode: Mode,
}

enum State {
    Done,
    Failed(Error),
    Skipped(String),
}

struct Done {
    name: TableName,
    state: State,
    report: FlowReport,
    took: Duration,
}

/// Runs datasets as soon as what they read is done, at most `width` at a time.
async fn schedule(datasets: Vec<Dataset>, worker: &Arc<Worker>, width: usize) -> Result<Vec<Done>> {
    let order: Vec<TableName> = datasets.iter().map(|dataset| dataset.name.clone()).collect();
    let chosen: BTreeSet<TableName> = order.iter().cloned().collect();
    let mut waiting: Vec<Dataset> = datasets;
    let mut done: BTreeMap<TableName, Done> = BTreeMap::new();
    let mut running = JoinSet::new();
    loop {
        let mut still = Vec::new();
        for dataset in waiting {
            let failed = dataset
                .reads
                .iter()
                .find(|input| done.get(input).is_some_and(|done| !matches!(done.state, State::Done)));
            if let Some(input) = failed {
                let state = State::Skipped(format!("it reads \"{input}\", which is not up to date"));
                let name = dataset.name.clone();
                done.insert(
                    name.clone(),
                    Done { name, state, report: FlowReport::default(), took: Duration::ZERO },
                );
                continue;
            }
            let ready = dataset.reads.iter().all(|input| done.contains_key(input) || !chosen.contains(input));
            if ready && running.len() < width.max(1) {
                let worker = Arc::clone(worker);
                running.spawn(async move { worker.run(dataset).await });
            } else {
                still.push(dataset);
            }
        }
        waiting = still;
        match running.join_next().await {
            Some(finished) => {
                let finished = finished
                    .map_err(|error| Error::new(Code::INTERNAL, "a dataset ended early").because(error))?;
                done.insert(finished.name.clone(), finished);
            }
            None if waiting.is_empty() => break,
            // Skipping one dataset may have made others ready.
            None => {}
        }
    }
    Ok(order.iter().filter_map(|name| done.remove(name)).collect())
}

/// Adds what one flow did to what its dataset did.
fn add(report: &mut FlowReport, one: FlowReport) {
    report.batches += one.batches;
    report.rows_in += one.rows_in;
    report.rows_out += one.rows_out;
    report.quarantined += one.quarantined;
    report.dropped += one.dropped;
    report.broken.extend(one.broken);
    report.changed.extend(one.changed);
    report.phases.add(&one.phases);
    report.version = one.version.or(report.version);
}

impl Worker {
    async fn run(&self, dataset: Dataset) -> Done {
        let started = Instant::now();
        let mut report = FlowReport::default();
        let state = match self.run_flows(&dataset, &mut report).await {
            Ok(()) => State::Done,
            Err(error) => State::Failed(error),
        };
        Done { name: dataset.name, state, report, took: started.elapsed() }
    }

    async fn run_flows(&self, dataset: &Dataset, report: &mut FlowReport) -> Result<()> {
        self.remember_schemas(dataset).await?;
        if matches!(self.mode, Mode::Refresh) {
            let flows: Vec<&FlowSpec> = dataset.flows.iter().collect();
            self.runtime.begin_refresh(&flows).await?;
        }
        let staged = self.runtime.publish_staged(&dataset.flows, self.progress.as_ref()).await?;
        add(report, staged);
        let backfill = match &self.mode {
            Mode::Backfill(open) => open.step(&dataset.name).await,
            _ => None,
        };
        let catch_up =
            CatchUp { refresh: matches!(self.mode, Mode::Refresh), ends_at_replaced: backfill.is_some() };
        for flow in &dataset.flows {
            let one = match self.mode {
                Mode::Replay => self.runtime.replay(flow, self.progress.as_ref()).await?,
                _ => self.runtime.run_flow(flow, catch_up, self.progress.as_ref()).await?,
            };
            add(report, one);
        }
        if let (Mode::Backfill(open), Some(step)) = (&self.mode, backfill) {
            self.backfill(dataset, open, step, report).await?;
        }
        Ok(())
    }

    /// Computes the partitions anew that are left to do.
    async fn backfill(
        &self,
        dataset: &Dataset,
        open: &Open,
        step: BackfillStep,
        report: &mut FlowReport,
    ) -> Result<()> {
        let mut next = Some(step);
        while let Some(step) = next {
            let Some(request) = open.request(&step).await else { break };
            let one =
                self.runtime.replace_partitions(&dataset.flows, &request, self.progress.as_ref()).await?;
            open.done(&dataset.name, &one.again).await?;
            add(report, one);
            next = open.step(&dataset.name).await;
        }
        // Changed files may have been read as they are now.
        report.changed.clear();
        for flow in &dataset.flows {
            add(report, self.runtime.run_flow(flow, CatchUp::default(), self.progress.as_ref()).await?);
        }
        Ok(())
    }

    /// Inferred columns are kept, so that later files cannot change what earlier ones meant.
    async fn remember_schemas(&self, dataset: &Dataset) -> Result<()> {
        for (flow, path, schema) in &dataset.inferred {
            let record = schema_record(self.owner.lake(), flow, path);
            let text = schema_text(schema)?.into_bytes();
            // Inferred columns may have grown with files that are still to be read.
            if self.owner.lake().read_record(&record).await?.as_ref() != Some(&text) {
                self.owner.write_record(&record, text, false).await?;
            }
        }
        Ok(())
    }
}
