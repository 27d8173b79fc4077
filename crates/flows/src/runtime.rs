//! Runs a flow until it has caught up: recover, then plan, compute, stage and publish, batch by batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use catchment_catalog::{BatchRecord, Store};
use catchment_core::{Backoff, Clock, Error, FaultPoint, FlowName, Position, Result, Retry, TableName};
use catchment_ingest::files::FileStores;
use catchment_ingest::{Limits, Range, Replaced, Standing};
use catchment_lake::{Lake, MaintenanceOptions, Outcome, Owner, Publication};
use catchment_sql::Sessions;
use rand::Rng;
use serde_json::json;

use crate::bookmarks::{Taken, compact, files_passed_over, taken};
use crate::finder::KeyCache;
use crate::passed::{Passed, same_rows};
use crate::quarantine::quarantine_spec;
use crate::records::{BatchPlan, BatchSummary, Records, StagedBatch, StagedOutput};
use crate::report::{FlowReport, Phase, Phases, Stopwatch};
use crate::resume::{Resume, resume};
use crate::serving::ServingFolder;
use crate::spec::{FlowKind, FlowSpec, Input, InputKind};
use crate::windows::require_state;

/// Is told what flows do while they run.
pub trait Progress: Send + Sync {
    /// A batch was published, after its parts took so long, the last one until now.
    fn published(&self, batch: &BatchRecord, took: &Phases);

    /// An attempt failed and is going to be repeated.
    fn retrying(&self, flow: &FlowName, error: &Error);
}

/// How flows are retried and looked after.
#[derive(Debug, Clone, Copy)]
pub struct RuntimeOptions {
    /// How errors that may pass are tried again.
    pub backoff: Backoff,
    /// When tables are maintained.
    pub maintenance: MaintenanceOptions,
    /// Published plans of a flow that are kept as they are.
    pub kept_plans: usize,
    /// Memory for the keys of one table that must be unique, in bytes.
    pub key_bytes: usize,
}

/// How a flow catches up with its inputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CatchUp {
    /// A replaced table is computed anew even when nothing it reads has changed; for other flows see
    /// [`Runtime::begin_refresh`].
    pub refresh: bool,
    /// Nothing is read of a streamed table from a version on that computed partitions of it anew, since the
    /// flow's own table is going to be computed anew as well.
    pub ends_at_replaced: bool,
}

impl CatchUp {
    fn replaced(self) -> Replaced {
        if self.ends_at_replaced { Replaced::Ends } else { Replaced::Refused }
    }
}

/// What flows need to run.
pub struct Runtime {
    pub(crate) owner: Arc<Owner>,
    pub(crate) sessions: Sessions,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) files: Arc<FileStores>,
    pub(crate) serving: Arc<ServingFolder>,
    run: String,
    options: RuntimeOptions,
    pub(crate) keys: Arc<KeyCache>,
}

impl Runtime {
    /// Makes a runtime for one run, whose id is `run`. The keys may outlive it.
    #[must_use]
    pub fn new(
        owner: Arc<Owner>,
        sessions: Sessions,
        store: Arc<dyn Store>,
        (files, serving): (Arc<FileStores>, Arc<ServingFolder>),
        (run, keys): (String, Arc<KeyCache>),
        options: RuntimeOptions,
    ) -> Self {
        let clock = Arc::clone(owner.lake().clock());
        Self { owner, sessions, store, clock, files, serving, run, options, keys }
    }

    pub(crate) fn spill_folder(&self) -> std::path::PathBuf {
        self.sessions.spill_folder().to_path_buf()
    }

    /// Plans behind the last published one that are kept.
    pub(crate) fn kept_plans(&self) -> u64 {
        self.options.kept_plans.max(1) as u64
    }

    pub(crate) fn key_bytes(&self) -> usize {
        self.options.key_bytes
    }

    pub(crate) fn lake(&self) -> &Lake {
        self.owner.lake()
    }

