//! The files a flow has taken: its plans, compacted into sorted runs.
//!
//! A run `<first>_<last>.parquet` stands for the plans from `first` to `last` of one epoch. Runs are
//! merged when they are of like size, so that a flow of a million files keeps a handful of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use catchment_core::{FaultPoint, FlowName, Position, Result, TableName};
use catchment_ingest::files::{FileInfo, SeenFile, SeenFiles, SeenRun};
use catchment_ingest::{Range, Replaced, Standing, StreamStanding, TableStanding};
use catchment_lake::{Lake, Owner};

use crate::ancestry::Ancestry;
use crate::passed::Passed;
use crate::records::{BatchPlan, Records, StagedBatch};
use crate::spec::{FlowSpec, InputKind};
use crate::windows::{WindowState, remove_unnamed, state_at, state_position};

/// A file that a flow has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// The flow.
    pub flow: FlowName,
    /// The file and the batch that took it.
    pub seen: SeenFile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RunName {
    first: Position,
    last: Position,
}

impl RunName {
    fn parse(name: &str) -> Option<Self> {
        let (first, last) = name.strip_suffix(".parquet")?.split_once('_')?;
        Some(Self { first: first.parse().ok()?, last: last.parse().ok()? })
    }

    fn file(self) -> String {
        format!("{}_{}.parquet", self.first, self.last)
    }
}

/// What a batch took, as bookmarks have it.
pub(crate) fn seen_by(plan: &BatchPlan, staged: &StagedBatch) -> SeenRun {
    let mut run = passed_over(plan);
    if plan.replaces.is_some() {
        // All else that it reads was taken before.
        let again = staged.again.iter().cloned();
        run.files.extend(again.map(|file| SeenFile {
            file,
            taken_by: plan.position,
            broken: None,
            passed_over: false,
            taken_at: Some(plan.planned_at),
        }));
        return run;
    }
    let files = plan.ranges.values().flat_map(Range::files).filter_map(|file| {
        let broken = staged.broken.iter().find(|broken| broken.file.path == file.path);
        // A file that vanished was not taken: when it comes back, it is new.
        if broken.is_some_and(|broken| broken.vanished) {
            return None;
        }
        let broken = broken.map(|broken| broken.reason.clone());
        Some(SeenFile {
            file: file.clone(),
            taken_by: plan.position,
            broken,
            passed_over: false,
            taken_at: Some(plan.planned_at),
        })
    });
    run.files.extend(files);
    run
}

/// What a batch took, or an opening passes over.
async fn seen_at(records: &Records<'_>, at: Position) -> Result<SeenRun> {
    let plan = records.plan(at).await?;
    match plan.is_opening() {
        true => Ok(passed_over(&plan)),
        false => Ok(seen_by(&plan, &records.staged(at).await?)),
    }
}

/// The files that a plan passes over for good.
fn passed_over(plan: &BatchPlan) -> SeenRun {
    let files = plan.passed_over.get(&plan.flow).into_iter().flatten().cloned();
    let seen = |file| SeenFile {
        file,
        taken_by: plan.position,
        broken: None,
        passed_over: true,
        taken_at: Some(plan.planned_at),
    };
    SeenRun { files: files.map(seen).collect() }
}

/// The files that a flow passes over for good.
///
/// # Errors
/// As [`bookmarks`].
pub(crate) async fn files_passed_over(
    lake: &Lake,
    flow: &FlowName,
    published: Position,
) -> Result<Vec<FileInfo>> {
    let seen = SeenRun::merge(seen_runs(lake, flow, published).await?).newest();
    Ok(seen.files.into_iter().filter(|seen| seen.passed_over).map(|seen| seen.file).collect())
}

/// The runs of an epoch, without those that a merged run stands for already.
async fn runs(lake: &Lake, flow: &FlowName, epoch: u32) -> Result<Vec<RunName>> {
    let names = lake.list_records(&lake.layout().bookmarks(flow)).await?;
    let mut runs: Vec<RunName> =
        names.iter().filter_map(|name| RunName::parse(name)).filter(|run| run.last.epoch == epoch).collect();
    let all = runs.clone();
    runs.retain(|run| {
        !all.iter().any(|other| other != run && other.first <= run.first && other.last >= run.last)
    });
    runs.sort();
    Ok(runs)
}

async fn read_run(lake: &Lake, flow: &FlowName, run: RunName) -> Result<SeenRun> {
    let path = lake.layout().bookmarks(flow).join(run.file());
    match lake.read_record(&path).await? {
        Some(bytes) => SeenRun::from_parquet(bytes),
        None => Ok(SeenRun::default()),
    }
}

