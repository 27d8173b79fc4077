//! Computes a planned batch and writes its files: nothing is visible until it is published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catchment_catalog::{ColumnSource, ExpectationCount, InputVersion};
use catchment_core::{Code, Error, FaultPoint, Result};
use catchment_ingest::{ADDRESS_COLUMN, BrokenFile, Range, Rejects, TableSource, first_piece};
use catchment_lake::{Add, FileOptions, FileWriter, WrittenFiles};
use catchment_quality::{Action, RowRules, RuleOutcome};
use catchment_sql::{Moment, Planner, closed_function, column_origins, with_meetings};
use datafusion::logical_expr::LogicalPlan;
use tokio::sync::mpsc;

use crate::backfill::Replacing;
use crate::carry::{carry_addresses, in_source_order};
use crate::finder::{Finder, Known};
use crate::judge::{self, BadRows, Judge, names};
use crate::quarantine::{Quarantine, finish, look_up, quarantine_spec};
use crate::records::{BatchPlan, BatchSummary, StagedBatch, StagedOutput};
use crate::rules;
use crate::runtime::Runtime;
use crate::spec::{FlowKind, FlowSpec, Input, InputKind};
use crate::steps::Steps;
use crate::unique::{KnownKeys, Uniqueness};
use crate::windows::{OpenRows, WindowState, open_rows};
use crate::within::{KnownTimes, Within};

/// The size of a data file, in bytes.
pub(crate) const TARGET_BYTES: usize = 128 << 20;

/// Attempts at a batch that finds broken files: each leaves out all that were found before.
const ATTEMPTS: usize = 8;

impl Runtime {
    /// Computes a batch from its plan.
    ///
    /// The keys that the batch adds may be kept once the batch is staged, and not before: a batch that is
    /// computed again must not find its own.
    pub(crate) async fn compute(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        replacing: Option<&Arc<Replacing>>,
    ) -> Result<(StagedBatch, Option<Known>)> {
        let mut broken: Vec<BrokenFile> = Vec::new();
        for _ in 0..ATTEMPTS {
            let attempt = self.attempt(spec, plan, &broken, replacing).await?;
            // Rows of a broken file may have gone through the query already, so the files written
            // are left behind and the batch is computed again without it.
            if attempt.newly_broken.is_empty() {
                return self.staged(spec, plan, attempt, broken).await;
            }
            if let (Some(file), true) = (attempt.newly_broken.first(), replacing.is_some()) {
                return Err(Error::new(
                    Code::FILE_BROKEN,
                    format!("file {:?} was read before and cannot be read any more", file.file.path),
                )
                .because(file.reason.clone())
                .hint("nothing was published; mend the file or bring it back"));
            }
            broken.extend(attempt.newly_broken);
        }
        Err(Error::new(
            Code::FILE_BROKEN,
            format!("files of flow \"{}\" keep breaking while they are read", spec.name),
        ))
    }

    async fn attempt(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        broken: &[BrokenFile],
        replacing: Option<&Arc<Replacing>>,
    ) -> Result<Attempt> {
        let (rejects, sink) = Rejects::channel();
        let (bad, bad_sink) = mpsc::channel(8);
        let quarantine =
            Quarantine::new(spec, plan, broken, replacing.cloned(), self.quarantine_files(spec)?);
        let rejected = tokio::spawn(quarantine.take(sink, bad_sink));
        let computed = self.rows(spec, plan, broken, (&rejects, bad), replacing).await;
        let (rows_in, newly_broken) = (rejects.rows(), rejects.broken());
        // The last sender goes, and the quarantine comes to its end.
        drop(rejects);
        let rejected = rejected.await.map_err(|error| {
            Error::new(Code::INTERNAL, "the writer of rejects ended early").because(error)
        })?;
        // Whoever reports to a quarantine that failed fails, too, and knows less.
        let quarantine = rejected?;
        let computed = match computed {
            Ok(computed) => computed,
            // What a broken file made of a query's rows does not matter.
            Err(_) if !newly_broken.is_empty() => Computed::default(),
            Err(error) => return Err(error),
        };
        let attempt = Attempt { computed, quarantine, rows_in, newly_broken };
        if attempt.newly_broken.is_empty() {
            self.require_no_failure(spec, plan, broken, &attempt.computed).await?;
        }
        Ok(attempt)
    }

