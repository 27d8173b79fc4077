//! Computes the batches of a replacement, and publishes them together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catchment_core::{Code, Error, FaultPoint, FlowName, Result, TableName};
use catchment_ingest::files::FileInfo;
use catchment_lake::{Add, Outcome, Owner, Publication};
use catchment_sql::Moment;
use serde_json::json;

use crate::backfill::Settles;
use crate::backfill::condition::PartitionCondition;
use crate::backfill::held::{Held, Stale, without_stale};
use crate::backfill::replacing::Replacing;
use crate::quarantine::quarantine_spec;
use crate::records::{BatchPlan, BatchSummary, Records, Replacement, StagedBatch};
use crate::report::{FlowReport, Phases};
use crate::runtime::{Progress, Runtime};
use crate::spec::FlowSpec;

/// A flow with its part of a replacement.
type Part<'a> = (&'a FlowSpec, BatchPlan, StagedBatch);

impl Runtime {
    /// Computes all parts and makes them durable, that of the first flow last: with it all are there.
    pub(super) async fn stage_replacement(
        &self,
        specs: &[FlowSpec],
        plans: &[BatchPlan],
        settles: &Settles,
    ) -> Result<Vec<(StagedBatch, Vec<FileInfo>)>> {
        let Some((lead, replaces)) = specs.first().zip(plans.first().and_then(|plan| plan.replaces.as_ref()))
        else {
            return Ok(Vec::new());
        };
        let lake = self.owner.lake();
        // The table is going to have other rows.
        self.keys.take(&lead.target);
        let condition = self.condition(lead, &plans[0], &replaces.condition)?;
        let files = lake.table(&lead.target).existing().await?.files()?;
        let matched = condition.files(&files)?;
        let mut beside: Vec<Add> =
            files.into_iter().zip(matched).filter(|(_, matched)| !matched).map(|(add, _)| add).collect();
        let (mut staged, mut again) = (Vec::new(), Vec::new());
        let mut stale: BTreeMap<String, Stale> = BTreeMap::new();
        for (spec, plan) in specs.iter().zip(plans) {
            let (mut part, of_part) = self.compute_part(spec, plan, &beside).await?;
            stale.insert(spec.name.to_string(), of_part);
            let covered = std::mem::take(&mut part.again);
            part.again = match settles {
                Settles::Nothing => Vec::new(),
                Settles::All => covered.clone(),
                Settles::Seen(seen) => covered.iter().filter(|file| seen.contains(file)).cloned().collect(),
            };
            again.push(covered);
            let ours = part.outputs.iter().filter(|output| output.table == spec.target);
            beside.extend(ours.flat_map(|output| output.adds.iter().cloned()));
            staged.push(part);
        }
        let quarantine = match lake.table(&lead.target.quarantine()).latest().await? {
            Some(snapshot) => snapshot.files()?,
            None => Vec::new(),
        };
        let (rewritten, others) = without_stale(lake, lead, quarantine, &mut stale)?;
        if !rewritten.is_empty() {
            let first = self.put_back(lead, staged.remove(0), rewritten, &others).await?;
            staged.insert(0, first);
        }
        lake.faults().reach(FaultPoint::FilesWritten)?;
        for (spec, part) in specs.iter().zip(&staged).rev() {
            Records::new(lake, &spec.name).write_staged(&self.owner, part.clone()).await?;
        }
        lake.faults().reach(FaultPoint::StagedWritten)?;
        Ok(staged.into_iter().zip(again).collect())
    }

    /// Computes one part, and tells which of its records in quarantine count no more.
    async fn compute_part(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        beside: &[Add],
    ) -> Result<(StagedBatch, Stale)> {
        let Some(replaces) = &plan.replaces else {
            return Err(Error::new(Code::INTERNAL, "a batch of a replacement replaces nothing"));
        };
        let changed: BTreeSet<String> = replaces.changed.iter().map(|file| file.path.clone()).collect();
        let conditions = (replaces.condition.as_str(), replaces.within.as_str());
        let replacing = self.replacing(spec, plan, conditions, &changed, beside.to_vec()).await?;
        let (mut staged, _) = self.compute(spec, plan, Some(&replacing)).await?;
        let outside = replacing.files_outside();
        staged.again =
            replaces.changed.iter().filter(|file| !outside.contains(&file.path)).cloned().collect();
        Ok((staged, replacing.held.stale(changed)))
    }