/// All files that the flow took by batches that its position stands on, from runs and from published plans.
///
/// # Errors
/// Returns [`catchment_core::Code::PLAN_CORRUPT`] when a record cannot be read.
pub async fn bookmarks(lake: &Lake, flow: &FlowName, published: Position) -> Result<Vec<Bookmark>> {
    Ok(SeenRun::merge(seen_runs(lake, flow, published).await?)
        .newest()
        .files
        .into_iter()
        .map(|seen| Bookmark { flow: flow.clone(), seen })
        .collect())
}

/// What the batches took that a position stands on, oldest first.
pub(crate) async fn seen_runs(lake: &Lake, flow: &FlowName, published: Position) -> Result<Vec<SeenRun>> {
    let mut all = Vec::new();
    each_run(lake, flow, published, |run| all.push(run)).await?;
    Ok(all)
}

/// Gives out what the batches took that a position stands on, oldest first.
async fn each_run(
    lake: &Lake,
    flow: &FlowName,
    published: Position,
    mut each: impl FnMut(SeenRun),
) -> Result<()> {
    let records = Records::new(lake, flow);
    let (plans, _) = records.positions().await?;
    for end in Ancestry::of(&records, published).await?.ends() {
        let mut covered = None;
        for run in runs(lake, flow, end.epoch).await? {
            covered = covered.max(Some(run.last));
            let mut run = read_run(lake, flow, run).await?;
            // A rollback may have gone back to the middle of a run.
            run.files.retain(|seen| seen.taken_by <= end);
            each(run);
        }
        for at in
            plans.iter().filter(|at| in_epoch(**at, end) && covered.is_none_or(|covered| **at > covered))
        {
            each(seen_at(&records, *at).await?);
        }
    }
    Ok(())
}

fn in_epoch(at: Position, published: Position) -> bool {
    at.epoch == published.epoch && at <= published
}

/// What the flow has taken: the files of all its inputs, and where it stands in each table.
pub(crate) async fn taken(
    lake: &Lake,
    flow: &FlowName,
    published: Option<Position>,
    replaced: Replaced,
) -> Result<Taken> {
    let Some(published) = published else { return Ok(Taken { replaced, ..Taken::default() }) };
    let records = Records::new(lake, flow);
    let mut seen = SeenFiles::default();
    each_run(lake, flow, published, |run| run.add_to(&mut seen)).await?;
    // The last published plan is never removed.
    let last = records.plan(published).await?;
    let (mut tables, versions) = match Passed::read(lake, flow, published).await? {
        Some(passed) => (passed.tables, passed.versions),
        None => (last.tables.clone(), last.versions.clone()),
    };
    for (name, standing) in &mut tables {
        // A rollback may have undone versions that were passed since they had nothing new.
        if let Some(before) = last.tables.get(name)
            && let Some(table) = TableName::parse(name, "")
            && let Some(snapshot) = lake.table(&table).latest().await?
            && !snapshot.line()?.holds(standing.version)
        {
            *standing = *before;
        }
    }
    let streams = last.streams.clone();
    let horizons = BTreeMap::new();
    let files = Arc::new(seen);
    Ok(Taken { files, tables, streams, horizons, versions, last: Some(last), replaced, windows: None })
}

/// Where a flow stands in each stream that it reads, by the stream's name, when what is published counts.
///
/// # Errors
/// As [`bookmarks`].
pub async fn stream_standings(
    lake: &Lake,
    target: &TableName,
    flow: &FlowName,
) -> Result<BTreeMap<String, StreamStanding>> {
    let Some(snapshot) = lake.table(target).latest().await? else { return Ok(BTreeMap::new()) };
    match snapshot.position(flow.as_str()).await? {
        Some(published) => Ok(Records::new(lake, flow).plan(published).await?.streams),
        None => Ok(BTreeMap::new()),
    }
}

/// How far the event time of a flow with windows has come, when what is published counts; `None` for one without.
///
/// # Errors
/// As [`bookmarks`].
pub async fn window_state(lake: &Lake, target: &TableName, flow: &FlowName) -> Result<Option<WindowState>> {
    let Some(snapshot) = lake.table(target).latest().await? else { return Ok(None) };
    let Some(published) = snapshot.position(flow.as_str()).await? else { return Ok(None) };
    let records = Records::new(lake, flow);
    match state_position(&records, &records.plan(published).await?).await? {
        Some(at) => Ok(records.staged(at).await?.windows),
        None => Ok(None),
    }
}