    /// Fails when an expectation that lets the batch fail is broken.
    async fn require_no_failure(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        broken: &[BrokenFile],
        computed: &Computed,
    ) -> Result<()> {
        let Some((address, rules)) = computed.failure else {
            return rules::require_rules(&spec.target.to_string(), &computed.outcomes);
        };
        // What is made of several rows has no place in a source.
        let rows = if spec.windows.is_empty() { vec![(address, rules)] } else { Vec::new() };
        let records = look_up(spec, plan, broken, rows).await.unwrap_or_default();
        let record = records.first().map(|found| {
            let place = found.record.byte_offset.or(found.record.row_number).unwrap_or(0);
            format!("{} in {:?} at {place}", found.record.record, found.record.file)
        });
        let broken = names(&spec.expectations, rules);
        Err(judge::failed(&spec.target.to_string(), &computed.counts, &broken, record))
    }

    /// Runs the query, holds its rows to the expectations and writes those that stay; all that holds a
    /// sender of rejects ends with this.
    async fn rows(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        broken: &[BrokenFile],
        (rejects, bad): (&Arc<Rejects>, mpsc::Sender<BadRows>),
        replacing: Option<&Arc<Replacing>>,
    ) -> Result<Computed> {
        let mut planner = self.sessions.planner(Moment { micros: plan.planned_at, seed: plan.seed })?;
        let gathered = self.gather(spec, plan, &planner, (broken, rejects, &bad)).await?;
        if let Some(gathered) = &gathered {
            planner.add_function(closed_function(gathered.closed))?;
        }
        let planner = Arc::new(planner);
        let (mut carriers, mut waiting) = (BTreeMap::new(), BTreeMap::new());
        let mut pieces = 0;
        for input in &spec.inputs {
            let held = gathered
                .as_ref()
                .filter(|_| matches!(input.kind, InputKind::Stream(..)))
                .and_then(|gathered| gathered.table(self, spec, &input.name));
            if let Some(held) = held {
                // Its rows have been counted, and what is made of several has no address.
                waiting.insert(input.key.clone(), (input.name.clone(), Arc::clone(&held)));
                planner.bind(&input.key, held)?;
                continue;
            }
            let range = self.bind(&planner, input, plan, broken, rejects).await?;
            if let (InputKind::Stream(source, _), Some(range)) = (&input.kind, range) {
                let table = source.read(&range, Arc::clone(rejects), Some(first_piece(pieces)?))?;
                carriers.insert(input.key.clone(), table);
                pieces += range.pieces();
            }
        }
        let rules = RowRules::plan(&planner, &spec.expectations, &spec.table.schema)?;
        let batch_rules = self.batch_rules(spec, &planner)?;
        let judge = Arc::new(Judge::new(spec.expectations.as_ref().clone(), rules));
        let mut logical = planner.plan(&spec.text, &spec.query).await?;
        if let Some(gathered) = &gathered {
            let of_streams = |input: &&Input| matches!(input.kind, InputKind::Stream(..));
            let streams = spec.inputs.iter().filter(of_streams).map(|input| input.key.clone()).collect();
            logical = with_meetings(logical, &streams, gathered.closed)?;
        }
        let columns = lineage(&logical, &spec.inputs);
        // What comes out of quarantine is read by its addresses alone.
        let replays = plan.ranges.values().any(|range| matches!(range, Range::Quarantine { .. }));
        if gathered.is_none() && (replays || replacing.is_some() || !spec.expectations.is_empty()) {
            logical = carry_addresses(logical, &carriers)?;
        }
        drop(carriers);
        let open = match &gathered {
            Some(gathered) => open_rows(&planner, &logical, gathered.closed, &waiting).await?,
            None => OpenRows::new(),
        };
        drop(waiting);
        let mut physical = planner.physical(&logical).await?;
        drop(logical);
        let unique = self.uniqueness(spec, &judge, replacing).await?;
        if unique.is_some() && physical.schema().index_of(ADDRESS_COLUMN).is_ok() {
            physical = in_source_order(physical)?;
        }
        let streams = planner.run_partitioned(physical)?;
        let steps = Steps {
            spec,
            planner: &planner,
            replacing,
            judge: &judge,
            rules: batch_rules.as_ref(),
            bad: &bad,
        };
        let (written, seen) = steps.write(self, streams, unique).await?;
        let outcomes = match &batch_rules {
            Some(rules) => self.judge_rules(spec, plan, rules, seen, &written.written).await?,
            None => Vec::new(),
        };
        if let Some(rejected) = rejects.take_kept()? {
            let _ = bad.send(BadRows::Rejected(rejected)).await;
        }
        if let Some(rest) = judge.rest() {
            // Nobody takes them only when the quarantine has failed, which is told there.
            let _ = bad.send(rest).await;
        }
        // Late rows that no table takes are left out, as those are that an expectation drops.
        let too_late =
            gathered.as_ref().filter(|_| spec.late.is_none()).map_or(0, |gathered| gathered.late_rows);
        let (windows, late) = match gathered {
            Some(mut gathered) => {
                let late = self.write_late(spec, gathered.take_late()).await?;
                (Some(self.hold_back(spec, plan, gathered, open).await?), late)
            }
            None => (None, Vec::new()),
        };
        Ok(Computed {
            windows,
            late,
            columns,
            counts: judge.counts(),
            dropped: judge.dropped() + too_late,
            failure: judge.failure(),
            outcomes,
            ..written
        })
    }