    /// Runs a flow until it has caught up with its inputs.
    ///
    /// Errors marked retryable are tried again with backoff; what is durable by then is kept.
    ///
    /// # Errors
    /// Returns the error that ended it. What was published before stays published.
    pub async fn run_flow(
        &self,
        spec: &FlowSpec,
        catch_up: CatchUp,
        progress: &dyn Progress,
    ) -> Result<FlowReport> {
        let (mut report, mut retries) = (FlowReport::default(), 0);
        loop {
            let done = match &spec.serving {
                Some(serving) => {
                    let refresh = catch_up.refresh && report.batches == 0;
                    self.run_serving(spec, serving, refresh, progress).await.map(|done| report = done)
                }
                None => self.catch_up(spec, catch_up, progress, &mut report).await,
            };
            let error = match done {
                Ok(()) => return Ok(report),
                Err(error) => error,
            };
            let delay = self.options.backoff.delay(retries, rand::rng().random());
            match delay {
                Some(delay) if error.retry() == Retry::Backoff => {
                    progress.retrying(&spec.name, &error);
                    retries += 1;
                    tokio::time::sleep(delay).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// Publishes what flows of one table have staged and not published. All of them go first, before any of
    /// them computes: which keys are in the table must be known by then.
    ///
    /// # Errors
    /// Returns errors of reading and writing.
    pub async fn publish_staged(&self, specs: &[FlowSpec], progress: &dyn Progress) -> Result<FlowReport> {
        let mut report = FlowReport::default();
        if specs.iter().any(|spec| spec.serving.is_some()) {
            return Ok(report);
        }
        self.finish_replacement(specs, progress, &mut report).await?;
        for spec in specs {
            self.finish_replay(spec, progress, &mut report).await?;
            let records = Records::new(self.lake(), &spec.name);
            let published = self.owner.writer(&spec.target).position(&spec.name).await?;
            let (plans, staged) = records.positions().await?;
            if let Resume::Publish(at) = resume(published, plans.last().copied(), staged.last().copied()) {
                let (plan, staged) = (records.plan(at).await?, records.staged(at).await?);
                self.publish(spec, &plan, &staged, Stopwatch::start(), progress, &mut report).await?;
            }
        }
        Ok(report)
    }

    async fn catch_up(
        &self,
        spec: &FlowSpec,
        catch_up: CatchUp,
        progress: &dyn Progress,
        report: &mut FlowReport,
    ) -> Result<()> {
        let mut refresh = catch_up.refresh && report.batches == 0;
        self.finish_replay(spec, progress, report).await?;
        let records = Records::new(self.lake(), &spec.name);
        let mut published = self.owner.writer(&spec.target).position(&spec.name).await?;
        self.reconcile(spec, published).await?;
        let (plans, staged) = records.positions().await?;
        let mut next = resume(published, plans.last().copied(), staged.last().copied());
        let taken = taken(self.lake(), &spec.name, published, catch_up.replaced()).await?;
        let mut taken = taken.look_ahead(spec).await?;
        loop {
            let mut watch = Stopwatch::start();
            let (plan, staged) = match next {
                Resume::Publish(at) => (records.plan(at).await?, records.staged(at).await?),
                Resume::Stage(at) => {
                    let plan = records.plan(at).await?;
                    if !plan.is_reset() && !still_holds(spec, &plan).await? {
                        // Nothing came of the plan, and its definition or its files are gone: plan anew.
                        records.remove(&self.owner, at).await?;
                        next = Resume::Plan(at);
                        continue;
                    }
                    let staged = self.stage(spec, &records, &plan).await?;
                    (plan, staged)
                }
                Resume::Plan(at) => {
                    self.lake().faults().reach(FaultPoint::BeforePlan)?;
                    let Some(plan) = self.plan(spec, at, published, &mut taken, refresh).await? else {
                        break;
                    };
                    refresh = false;
                    let plan = records.write_plan(&self.owner, plan).await?;
                    self.lake().faults().reach(FaultPoint::PlanWritten)?;
                    watch.end(Phase::Plan);
                    let staged = self.stage(spec, &records, &plan).await?;
                    (plan, staged)
                }
            };
            watch.end(Phase::Stage);
            self.publish(spec, &plan, &staged, watch, progress, report).await?;
            let at = plan.position;
            published = Some(at);
            if plan.is_reset() {
                let horizons = std::mem::take(&mut taken.horizons);
                taken = Taken { replaced: catch_up.replaced(), horizons, ..Taken::default() };
            }
            taken.add(plan, &staged);
            compact(&self.owner, &spec.name, at, self.options.kept_plans).await?;
            next = Resume::Plan(at.next());
        }
        if spec.kind == FlowKind::Append && published.is_some() {
            // New columns are there for others, with or without new rows.
            self.owner.writer(&spec.target).ensure(&spec.table).await?;
        }
        report.changed = self.changed(spec, &taken);
        self.clean(spec, &taken);
        report.version = self.owner.writer(&spec.target).version().await?;
        Ok(())
    }

    /// Files of the flow's inputs that changed after they were read.
    fn changed(&self, spec: &FlowSpec, taken: &Taken) -> Vec<String> {
        let mut changed = Vec::new();
        for input in &spec.inputs {
            if let InputKind::Stream(source, _) = &input.kind {
                changed.extend(source.changed(&taken.standing(&input.name)).unwrap_or_default());
            }
        }
        changed
    }

    /// Plans the next batch, `None` when there is nothing to do.
    async fn plan(
        &self,
        spec: &FlowSpec,
        at: Position,
        published: Option<Position>,
        taken: &mut Taken,
        refresh: bool,
    ) -> Result<Option<BatchPlan>> {
        let mut plan = BatchPlan {
            seed: rand::rng().random(),
            tables: taken.tables.clone(),
            streams: taken.streams.clone(),
            replaces_where: spec.replaces.clone(),
            late: spec.late.as_ref().map(|(table, _)| table.clone()),
            definition_hash: definition_hash(spec),
            definition: spec.definition.clone(),
            ..BatchPlan::empty(spec.name.clone(), at, self.clock.now_micros())
        };
        spec.require_kind_of(taken.last.as_ref())?;
        let windows = match spec.windows.is_empty() {
            true => None,
            false => {
                let records = Records::new(self.lake(), &spec.name);
                let (at, state) = taken.window_state(&records).await?.clone();
                require_state(spec, &state)?;
                plan.state = at;
                Some(state)
            }
        };
        let known = taken.versions.clone();
        if taken.last.is_none() {
            let existing = spec.existing_files().await?;
            existing.iter().for_each(|file| Arc::make_mut(&mut taken.files).insert_passed_over(file));
            plan.passed_over.extend((!existing.is_empty()).then(|| (spec.name.clone(), existing)));
        }
        for input in &spec.inputs {
            let range = match &input.kind {
                InputKind::Stream(source, limits) => source
                    .plan(&taken.standing(&input.name), *limits)
                    .await
                    .map_err(|error| for_dataset(error, &spec.target))?,
                InputKind::Everything(source) => source.everything().await?,
                InputKind::Table(name, Some(version)) => {
                    plan.versions
                        .insert(input.name.clone(), self.lake().table(name).at(*version).await?.version());
                    None
                }
                InputKind::Table(name, None) => {
                    let table = self.lake().table(name);
                    let newest = table.existing().await?.version();
                    plan.versions.insert(input.name.clone(), newest);
                    if let Some(known) = taken.versions.get_mut(&input.name)
                        && *known != newest
                        && same_rows(&table, *known, newest).await?
                    {
                        *known = newest;
                    }
                    None
                }
            };
            if let Some(range) = &range
                && is_behind(spec, input, range, taken.standing(&input.name)).await?
            {
                plan.behind.insert(input.name.clone());
            }
            if let Some(range) = range {
                if let Range::Table { upto, .. } = &range {
                    plan.tables.insert(input.name.clone(), *upto);
                }
                if let Range::Stream { upto, .. } = &range {
                    plan.streams.insert(input.name.clone(), upto.clone());
                }
                if !range.is_empty() {
                    plan.ranges.insert(input.name.clone(), range);
                }
            }
        }
        let due = match spec.kind {
            FlowKind::Append => {
                let streams: Vec<_> =
                    spec.inputs.iter().filter(|input| matches!(input.kind, InputKind::Stream(..))).collect();
                // A first batch makes the table, even when it is empty.
                published.is_none()
                    || streams.iter().any(|input| plan.ranges.contains_key(&input.name))
                    || windows.is_some_and(|state| state.closes_without_rows(&plan))
            }
            FlowKind::AppendOnce => taken.last.as_ref().is_none_or(BatchPlan::starts_over),
            FlowKind::Replace | FlowKind::ReplaceWhere => {
                refresh || taken.last.as_ref().is_none_or(|last| !plan.same_input(last, &taken.versions))
            }
        };
        if due {
            return Ok(Some(plan));
        }
        let before =
            Passed { position: published, tables: std::mem::take(&mut taken.tables), versions: known };
        taken.tables = plan.tables;
        let after =
            Passed { tables: taken.tables.clone(), versions: taken.versions.clone(), ..before.clone() };
        if after != before {
            after.write(&self.owner, &spec.name).await?;
        }
        Ok(None)
    }

    async fn stage(&self, spec: &FlowSpec, records: &Records<'_>, plan: &BatchPlan) -> Result<StagedBatch> {
        let (staged, known) = if plan.is_reset() {
            self.keys.take(&spec.target);
            (self.reset(spec, plan).await?, None)
        } else if let Some(condition) = &spec.replaces {
            (self.compute_where(spec, plan, condition).await?, None)
        } else {
            self.compute(spec, plan, None).await?
        };
        let staged = records.write_staged(&self.owner, staged).await?;
        self.keys.keep(&spec.target, known);
        self.lake().faults().reach(FaultPoint::StagedWritten)?;
        Ok(staged)
    }

    /// Publishes every output that is not there yet; the flow's target comes last, so its position
    /// says that all others are published.
    pub(crate) async fn publish(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        staged: &StagedBatch,
        mut watch: Stopwatch,
        progress: &dyn Progress,
        report: &mut FlowReport,
    ) -> Result<()> {
        let mut version = None;
        for (flow, position) in plan.resets.iter().filter(|(flow, _)| *flow != spec.name) {
            // The table is emptied once for all of its flows, so all must know that it was.
            let sibling = BatchPlan { flow: flow.clone(), position: *position, ..plan.clone() };
            Records::new(self.lake(), flow).write_plan(&self.owner, sibling).await?;
        }
        for (index, output) in staged.outputs.iter().enumerate() {
            if index > 0 {
                self.lake().faults().reach(FaultPoint::BetweenOutputs)?;
            }
            let writer = self.owner.writer(&output.table);
            // Partitions are told of as a backfill tells of them: readers of streams have to know.
            let replaces = output.replaces.as_ref();
            let publication = Publication {
                position: Some((spec.name.clone(), plan.position)),
                other_positions: plan.resets.iter().filter(|(flow, _)| *flow != spec.name).cloned().collect(),
                adds: output.adds.clone(),
                removes: output.removes.clone(),
                batch: json!({ "dataset": spec.target, "flow": spec.name, "position": plan.position, "replaces": replaces, "summary": staged.summary }),
            };
            let outcome = if let Some(condition) = replaces {
                self.publish_where(spec, plan, condition, publication).await?
            } else if output.replace {
                writer.overwrite(&output.spec, publication).await?
            } else if !output.removes.is_empty() {
                writer.ensure(&output.spec).await?;
                writer.swap(publication).await?
            } else {
                writer.ensure(&output.spec).await?;
                writer.append(publication).await?
            };
            if let Outcome::Committed(committed) = outcome {
                self.look_after(&output.table, committed);
                version = Some(committed);
            }
        }
        self.lake().faults().reach(FaultPoint::Published)?;
        if let Some(version) = version {
            let record = self.enter(spec, plan.position, &staged.summary, version)?;
            let took = watch.end(Phase::Publish);
            report.phases.add(&took);
            progress.published(&record, &took);
            report.count(&record);
            let broken = staged.broken.iter().map(|broken| (broken.file.path.clone(), broken.reason.clone()));
            report.broken.extend(broken);
        }
        self.lake().faults().reach(FaultPoint::BooksWritten)
    }

    /// Enters a published batch into the books.
    pub(crate) fn enter(
        &self,
        spec: &FlowSpec,
        at: Position,
        summary: &BatchSummary,
        version: u64,
    ) -> Result<BatchRecord> {
        let mut record = summary.record(&spec.name, &spec.target, at, version, self.clock.now_micros());
        record.run = Some(self.run.clone());
        self.store.put_batch(&record)?;
        Ok(record)
    }

    /// Brings the books up to what the table says: a crash may have come between commit and books.
    async fn reconcile(&self, spec: &FlowSpec, published: Option<Position>) -> Result<()> {
        let Some(published) = published else { return Ok(()) };
        let known = self.store.last_position(&spec.name)?;
        if known >= Some(published) {
            return Ok(());
        }
        let table = self.lake().table(&spec.target);
        let mut version = table.existing().await?.version();
        while let Some(entry) = table.entry(version).await? {
            if let Some(at) = entry.position(spec.name.as_str()) {
                if known >= Some(at) {
                    break;
                }
                // Where several flows publish together, the first one tells for all.
                let is_told = entry.batch["flow"] == json!(spec.name);
                let summary =
                    if is_told { entry.batch["summary"].clone() } else { json!(BatchSummary::default()) };
                if let Ok(summary) = serde_json::from_value::<BatchSummary>(summary) {
                    self.store.put_batch(&summary.record(
                        &spec.name,
                        &spec.target,
                        at,
                        version,
                        entry.timestamp * 1_000,
                    ))?;
                }
            }
            let Some(before) = version.checked_sub(1) else { break };
            version = before;
        }
        Ok(())
    }

    /// Has a table looked after in the background, now that it has one version more.
    pub(crate) fn look_after(&self, table: &TableName, version: u64) {
        let mut options = self.options.maintenance;
        if table.is_quarantine() {
            // A replay replaces the files that it has read; they stay as they are until then.
            options.minimum_files = usize::MAX;
        }
        self.owner.look_after(table, version, options);
    }

    /// The batch that begins an epoch: it empties the table and reads nothing.
    async fn reset(&self, spec: &FlowSpec, plan: &BatchPlan) -> Result<StagedBatch> {
        let empty = |table: TableName, spec| StagedOutput {
            table,
            spec,
            replace: true,
            replaces: None,
            adds: Vec::new(),
            removes: Vec::new(),
        };
        let quarantine = spec.target.quarantine();
        let mut outputs = Vec::new();
        if self.lake().table(&quarantine).latest().await?.is_some() {
            outputs.push(empty(quarantine, quarantine_spec(&spec.target)));
        }
        if let Some((late, declared)) = &spec.late
            && self.lake().table(late).latest().await?.is_some()
        {
            outputs.push(empty(late.clone(), declared.clone()));
        }
        outputs.push(empty(spec.target.clone(), spec.table.clone()));
        let summary = BatchSummary { planned_at: plan.planned_at, ..BatchSummary::default() };
        Ok(StagedBatch {
            position: plan.position,
            outputs,
            broken: Vec::new(),
            again: Vec::new(),
            windows: None,
            summary,
        })
    }

    /// Begins a full refresh of a dataset: all its flows open a new epoch, whose first batch empties the table.
    ///
    /// # Errors
    /// Returns errors of reading and writing. Once this returns, running the flows completes the
    /// refresh, also after a crash.
    pub async fn begin_refresh(&self, flows: &[&FlowSpec]) -> Result<()> {
        let (mut resets, mut passed_over) = (Vec::new(), BTreeMap::new());
        for spec in flows.iter().filter(|spec| spec.kind != FlowKind::Replace && spec.serving.is_none()) {
            let published = self.owner.writer(&spec.target).position(&spec.name).await?;
            let (plans, _) = Records::new(self.lake(), &spec.name).positions().await?;
            if let Some(newest) = published.max(plans.last().copied()) {
                resets.push((spec.name.clone(), Position::new(newest.epoch + 1, 0)));
            }
            if let Some(published) = published {
                self.require_files(spec, published).await?;
            }
            if let Some(published) = published.filter(|_| spec.inputs.iter().any(Input::leaves_existing)) {
                let files = files_passed_over(self.lake(), &spec.name, published).await?;
                passed_over.insert(spec.name.clone(), files);
            }
        }
        // One plan is enough: publishing it writes those of the others.
        let first = resets.first().cloned();
        let Some(((flow, position), spec)) = first.and_then(|first| {
            let spec = flows.iter().find(|spec| spec.name == first.0)?;
            Some((first, spec))
        }) else {
            return Ok(());
        };
        let plan = BatchPlan {
            resets,
            passed_over,
            definition_hash: definition_hash(spec),
            definition: spec.definition.clone(),
            ..BatchPlan::empty(flow.clone(), position, self.clock.now_micros())
        };
        Records::new(self.lake(), &flow).write_plan(&self.owner, plan).await.map(|_| ())
    }
}

/// An error of a source, with the dataset that reads it in its hint.
fn for_dataset(error: Error, dataset: &TableName) -> Error {
    match error.hint_text().map(|hint| hint.replace("DATASET", &dataset.to_string())) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Whether an input whose rows are put into windows has more than a range of it: its pieces come in no order, so that
/// its time must wait until all are read. Partitions of streams are each in order.
async fn is_behind(spec: &FlowSpec, input: &Input, range: &Range, mut standing: Standing) -> Result<bool> {
    match &input.kind {
        InputKind::Stream(source, _)
            if spec.windows.contains_key(&input.name) && !matches!(range, Range::Stream { .. }) =>
        {
            range.advance(&mut standing);
            let more = source.plan(&standing, Limits { files: 1, bytes: 1 }).await?;
            Ok(more.is_some_and(|more| !more.is_empty()))
        }
        _ => Ok(false),
    }
}

/// Whether a plan that nothing came of can be computed: its definition and its files are as they were.
async fn still_holds(spec: &FlowSpec, plan: &BatchPlan) -> Result<bool> {
    if plan.definition_hash != definition_hash(spec) {
        return Ok(false);
    }
    for input in &spec.inputs {
        if let (InputKind::Stream(source, _), Some(range)) = (&input.kind, plan.ranges.get(&input.name))
            && !source.is_current(range).await?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A hash of what decides a flow's result besides its input.
pub(crate) fn definition_hash(spec: &FlowSpec) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(spec.definition.as_bytes()))
}
