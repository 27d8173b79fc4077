//! Plans a rollback from what the lake holds. Nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use catchment_core::{Code, Error, FlowName, Position, Result, TableName};
use catchment_ingest::Range;
use catchment_ingest::files::{FileStores, SeenRun};
use catchment_lake::{Add, Lake, OWNER_APPLICATION, Snapshot, Table};

use crate::ancestry::Ancestry;
use crate::bookmarks::{files_passed_over, seen_runs};
use crate::records::{BatchPlan, Records};
use crate::replay::replay_flow;
use crate::rollback::settle::{Judge, Lines, settle};
use crate::rollback::{Rollback, RollbackStep, TableStep};

/// Files and flows named in an error; more are counted.
const NAMED: usize = 5;

/// What a rollback is to do.
#[derive(Debug)]
pub struct RollbackRequest<'a> {
    /// Where the files of its sources lie.
    pub files: &'a FileStores,
    /// The project's datasets with their flows, each after those that it reads.
    pub datasets: &'a [(TableName, Vec<FlowName>)],
    /// Flows whose files are taken away when they were read: another file of the same name is not the one that was read.
    pub cleaned: &'a BTreeSet<FlowName>,
    /// The versions asked for; `None` is before there was any.
    pub targets: &'a BTreeMap<TableName, Option<u64>>,
    /// The time, in microseconds since the Unix epoch.
    pub now: i64,
}

/// Plans what has to happen so that the datasets asked for have the versions asked for.
///
/// # Errors
/// Returns [`Code::VERSION_UNKNOWN`] for versions that are not there, and [`Code::HISTORY_GONE`] when a source
/// does not hold any more what would have to be read again.
pub async fn plan_rollback(lake: &Lake, request: &RollbackRequest<'_>) -> Result<Rollback> {
    let mut planner = Planner { lake, request, lines: Lines::new(), steps: Vec::new() };
    for (dataset, _) in request.datasets {
        if let Some(snapshot) = lake.table(dataset).latest().await? {
            planner.lines.insert(dataset.clone(), Some(snapshot.line()?));
        }
    }
    let mut errors = Vec::new();
    for (dataset, flows) in request.datasets {
        match planner.dataset(dataset, flows).await {
            Ok(()) => {}
            Err(error) => errors.push(error),
        }
    }
    Error::join(errors)?;
    Ok(Rollback { steps: planner.steps })
}

struct Planner<'a> {
    lake: &'a Lake,
    request: &'a RollbackRequest<'a>,
    /// Where the datasets stand when all steps are done.
    lines: Lines,
    steps: Vec<RollbackStep>,
}