    /// What is known of the input of a batch, and the partitions that it replaces: those of its commit, and all that
    /// are asked for.
    async fn replacing(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        (condition, within): (&str, &str),
        changed: &BTreeSet<String>,
        beside: Vec<Add>,
    ) -> Result<Arc<Replacing>> {
        let held = Held::read(self.owner.lake(), &self.sessions, spec, plan, changed).await?;
        Ok(Arc::new(Replacing {
            condition: self.condition(spec, plan, condition)?,
            within: self.condition(spec, plan, within)?,
            changed: held.pieces_of(changed),
            held,
            beside,
            outside: std::sync::Mutex::default(),
            straddling: std::sync::Mutex::default(),
        }))
    }

    /// Computes a batch whose result replaces partitions of its table.
    pub(crate) async fn compute_where(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        condition: &str,
    ) -> Result<StagedBatch> {
        self.keys.take(&spec.target);
        let files = match self.owner.lake().table(&spec.target).latest().await? {
            Some(snapshot) => snapshot.files()?,
            None => Vec::new(),
        };
        let matched = self.condition(spec, plan, condition)?.files(&files)?;
        let beside = files.into_iter().zip(matched).filter(|(_, matched)| !matched).map(|(add, _)| add);
        let replacing =
            self.replacing(spec, plan, (condition, condition), &BTreeSet::new(), beside.collect()).await?;
        Ok(self.compute(spec, plan, Some(&replacing)).await?.0)
    }

    /// Publishes such a batch.
    pub(crate) async fn publish_where(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        condition: &str,
        publication: Publication,
    ) -> Result<Outcome> {
        let matching = self.condition(spec, plan, condition)?;
        let writer = self.owner.writer(&spec.target);
        writer.ensure(&spec.table).await?;
        let matches = |files: &[Add]| matching.files(files);
        Ok(writer.replace_where(condition, &matches, publication).await?.0)
    }

    fn condition(&self, spec: &FlowSpec, plan: &BatchPlan, text: &str) -> Result<PartitionCondition> {
        let moment = Moment { micros: plan.planned_at, seed: plan.seed };
        PartitionCondition::plan(&self.sessions, moment, text, &spec.table)
    }

    /// Publishes all parts: what they put into quarantine, then the partitions, each in one commit.
    pub(super) async fn publish_replacement(
        &self,
        specs: &[FlowSpec],
        plans: &[BatchPlan],
        staged: &[StagedBatch],
        progress: &dyn Progress,
        report: &mut FlowReport,
    ) -> Result<()> {
        let parts: Vec<Part<'_>> = specs
            .iter()
            .zip(plans.iter().zip(staged))
            .map(|(spec, (plan, staged))| (spec, plan.clone(), staged.clone()))
            .collect();
        let Some(((lead, plan, _), replaces)) =
            parts.first().and_then(|first| Some((first, first.1.replaces.as_ref()?)))
        else {
            return Ok(());
        };
        let summary = BatchSummary::sum(staged.iter().map(|staged| &staged.summary));
        let publication = Publication {
            position: Some((lead.name.clone(), plan.position)),
            other_positions: replaces.parts.iter().skip(1).cloned().collect(),
            batch: json!({
                "dataset": lead.target, "flow": lead.name, "position": plan.position,
                "replaces": replaces.condition, "backfill": replaces.backfill, "summary": summary,
            }),
            ..Publication::default()
        };
        self.publish_quarantine(&parts, &publication).await?;
        let target = |staged: &StagedBatch| {
            let ours = staged.outputs.iter().filter(|output| output.table == lead.target);
            ours.flat_map(|output| output.adds.clone()).collect::<Vec<_>>()
        };
        let adds = staged.iter().flat_map(target).collect();
        let condition = self.condition(lead, plan, &replaces.condition)?;
        let writer = self.owner.writer(&lead.target);
        writer.ensure(&lead.table).await?;
        let publication = Publication { adds, ..publication };
        let matches = |files: &[Add]| condition.files(files);
        let (outcome, _) = writer.replace_where(&replaces.condition, &matches, publication).await?;
        self.owner.lake().faults().reach(FaultPoint::Published)?;
        if let Outcome::Committed(version) = outcome {
            self.look_after(&lead.target, version);
            for (spec, plan, _) in parts.iter().skip(1) {
                let rest = BatchSummary { planned_at: plan.planned_at, ..BatchSummary::default() };
                self.enter(spec, plan.position, &rest, version)?;
            }
            let record = self.enter(lead, plan.position, &summary, version)?;
            progress.published(&record, &Phases::default());
            report.count(&record);
        }
        self.owner.lake().faults().reach(FaultPoint::BooksWritten)
    }