    /// What finds duplicates in the batch, when an expectation asks for it.
    async fn uniqueness(
        &self,
        spec: &FlowSpec,
        judge: &Judge,
        replacing: Option<&Arc<Replacing>>,
    ) -> Result<Option<Finder>> {
        let Some((_, expectation)) = judge.unique() else { return Ok(None) };
        let Some((key, horizon)) = expectation.rule.unique() else { return Ok(None) };
        let schema = &spec.table.schema;
        let place = (self.spill_folder(), self.key_bytes());
        let known = self.keys.take(&spec.target).filter(|_| spec.kind != FlowKind::Replace);
        let files = match (replacing, self.owner.lake().table(&spec.target).latest().await?) {
            (Some(replacing), _) => replacing.beside(),
            (None, Some(snapshot)) if spec.kind != FlowKind::Replace => snapshot.files()?,
            _ => Vec::new(),
        };
        let source = TableSource::new(self.owner.lake(), &spec.target, Arc::clone(schema));
        Ok(Some(match horizon {
            None => {
                let known = match known {
                    Some(Known::Keys(known)) if known.is_of(schema, key) => known,
                    _ => KnownKeys::new(schema, key, place.0, place.1)?,
                };
                Finder::Ever(Uniqueness::new(known, source, files))
            }
            Some(horizon) => {
                let known = match known {
                    Some(Known::Times(known)) if known.is_of(schema, key, horizon) => known,
                    _ => KnownTimes::new(schema, key, horizon, place)?,
                };
                Finder::Within(Within::new(known, source, files, expectation.action == Action::Warn))
            }
        }))
    }

    pub(crate) async fn bind(
        &self,
        planner: &Planner,
        input: &Input,
        plan: &BatchPlan,
        broken: &[BrokenFile],
        rejects: &Arc<Rejects>,
    ) -> Result<Option<Range>> {
        let mut read = None;
        let table = match &input.kind {
            InputKind::Stream(source, _) | InputKind::Everything(source) => {
                match plan.ranges.get(&input.name) {
                    Some(range) => {
                        let range = without(range, broken);
                        let table = source.read(&range, Arc::clone(rejects), None)?;
                        read = Some(range);
                        table
                    }
                    None => Arc::new(datafusion::datasource::empty::EmptyTable::new(source.schema())),
                }
            }
            InputKind::Table(name, _) => {
                let table = self.owner.lake().table(name);
                let Some(version) = plan.versions.get(&input.name) else {
                    return Err(Error::new(
                        Code::PLAN_CORRUPT,
                        format!("the plan does not say at which version to read \"{name}\""),
                    ));
                };
                let newest = table.existing().await?;
                let snapshot = if newest.version() == *version { newest } else { table.at(*version).await? };
                snapshot.provider().await?
            }
        };
        planner.bind(&input.key, table)?;
        Ok(read)
    }