impl Planner<'_> {
    async fn dataset(&mut self, dataset: &TableName, flows: &[FlowName]) -> Result<()> {
        let asked = self.request.targets.get(dataset).copied();
        if asked.is_none() && self.steps.is_empty() {
            return Ok(());
        }
        let table = self.lake.table(dataset);
        let Some(now) = table.latest().await? else { return Ok(()) };
        let start = match asked {
            Some(Some(version)) if version > now.version() => {
                return Err(Error::new(
                    Code::VERSION_UNKNOWN,
                    format!("table \"{dataset}\" has no version {version}, its newest is {}", now.version()),
                ));
            }
            Some(Some(version)) => Some(table.at(past_upkeep(&table, version).await?).await?),
            Some(None) => None,
            None => Some(now.clone()),
        };
        let mut all: BTreeSet<FlowName> =
            flows.iter().flat_map(|flow| [flow.clone(), replay_flow(flow)]).collect();
        let version = match &start {
            Some(start) => settle(self.lake, start, &all, &Judge::Inputs(&self.lines)).await?,
            None => None,
        };
        if version == Some(now.version()) && !self.is_planned_on_undone(&now, &all).await? {
            return Ok(());
        }
        // Flows that the project does not have any more may have written, too.
        all.extend(writers(&table, &now, version).await?);
        let restored = match version {
            Some(version) => self.restored(dataset, &now, table.at(version).await?, &all).await?,
            None => None,
        };
        let (to, openings, mut tables) = match restored {
            Some((to, openings, tables)) => (Some(to), openings, tables),
            None if matches!(asked, Some(Some(_))) => return Err(gone(dataset)),
            None => {
                let openings = self.openings(dataset, &now, None, &all).await?.unwrap_or_default();
                let tables = self.beside(&now, None, &all, &openings).await?.unwrap_or_default();
                (None, openings, tables)
            }
        };
        if openings.is_empty() {
            return Ok(());
        }
        let (files, changed) = self.require_sources(&now, &openings).await?;
        for beside in &tables {
            // Others may read them, too.
            let line = match beside.to {
                Some(version) => Some(self.lake.table(&beside.table).at(version).await?.line()?),
                None => None,
            };
            self.lines.insert(beside.table.clone(), line);
        }
        tables.push(step(&now, to.as_ref())?);
        let because_of = match asked {
            Some(_) => None,
            None => self.reason(&now, &all).await?,
        };
        self.lines.insert(dataset.clone(), to.as_ref().map(Snapshot::line).transpose()?);
        self.steps.push(RollbackStep {
            dataset: dataset.clone(),
            because_of,
            tables,
            openings,
            files,
            changed,
        });
        Ok(())
    }

    /// Whether a batch is planned and not published that reads what is going to be undone. It would be computed
    /// or published as it was planned.
    async fn is_planned_on_undone(&self, now: &Snapshot, flows: &BTreeSet<FlowName>) -> Result<bool> {
        let judge = Judge::Inputs(&self.lines);
        for flow in flows {
            let published = now.position(flow.as_str()).await?;
            let (plans, _) = Records::new(self.lake, flow).positions().await?;
            for at in plans.into_iter().filter(|at| published.is_none_or(|published| *at > published)) {
                if !judge.may_stay(self.lake, flow, at, None).await? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What it takes to bring back a version; `None` when plans or data files that it needs are gone.
    async fn restored(
        &self,
        dataset: &TableName,
        now: &Snapshot,
        to: Snapshot,
        flows: &BTreeSet<FlowName>,
    ) -> Result<Option<(Snapshot, Vec<BatchPlan>, Vec<TableStep>)>> {
        if self.lost_files(now, &to).await? {
            return Ok(None);
        }
        let Some(openings) = self.openings(dataset, now, Some(&to), flows).await? else { return Ok(None) };
        let tables = self.beside(now, Some(&to), flows, &openings).await?;
        Ok(tables.map(|tables| (to, openings, tables)))
    }

    /// Whether data files of an older version are gone.
    async fn lost_files(&self, now: &Snapshot, then: &Snapshot) -> Result<bool> {
        let held: BTreeSet<String> = now.files()?.into_iter().map(|file| file.path).collect();
        let then = then.files()?;
        let needed: Vec<&str> =
            then.iter().filter(|file| !held.contains(&file.path)).map(|file| file.path.as_str()).collect();
        Ok(!self.lake.table(now.name()).missing_files(&needed).await?.is_empty())
    }

    /// The plans that open new epochs; `None` when one cannot be made since an old plan is not kept any more.
    async fn openings(
        &self,
        dataset: &TableName,
        now: &Snapshot,
        to: Option<&Snapshot>,
        flows: &BTreeSet<FlowName>,
    ) -> Result<Option<Vec<BatchPlan>>> {
        let mut openings = Vec::new();
        for flow in flows {
            let records = Records::new(self.lake, flow);
            let newest = records.positions().await?.0.last().copied();
            let Some(newest) = now.position(flow.as_str()).await?.max(newest) else { continue };
            let position = Position::new(newest.epoch + 1, 0);
            let mut opening = BatchPlan {
                restores: to.map(Snapshot::version),
                ..BatchPlan::empty(flow.clone(), position, self.request.now)
            };
            let parent = match to {
                Some(to) => to.position(flow.as_str()).await?,
                None => None,
            };
            if let (None, Some(published)) = (parent, now.position(flow.as_str()).await?) {
                let files = files_passed_over(self.lake, flow, published).await?;
                opening.passed_over.extend((!files.is_empty()).then(|| (flow.clone(), files)));
            }
            if let Some(parent) = parent {
                let Some(plan) = records.kept_plan(parent).await? else { return Ok(None) };
                // A batch that starts over has taken nothing, so there is nothing to go on from.
                if !plan.starts_over() {
                    let restores = opening.restores;
                    opening = BatchPlan {
                        position,
                        parent: Some(parent),
                        restores,
                        resets: Vec::new(),
                        replaces: None,
                        planned_at: self.request.now,
                        ..plan
                    };
                }
            }
            openings.push(opening);
        }
        if to.is_none() {
            let resets: Vec<_> = openings.iter().map(|plan| (plan.flow.clone(), plan.position)).collect();
            openings.iter_mut().for_each(|plan| plan.resets.clone_from(&resets));
        }
        tracing::debug!(%dataset, flows = openings.len(), "planned a rollback");
        Ok(Some(openings))
    }

    /// What happens to the quarantine and to tables of late rows: rows go that batches put there which are undone.
    /// `None` when files of then are gone.
    async fn beside(
        &self,
        dataset: &Snapshot,
        dataset_then: Option<&Snapshot>,
        flows: &BTreeSet<FlowName>,
        openings: &[BatchPlan],
    ) -> Result<Option<Vec<TableStep>>> {
        let mut tables = BTreeSet::from([dataset.name().quarantine()]);
        for flow in flows {
            if let Some(at) = dataset.position(flow.as_str()).await? {
                let plan = Records::new(self.lake, flow).kept_plan(at).await?;
                tables.extend(plan.and_then(|plan| plan.late));
            }
        }
        let mut steps = Vec::new();
        for table in &tables {
            let Some(more) = self.beside_table(table, dataset, dataset_then, flows, openings).await? else {
                return Ok(None);
            };
            steps.extend(more);
        }
        Ok(Some(steps))
    }

    async fn beside_table(
        &self,
        name: &TableName,
        dataset: &Snapshot,
        dataset_then: Option<&Snapshot>,
        flows: &BTreeSet<FlowName>,
        openings: &[BatchPlan],
    ) -> Result<Option<Vec<TableStep>>> {
        let table = self.lake.table(name);
        let Some(now) = table.latest().await? else { return Ok(Some(Vec::new())) };
        let mut kept = BTreeMap::new();
        for opening in openings {
            // Also of a position that stands for nothing taken, which an earlier rollback left in both tables.
            let position = match dataset_then {
                Some(then) => then.position(opening.flow.as_str()).await?,
                None => None,
            };
            if let Some(position) = position {
                let records = Records::new(self.lake, &opening.flow);
                kept.insert(opening.flow.clone(), Ancestry::of(&records, position).await?);
            }
        }
        let version = match dataset_then {
            Some(then) if dataset.line()?.holds(then.version()) => {
                settle(self.lake, &now, flows, &Judge::Within(&kept)).await?
            }
            Some(_) => newest_within(&table, now.version(), flows, &kept).await?,
            None => None,
        };
        if version == Some(now.version()) {
            return Ok(Some(Vec::new()));
        }
        let to = match version {
            Some(version) => Some(table.at(version).await?),
            None => None,
        };
        if let Some(to) = &to
            && self.lost_files(&now, to).await?
        {
            return Ok(None);
        }
        Ok(Some(vec![step(&now, to.as_ref())?]))
    }

    /// The dataset whose rollback undoes what this one has read.
    async fn reason(&self, now: &Snapshot, flows: &BTreeSet<FlowName>) -> Result<Option<TableName>> {
        for step in &self.steps {
            let name = &step.dataset;
            let tables = step.tables.iter().map(|step| &step.table).chain([name]);
            let one = tables.map(|table| (table.clone(), self.lines.get(table).cloned().flatten())).collect();
            if settle(self.lake, now, flows, &Judge::Inputs(&one)).await? != Some(now.version()) {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    /// Makes sure that what is going to be read again is still there: how many files, and which changed.
    async fn require_sources(&self, now: &Snapshot, openings: &[BatchPlan]) -> Result<(usize, Vec<String>)> {
        let (mut files, mut changed, mut gone) = (0, Vec::new(), Vec::new());
        for opening in openings {
            let records = Records::new(self.lake, &opening.flow);
            let Some(published) = now.position(opening.flow.as_str()).await? else { continue };
            let kept = match opening.parent {
                Some(parent) => Ancestry::of(&records, parent).await?,
                None => Ancestry::default(),
            };
            let taken = SeenRun::merge(seen_runs(self.lake, &opening.flow, published).await?);
            // A file that several batches took is read again only when none of them stays.
            let stays: BTreeSet<&str> = taken
                .files
                .iter()
                .filter(|seen| kept.holds(seen.taken_by))
                .map(|seen| seen.file.path.as_str())
                .collect();
            for seen in taken.clone().newest().files {
                if stays.contains(seen.file.path.as_str()) || seen.broken.is_some() || seen.passed_over {
                    continue;
                }
                files += 1;
                match self.request.files.look_again(&seen.file)? {
                    None => gone.push(seen.file.path),
                    Some(there) if there != seen.file && self.request.cleaned.contains(&opening.flow) => {
                        gone.push(seen.file.path);
                    }
                    Some(there) if there != seen.file => changed.push(seen.file.path),
                    Some(_) => {}
                }
            }
            gone.extend(self.table_files_gone(&records, &kept, published).await?);
        }
        if gone.is_empty() {
            return Ok((files, changed));
        }
        let more = gone.len().saturating_sub(NAMED);
        gone.truncate(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(Error::new(
            Code::HISTORY_GONE,
            format!(
                "\"{}\" cannot be taken back: its sources do not hold any more what would be read again: {}{more}",
                now.name(),
                gone.join(", ")
            ),
        )
        .hint("bring the files back, or choose a newer version"))
    }

    /// Data files of tables that undone batches read and that are gone.
    async fn table_files_gone(
        &self,
        records: &Records<'_>,
        kept: &Ancestry,
        published: Position,
    ) -> Result<Vec<String>> {
        let mut gone = Vec::new();
        let taken = Ancestry::of(records, published).await?;
        for at in records.positions().await?.0.into_iter().filter(|at| taken.holds(*at) && !kept.holds(*at)) {
            let plan = records.plan(at).await?;
            // They have ranges that batches before them took.
            if plan.is_opening() || plan.replaces.is_some() {
                continue;
            }
            for (name, range) in plan.ranges {
                let (Some(table), Range::Table { files, .. }) = (TableName::parse(&name, ""), range) else {
                    continue;
                };
                // What an undone table held is made again, as other files.
                if self.steps.iter().any(|step| step.dataset == table) {
                    continue;
                }
                let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
                let lost = self.lake.table(&table).missing_files(&paths).await?;
                gone.extend(lost.into_iter().map(|path| format!("{table}/{path}")));
            }
        }
        Ok(gone)
    }
}

/// The newest version, on the table's line or off it, that holds nothing but what may be kept.
async fn newest_within(
    table: &Table,
    newest: u64,
    flows: &BTreeSet<FlowName>,
    kept: &BTreeMap<FlowName, Ancestry>,
) -> Result<Option<u64>> {
    'versions: for version in (0..=newest).rev() {
        let snapshot = table.at(version).await?;
        for flow in flows {
            let position = snapshot.position(flow.as_str()).await?;
            if position.is_some_and(|at| !kept.get(flow).is_some_and(|kept| kept.holds(at))) {
                continue 'versions;
            }
        }
        return Ok(Some(version));
    }
    Ok(None)
}

/// The newest version with the rows of `version`: what follows and only rearranges rows need not be undone.
async fn past_upkeep(table: &Table, version: u64) -> Result<u64> {
    let mut version = version;
    // An entry that only rearranges rows stands on the one before it, whether that is undone by now or not.
    while let Some(entry) = table.entry(version + 1).await? {
        let is_upkeep = !entry.changes_metadata
            && entry.transactions.iter().all(|txn| txn.app_id == OWNER_APPLICATION)
            && entry.adds.iter().all(|add| !add.data_change)
            && entry.removes.iter().all(|remove| !remove.data_change);
        if !is_upkeep {
            break;
        }
        version += 1;
    }
    Ok(version)
}

/// The flows that wrote versions above `version`, as far as the log tells.
async fn writers(table: &Table, now: &Snapshot, version: Option<u64>) -> Result<BTreeSet<FlowName>> {
    let line = now.line()?;
    let mut flows = BTreeSet::new();
    let mut next = Some(now.version());
    while let Some(at) = next.filter(|at| version.is_none_or(|version| *at > version)) {
        let Some(entry) = table.entry(at).await? else { break };
        let applications = entry.transactions.into_iter().map(|txn| txn.app_id);
        flows.extend(applications.filter(|id| id != OWNER_APPLICATION).map(FlowName::new));
        next = line.previous(at);
    }
    Ok(flows)
}

fn gone(dataset: &TableName) -> Error {
    Error::new(
        Code::HISTORY_GONE,
        format!(
            "\"{dataset}\" cannot be taken back so far: data files or plans of batches of then are not there any more"
        ),
    )
    .hint("VACUUM removes files that no release needs, maintenance.kept_plans says how many plans are kept; \
         `catchment run --full-refresh` builds it anew")
}

fn step(now: &Snapshot, to: Option<&Snapshot>) -> Result<TableStep> {
    let (rows_now, bytes_now) = size(&now.files()?);
    let (rows_then, bytes_then) = match to {
        Some(to) => size(&to.files()?),
        None => (Some(0), 0),
    };
    Ok(TableStep {
        table: now.name().clone(),
        from: now.version(),
        to: to.map(Snapshot::version),
        rows: (rows_now, rows_then),
        bytes: (bytes_now, bytes_then),
    })
}

fn size(files: &[Add]) -> (Option<u64>, u64) {
    let rows = files.iter().map(catchment_lake::rows_of).sum();
    (rows, files.iter().map(|file| u64::try_from(file.size).unwrap_or(0)).sum())
}
