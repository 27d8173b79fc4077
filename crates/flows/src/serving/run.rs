//! Brings a serving table up to date: plan, compute, write, batch by batch.

use std::collections::BTreeSet;
use std::sync::Arc;

use catchment_core::{Code, Error, FaultPoint, Position, Result};
use catchment_ingest::{Limits, Standing};
use catchment_lake::schema_text;

use crate::bookmarks::Taken;
use crate::records::{BatchPlan, BatchSummary};
use crate::report::{FlowReport, Phase, Stopwatch};
use crate::runtime::{Progress, Runtime, definition_hash};
use crate::serving::Serving;
use crate::serving::change::Change;
use crate::serving::rows::Layout;
use crate::serving::store::Described;
use crate::spec::{FlowKind, FlowSpec, InputKind};

/// Bytes of input of one batch, whose groups are held in memory.
const BATCH_BYTES: u64 = 256 << 20;

/// That a table cannot go on, and how it can be built anew from what.
pub(crate) fn changed(spec: &FlowSpec, why: &str) -> Error {
    let reads: BTreeSet<&str> = spec.inputs.iter().map(|input| input.name.as_str()).collect();
    let reads: Vec<&str> = reads.into_iter().collect();
    let what = format!(
        "the definition of serving table \"{}\" is not the one that its rows were made by, and cannot go on with them, since {why}",
        spec.target
    );
    Error::new(Code::SERVING_CHANGED, what).hint(format!(
        "build it anew from all that {} holds now: `catchment run --full-refresh --select {}`",
        reads.join(" and "),
        spec.target
    ))
}

impl Runtime {
    /// Brings a serving table up to date; with `refresh` it begins with nothing.
    pub(crate) async fn run_serving(
        &self,
        spec: &FlowSpec,
        serving: &Serving,
        refresh: bool,
        progress: &dyn Progress,
    ) -> Result<FlowReport> {
        let store = self.serving.store()?;
        let mut before = store.described(&spec.target)?;
        // What lies there without a description is what an interrupted refresh has left.
        if refresh || before.is_none() {
            store.clear(&spec.target)?;
            before = None;
        }
        let horizons = Taken::default().look_ahead(spec).await?.horizons;
        let is_changed = |before: &Described| before.plan.definition_hash != definition_hash(spec);
        let mut anew = false;
        if let Some(known) = before.as_ref().filter(|known| is_changed(known)) {
            match spec.kind {
                FlowKind::Replace => anew = true,
                _ => {
                    let mut plan =
                        BatchPlan::empty(spec.name.clone(), Position::new(0, 0), self.clock.now_micros());
                    self.plan_serving(spec, Some(&known.plan), &horizons, &mut plan).await?;
                    before = Some(self.evolve(spec, (serving, &store), known, &plan).await?);
                }
            }
        }
        let layout = || Layout::new(&spec.table.schema, &serving.key);
        // Of one definition it is the same table from run to run, and knows how far it was swept.
        let table = match (&before, store.table(&spec.target)?) {
            (Some(before), _) if anew => store.next_generation(&spec.target, before.generation, layout()?)?,
            (_, Some(table)) => table,
            _ => store.opened(&spec.target, 0, layout()?)?,
        };
        let mut is_told = !anew && store.made(&spec.target)?.is_some();
        let mut last = before.map(|before| before.plan);
        let mut report = FlowReport::default();
        loop {
            let mut watch = Stopwatch::start();
            self.lake().faults().reach(FaultPoint::BeforePlan)?;
            let mut plan = BatchPlan {
                position: last.as_ref().map_or(Position::new(0, 0), |last| last.position.next()),
                ..BatchPlan::empty(spec.name.clone(), Position::new(0, 0), self.clock.now_micros())
            };
            plan.definition_hash = definition_hash(spec);
            let is_due = self.plan_serving(spec, last.as_ref(), &horizons, &mut plan).await? || anew;
            watch.end(Phase::Plan);
            let mut change = Change::new(&store, &table, plan.planned_at);
            let swept = change.sweep()?;
            if !is_due && swept == 0 {
                break;
            }
            let (rows_in, rejected) = match is_due {
                true => self.serve_batch(spec, &plan, &mut change).await?,
                false => (0, 0),
            };
            watch.end(Phase::Stage);
            self.lake().faults().reach(FaultPoint::StagedWritten)?;
            let rows_out = change.rows();
            plan.ranges.clear();
            let described = Described {
                schema: schema_text(&spec.table.schema)?,
                key: serving.key.clone(),
                plan: plan.clone(),
                generation: table.generation,
            };
            let made = match is_told {
                true => None,
                false => Some(self.made(spec, serving, &plan).await?),
            };
            change.commit(&store, &spec.target, &described, made.as_ref())?;
            is_told = true;
            self.lake().faults().reach(FaultPoint::Published)?;
            if std::mem::take(&mut anew) {
                store.show(&spec.target, &table);
                store.remove_generations(&spec.target, table.generation)?;
            }
            let took = watch.end(Phase::Publish);
            let summary = BatchSummary {
                rows_in,
                rows_out,
                dropped: rejected,
                planned_at: plan.planned_at,
                ..BatchSummary::default()
            };
            let at = plan.position;
            let record = summary.record(&spec.name, &spec.target, at, at.number, self.clock.now_micros());
            if is_due {
                report.phases.add(&took);
                report.count(&record);
                progress.published(&record, &took);
            }
            last = Some(plan);
        }
        report.version = last.map(|last| last.position.number);
        Ok(report)
    }

