//! Plans the batches that compute partitions anew.

use std::collections::BTreeMap;

use catchment_core::{Code, Error, FlowName, Position, Result};
use catchment_ingest::files::{FileInfo, SeenRun};
use catchment_ingest::{Limits, Range, Replaced, Source, Standing, TableStanding};
use rand::Rng;

use crate::backfill::{ALL_PARTITIONS, ReplaceRequest};
use crate::bookmarks::{seen_runs, taken};
use crate::records::{BatchPlan, Records, Replacement};
use crate::runtime::{Runtime, definition_hash};
use crate::spec::{FlowSpec, InputKind};

/// Files named in an error; more are counted.
const NAMED: usize = 5;

/// What a flow has taken from files.
#[derive(Default)]
struct Files {
    /// As they were when they were read last, with the batch that read them first, in the order of their paths.
    taken: BTreeMap<String, (Position, FileInfo)>,
}

impl Files {
    fn new(runs: Vec<SeenRun>) -> Self {
        let mut taken: BTreeMap<String, (Position, FileInfo)> = BTreeMap::new();
        // The first batch that took a file comes first.
        for seen in SeenRun::merge(runs).files.into_iter().filter(|seen| !seen.passed_over) {
            match seen.broken {
                // One whose rows were published before it broke has to be read, and fails.
                Some(_) => {}
                None => {
                    let first = taken.get(&seen.file.path).map_or(seen.taken_by, |(first, _)| *first);
                    taken.insert(seen.file.path.clone(), (first, seen.file));
                }
            }
        }
        Self { taken }
    }
}

impl Runtime {
    /// Plans a batch for each flow of a table and makes the plans durable, that of the first flow last: without
    /// it the others mean nothing.
    pub(super) async fn plan_replacement(
        &self,
        specs: &[FlowSpec],
        request: &ReplaceRequest,
    ) -> Result<Vec<BatchPlan>> {
        let mut parts: Vec<(FlowName, Position)> = Vec::new();
        let mut published = Vec::new();
        for spec in specs {
            let at = self.owner.writer(&spec.target).position(&spec.name).await?;
            published.push(at);
            parts.push((spec.name.clone(), at.map_or(Position::new(0, 0), Position::next)));
        }
        let mut plans = Vec::new();
        for ((spec, published), (_, at)) in specs.iter().zip(published).zip(&parts) {
            let replaces = Replacement {
                backfill: request.backfill.clone(),
                condition: request.condition.clone(),
                within: request.within.clone(),
                parts: parts.clone(),
                changed: Vec::new(),
            };
            plans.push(self.plan_part(spec, *at, published, replaces).await?);
        }
        for plan in plans.iter().rev() {
            let records = Records::new(self.owner.lake(), &plan.flow);
            if records.write_plan(&self.owner, plan.clone()).await? != *plan {
                return Err(Error::new(
                    Code::COMMIT_CONFLICT,
                    format!(
                        "batch {} of flow \"{}\" was planned by another process",
                        plan.position, plan.flow
                    ),
                ));
            }
        }
        self.owner.lake().faults().reach(catchment_core::FaultPoint::PlanWritten)?;
        Ok(plans)
    }