/// What a flow has taken so far.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) files: Arc<SeenFiles>,
    pub(crate) tables: BTreeMap<String, TableStanding>,
    pub(crate) streams: BTreeMap<String, StreamStanding>,
    /// How far each stream is read before the flow counts as caught up.
    pub(crate) horizons: BTreeMap<String, Arc<StreamStanding>>,
    /// Versions of other tables that hold the rows which the last batch read.
    pub(crate) versions: BTreeMap<String, u64>,
    /// The plan of the last published batch.
    pub(crate) last: Option<BatchPlan>,
    pub(crate) replaced: Replaced,
    /// Of a flow with windows: what it goes on from, and the batch that tells it.
    pub(crate) windows: Option<(Option<Position>, WindowState)>,
}

impl Taken {
    /// Where the flow stands in one of its inputs.
    pub(crate) fn standing(&self, input: &str) -> Standing {
        Standing {
            files: Arc::clone(&self.files),
            table: self.tables.get(input).copied(),
            stream: self.streams.get(input).cloned(),
            horizon: self.horizons.get(input).cloned(),
            replaced: self.replaced.clone(),
        }
    }

    /// What a flow with windows goes on from.
    pub(crate) async fn window_state(
        &mut self,
        records: &Records<'_>,
    ) -> Result<&(Option<Position>, WindowState)> {
        if self.windows.is_none() {
            let at = match &self.last {
                Some(last) => state_position(records, last).await?,
                None => None,
            };
            self.windows = Some((at, state_at(records, at).await?));
        }
        Ok(self.windows.get_or_insert_default())
    }

    /// Notes where the streams end now: a flow that follows a busy stream would never have caught up.
    pub(crate) async fn look_ahead(mut self, spec: &FlowSpec) -> Result<Self> {
        for input in &spec.inputs {
            if let InputKind::Stream(source, _) = &input.kind
                && let Some(horizon) = source.horizon().await?
            {
                self.horizons.insert(input.name.clone(), Arc::new(horizon));
            }
        }
        Ok(self)
    }

    /// Adds a published batch.
    pub(crate) fn add(&mut self, plan: BatchPlan, staged: &StagedBatch) {
        seen_by(&plan, staged).add_to(Arc::make_mut(&mut self.files));
        self.tables = plan.tables.clone();
        self.streams = plan.streams.clone();
        self.versions = plan.versions.clone();
        self.windows = staged.windows.clone().map(|state| (Some(plan.position), state));
        self.last = Some(plan);
    }
}

/// Compacts old plans into a run when there are twice as many as are kept, and removes them.
pub(crate) async fn compact(owner: &Owner, flow: &FlowName, published: Position, kept: usize) -> Result<()> {
    // The last published plan is never removed.
    let kept = kept.max(1);
    let lake = owner.lake();
    let records = Records::new(lake, flow);
    let (plans, _) = records.positions().await?;
    let done: Vec<Position> = plans.into_iter().filter(|at| in_epoch(*at, published)).collect();
    if done.len() < 2 * kept {
        return Ok(());
    }
    let old = &done[..done.len() - kept];
    let existing = runs(lake, flow, published.epoch).await?;
    let covered = existing.iter().map(|run| run.last).max();
    // The plan that opens an epoch may stay after a run stands for it, too.
    let fresh: Vec<Position> =
        old.iter().copied().filter(|at| covered.is_none_or(|covered| *at > covered)).collect();
    let mut parts = Vec::new();
    for at in &fresh {
        parts.push(seen_at(&records, *at).await?);
    }
    if let (Some(first), Some(last)) = (fresh.first(), fresh.last()) {
        let mut name = RunName { first: *first, last: *last };
        let mut merged = SeenRun::merge(parts);
        for run in existing.into_iter().rev() {
            let before = read_run(lake, flow, run).await?;
            if before.files.len() > 4 * merged.files.len().max(1) {
                break;
            }
            name.first = run.first;
            merged = SeenRun::merge([before, merged]);
        }
        let folder = lake.layout().bookmarks(flow);
        owner.write_record(&folder.clone().join(name.file()), merged.to_parquet()?, false).await?;
        lake.faults().reach(FaultPoint::BookmarkRun)?;
        for stale in lake.list_records(&folder).await?.iter().filter_map(|file| RunName::parse(file)) {
            if stale != name && name.first <= stale.first && stale.last <= name.last {
                owner.remove_record(&folder.clone().join(stale.file())).await?;
            }
        }
    }
    for at in old {
        // An epoch that a rollback opened goes on from another: that must stay known.
        if at.number > 0 || records.plan(*at).await?.parent.is_none() {
            records.remove(owner, *at).await?;
        }
    }
    remove_unnamed(owner, flow).await
}