    /// Plans what comes next; whether there is anything to do.
    async fn plan_serving(
        &self,
        spec: &FlowSpec,
        last: Option<&BatchPlan>,
        horizons: &std::collections::BTreeMap<String, Arc<catchment_ingest::StreamStanding>>,
        plan: &mut BatchPlan,
    ) -> Result<bool> {
        plan.seed = rand::random();
        if let Some(last) = last {
            plan.tables.clone_from(&last.tables);
            plan.streams.clone_from(&last.streams);
        }
        for input in &spec.inputs {
            match &input.kind {
                InputKind::Stream(source, limits) => {
                    let standing = Standing {
                        table: plan.tables.get(&input.name).copied(),
                        stream: plan.streams.get(&input.name).cloned(),
                        horizon: horizons.get(&input.name).cloned(),
                        ..Standing::default()
                    };
                    let limits = Limits { bytes: limits.bytes.min(BATCH_BYTES), ..*limits };
                    let range = source.plan(&standing, limits).await.map_err(|error| {
                        // What was undone or replaced upstream has been counted here.
                        let anew = format!("`catchment run --full-refresh --select {}`", spec.target);
                        match error.code() {
                            Code::NOT_APPEND_ONLY | Code::HISTORY_GONE => {
                                error.hint(format!("build it anew: {anew}"))
                            }
                            _ => error,
                        }
                    })?;
                    let Some(range) = range else { continue };
                    let mut after = Standing::default();
                    range.advance(&mut after);
                    plan.tables.extend(after.table.map(|at| (input.name.clone(), at)));
                    plan.streams.extend(after.stream.map(|at| (input.name.clone(), at)));
                    if !range.is_empty() {
                        plan.ranges.insert(input.name.clone(), range);
                    }
                }
                InputKind::Everything(source) => {
                    plan.ranges.extend(source.everything().await?.map(|range| (input.name.clone(), range)));
                }
                InputKind::Table(name, version) => {
                    let version = match version {
                        Some(version) => *version,
                        None => self.lake().table(name).existing().await?.version(),
                    };
                    plan.versions.insert(input.name.clone(), version);
                }
            }
        }
        Ok(match (spec.kind, last) {
            (_, None) => true,
            (FlowKind::Append, _) => !plan.ranges.is_empty(),
            (_, Some(last)) => last.versions != plan.versions,
        })
    }
}