    /// A batch that reads again what a flow has taken.
    async fn plan_part(
        &self,
        spec: &FlowSpec,
        at: Position,
        published: Option<Position>,
        mut replaces: Replacement,
    ) -> Result<BatchPlan> {
        let lake = self.owner.lake();
        // Versions that wrote partitions anew are read again here: all of them, or those of this backfill.
        let taken = taken(lake, &spec.name, published, Replaced::Passed(replaces.backfill.clone())).await?;
        let mut files = match published {
            Some(published) => Files::new(seen_runs(lake, &spec.name, published).await?),
            None => Files::default(),
        };
        let mut plan = BatchPlan {
            tables: taken.tables.clone(),
            seed: rand::rng().random(),
            ..BatchPlan::empty(spec.name.clone(), at, lake.clock().now_micros())
        };
        plan.definition_hash = definition_hash(spec);
        plan.definition.clone_from(&spec.definition);
        for input in &spec.inputs {
            let range = match &input.kind {
                InputKind::Stream(source, _) => {
                    self.read_again(
                        spec,
                        source.as_ref(),
                        &taken.standing(&input.name),
                        &mut files,
                        &mut replaces,
                    )
                    .await?
                }
                InputKind::Everything(source) => {
                    let range = source.everything().await?;
                    for file in range.iter().flat_map(|range| range.files()) {
                        files.taken.remove(&file.path);
                    }
                    range
                }
                InputKind::Table(name, version) => {
                    let newest = lake.table(name).existing().await?.version();
                    plan.versions.insert(input.name.clone(), version.unwrap_or(newest));
                    None
                }
            };
            if let Some(Range::Table { upto, .. }) = &range {
                plan.tables.insert(input.name.clone(), *upto);
            }
            plan.ranges
                .extend(range.filter(|range| !range.is_empty()).map(|range| (input.name.clone(), range)));
        }
        require_all(spec, &files)?;
        plan.replaces = Some(replaces);
        Ok(plan)
    }

    /// What a flow has taken of one stream, in the order in which it was taken. Files that are found are taken
    /// out of `files`.
    async fn read_again(
        &self,
        spec: &FlowSpec,
        source: &dyn Source,
        standing: &Standing,
        files: &mut Files,
        replaces: &mut Replacement,
    ) -> Result<Option<Range>> {
        match source.everything().await? {
            Some(Range::Stream { .. }) => Err(Error::new(
                Code::NOT_SUPPORTED,
                format!("partitions of \"{}\" cannot be computed anew: it reads stream \"{}\", which keeps its records for a while only", spec.target, source.name()),
            )
            .hint(format!("take the stream into a table as it is, and \"{}\" from that table", spec.target))),
            Some(Range::Files { files: listed }) => {
                let mut again: Vec<(Position, FileInfo)> = Vec::new();
                for file in listed {
                    let Some((first, known)) = files.taken.remove(&file.path) else { continue };
                    if known != file {
                        replaces.changed.push(file.clone());
                    }
                    again.push((first, file));
                }
                // Paths are in order already, and the sort is stable.
                again.sort_by_key(|(first, _)| *first);
                let files: Vec<FileInfo> = again.into_iter().map(|(_, file)| file).collect();
                Ok((!files.is_empty()).then_some(Range::Files { files }))
            }
            Some(Range::Table { upto, files }) => {
                // Where all is computed anew it does not matter what was read before.
                if replaces.within != ALL_PARTITIONS {
                    require_caught_up(spec, source, standing, upto).await?;
                }
                Ok(Some(Range::Table { upto, files }))
            }
            other => Ok(other),
        }
    }
}

/// Makes sure that a stream holds nothing that the flow has not read, besides partitions written anew.
async fn require_caught_up(
    spec: &FlowSpec,
    source: &dyn Source,
    standing: &Standing,
    upto: TableStanding,
) -> Result<()> {
    let stands = match source.plan(standing, Limits::NONE).await? {
        // Versions without new rows.
        Some(Range::Table { upto, files }) if files.is_empty() => Some(upto.version),
        Some(_) => None,
        None => standing.table.map(|standing| standing.version),
    };
    if stands == Some(upto.version) {
        return Ok(());
    }
    Err(Error::new(
        Code::COMMIT_CONFLICT,
        format!("\"{}\" got new rows while \"{}\" was computed anew", source.name(), spec.target),
    )
    .hint(format!("run it again, or `catchment backfill {} --all`", spec.target)))
}

/// Makes sure that all files which the flow has taken were found.
fn require_all(spec: &FlowSpec, left: &Files) -> Result<()> {
    if left.taken.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = left.taken.keys().map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Error::new(
        Code::HISTORY_GONE,
        format!(
            "partitions of \"{}\" cannot be computed anew: flow \"{}\" has read files that are not there, or not meant, any more: {}{more}",
            spec.target,
            spec.name,
            names.join(", ")
        ),
    )
    .hint("bring the files back: rows that were made of them would be lost"))
}