    async fn publish_quarantine(&self, parts: &[Part<'_>], publication: &Publication) -> Result<()> {
        let quarantine = parts[0].0.target.quarantine();
        let outputs = parts.iter().flat_map(|(_, _, staged)| &staged.outputs);
        let (mut adds, mut removes) = (Vec::new(), Vec::new());
        for output in outputs.filter(|output| output.table == quarantine) {
            adds.extend(output.adds.iter().cloned());
            removes.extend(output.removes.iter().cloned());
        }
        if adds.is_empty() && removes.is_empty() {
            return Ok(());
        }
        let writer = self.owner.writer(&quarantine);
        writer.ensure(&quarantine_spec(&parts[0].0.target)).await?;
        let publication = Publication { adds, removes, ..publication.clone() };
        let outcome = match publication.removes.is_empty() {
            true => writer.append(publication).await?,
            false => writer.swap(publication).await?,
        };
        if let Outcome::Committed(version) = outcome {
            self.look_after(&quarantine, version);
        }
        self.owner.lake().faults().reach(FaultPoint::BetweenOutputs)
    }

    /// Publishes a replacement that was staged, and forgets one that was not: it is planned again by whoever
    /// asked for it. `specs` are all flows of one table.
    pub(crate) async fn finish_replacement(
        &self,
        specs: &[FlowSpec],
        progress: &dyn Progress,
        report: &mut FlowReport,
    ) -> Result<()> {
        let mut open: Vec<(FlowSpec, BatchPlan, bool)> = Vec::new();
        for spec in specs {
            let records = Records::new(self.owner.lake(), &spec.name);
            let (plans, staged) = records.positions().await?;
            let published = self.owner.writer(&spec.target).position(&spec.name).await?;
            let Some(at) = plans.last().filter(|at| published.is_none_or(|published| **at > published))
            else {
                continue;
            };
            let plan = records.plan(*at).await?;
            if plan.replaces.is_some() {
                open.push((spec.clone(), plan, staged.contains(at)));
            }
        }
        let Some(Replacement { parts, .. }) = open.first().and_then(|(_, plan, _)| plan.replaces.clone())
        else {
            return Ok(());
        };
        let in_order: Option<Vec<_>> = parts
            .iter()
            .map(|(flow, at)| open.iter().find(|(spec, plan, _)| spec.name == *flow && plan.position == *at))
            .collect();
        let ready = in_order.filter(|all| all.first().is_some_and(|(_, _, is_staged)| *is_staged));
        if let Some(ready) = ready {
            let specs: Vec<FlowSpec> = ready.iter().map(|(spec, _, _)| spec.clone()).collect();
            let plans: Vec<BatchPlan> = ready.iter().map(|(_, plan, _)| plan.clone()).collect();
            let mut staged = Vec::new();
            for plan in &plans {
                staged.push(Records::new(self.owner.lake(), &plan.flow).staged(plan.position).await?);
            }
            match self.publish_replacement(&specs, &plans, &staged, progress, report).await {
                // Files of the quarantine that it was to replace were joined with others: nothing is published.
                Err(error)
                    if error.code() == Code::COMMIT_CONFLICT
                        && !self.is_begun(&specs[0], &plans[0]).await? => {}
                done => return done,
            }
        }
        // The first flow's comes first: without it the others mean nothing.
        let first = parts.first().map(|(flow, _)| flow.clone());
        open.sort_by_key(|(spec, _, _)| Some(&spec.name) != first.as_ref());
        for (spec, plan, _) in &open {
            Records::new(self.owner.lake(), &spec.name).remove(&self.owner, plan.position).await?;
        }
        Ok(())
    }

    /// Whether the quarantine of a replacement is published.
    async fn is_begun(&self, lead: &FlowSpec, plan: &BatchPlan) -> Result<bool> {
        let position = self.owner.writer(&lead.target.quarantine()).position(&lead.name).await?;
        Ok(position >= Some(plan.position))
    }
}

/// Forgets what is planned and staged of a table's partitions and not published. What has begun to be
/// published is left for the next run, which finishes it.
///
/// # Errors
/// Returns errors of reading and writing.
pub async fn cancel_replacement(owner: &Owner, target: &TableName, flows: &[FlowName]) -> Result<()> {
    let mut open = Vec::new();
    for flow in flows {
        let records = Records::new(owner.lake(), flow);
        let published = owner.writer(target).position(flow).await?;
        let newest = records.positions().await?.0.last().copied();
        let Some(at) = newest.filter(|at| published.is_none_or(|published| *at > published)) else {
            continue;
        };
        let Some(replaces) = records.plan(at).await?.replaces else { continue };
        if owner.writer(&target.quarantine()).position(flow).await? >= Some(at) {
            return Ok(());
        }
        open.push((replaces.parts.first().is_none_or(|(first, _)| first != flow), flow, at));
    }
    // The first flow's comes first: without it the others mean nothing.
    open.sort();
    for (_, flow, at) in open {
        Records::new(owner.lake(), flow).remove(owner, at).await?;
    }
    Ok(())
}