    fn quarantine_files(
        &self,
        spec: &FlowSpec,
    ) -> Result<impl FnMut() -> Result<FileWriter> + Send + 'static> {
        let table = spec.target.quarantine();
        let writer = self.owner.writer(&table);
        let options = FileOptions::of(&table, &quarantine_spec(&spec.target), TARGET_BYTES);
        Ok(move || writer.files(options.clone()))
    }

    async fn staged(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        attempt: Attempt,
        broken: Vec<BrokenFile>,
    ) -> Result<(StagedBatch, Option<Known>)> {
        let mut quarantine = self.quarantine_files(spec)?;
        let quarantined = finish(attempt.quarantine, &mut quarantine, &broken, plan).await?;
        self.owner.lake().faults().reach(FaultPoint::FilesWritten)?;
        let replace = spec.kind == FlowKind::Replace;
        let mut outputs = Vec::new();
        // A replaced table's quarantine is replaced too, by nothing when nothing is wrong any more.
        let emptied = replace && self.owner.lake().table(&spec.target.quarantine()).latest().await?.is_some();
        if emptied || !quarantined.adds.is_empty() {
            outputs.push(StagedOutput {
                table: spec.target.quarantine(),
                spec: quarantine_spec(&spec.target),
                replace,
                replaces: None,
                adds: quarantined.adds,
                removes: Vec::new(),
            });
        }
        if let Some((table, declared)) = spec.late.clone() {
            let adds = attempt.computed.late;
            // The first batch makes the table, even when nothing is late: others may read it.
            if !adds.is_empty() || self.owner.lake().table(&table).latest().await?.is_none() {
                let (replaces, removes) = (None, Vec::new());
                outputs.push(StagedOutput { table, spec: declared, replace, replaces, adds, removes });
            }
        }
        outputs.push(StagedOutput {
            table: spec.target.clone(),
            spec: spec.table.clone(),
            replace,
            replaces: if plan.replaces.is_some() { None } else { spec.replaces.clone() },
            adds: attempt.computed.written.adds,
            removes: Vec::new(),
        });
        let files: usize = plan.ranges.values().map(|range| range.files().len()).sum();
        let vanished = broken.iter().filter(|broken| broken.vanished).count();
        let summary = BatchSummary {
            rows_in: attempt.rows_in,
            rows_out: attempt.computed.written.rows,
            quarantined: quarantined.rows,
            dropped: attempt.computed.dropped,
            spilled_bytes: attempt.computed.spilled_bytes,
            files: (files - vanished) as u64,
            planned_at: plan.planned_at,
            ranges: digest(&plan.ranges)?,
            inputs: inputs(spec, plan),
            columns: attempt.computed.columns,
            expectations: attempt.computed.counts,
            rules: rules::records(attempt.computed.outcomes),
        };
        let (known, windows) = (attempt.computed.known, attempt.computed.windows);
        let staged =
            StagedBatch { position: plan.position, outputs, broken, again: Vec::new(), windows, summary };
        Ok((staged, known))
    }
}

struct Attempt {
    computed: Computed,
    quarantine: Option<FileWriter>,
    rows_in: u64,
    newly_broken: Vec<BrokenFile>,
}

/// What a query and the expectations made of a batch.
#[derive(Default)]
pub(crate) struct Computed {
    pub(crate) written: WrittenFiles,
    pub(crate) columns: Vec<ColumnSource>,
    pub(crate) counts: Vec<ExpectationCount>,
    pub(crate) dropped: u64,
    pub(crate) spilled_bytes: u64,
    /// The address of the first row that makes the batch fail, and the rules it breaks.
    pub(crate) failure: Option<(u64, u64)>,
    pub(crate) outcomes: Vec<RuleOutcome>,
    pub(crate) known: Option<Known>,
    pub(crate) windows: Option<WindowState>,
    /// Data files of rows that came too late.
    pub(crate) late: Vec<Add>,
}

/// A range without the files that turned out to be broken.
pub(crate) fn without(range: &Range, broken: &[BrokenFile]) -> Range {
    match range {
        Range::Files { files } => Range::Files {
            files: files
                .iter()
                .filter(|file| broken.iter().all(|b| b.file.path != file.path))
                .cloned()
                .collect(),
        },
        other => other.clone(),
    }
}

fn digest(ranges: &impl serde::Serialize) -> Result<String> {
    let bytes = serde_json::to_vec(ranges)
        .map_err(|error| Error::new(Code::INTERNAL, "could not digest what a batch reads").because(error))?;
    Ok(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes)))
}

fn inputs(spec: &FlowSpec, plan: &BatchPlan) -> Vec<InputVersion> {
    let named: BTreeSet<&str> = spec.inputs.iter().map(|input| input.name.as_str()).collect();
    named
        .into_iter()
        .map(|name| {
            let streamed = plan.tables.get(name).map(|standing| standing.version);
            InputVersion { name: name.to_owned(), version: plan.versions.get(name).copied().or(streamed) }
        })
        .collect()
}

fn lineage(plan: &LogicalPlan, inputs: &[Input]) -> Vec<ColumnSource> {
    let mut sources: Vec<ColumnSource> = column_origins(plan)
        .into_iter()
        .flat_map(|(column, origins)| {
            origins.into_iter().filter_map(move |(key, input_column)| {
                let input = inputs.iter().find(|input| input.key == key)?.name.clone();
                Some(ColumnSource { column: column.clone(), input, input_column })
            })
        })
        .collect();
    sources.sort();
    sources.dedup();
    sources
}
