//! Takes rows out of a dataset's quarantine through its current definition.
//!
//! A batch reads some data files of the quarantine table, and in one go publishes the rows that pass and
//! puts what is left in place of the files. Its records and its position are those of a flow of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catchment_core::{Code, Error, FaultPoint, FlowName, Position, Result};
use catchment_ingest::{Address, Range, ReplaySource, SourceRecord, TableSource};
use catchment_lake::{Add, FileOptions, Snapshot};
use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{filter_record_batch, not};
use datafusion::arrow::datatypes::Int64Type;
use rand::Rng;

use crate::quarantine::{BROKEN, PARTLY, quarantine_spec};
use crate::records::{BatchPlan, Records, StagedBatch, StagedOutput};
use crate::report::{FlowReport, Stopwatch};
use crate::resume::{Resume, resume};
use crate::runtime::{Progress, Runtime, definition_hash};
use crate::spec::{FlowKind, FlowSpec, InputKind};

/// Records of one batch, unless a single file has more.
const RECORDS: usize = 50_000;

/// The flow that replays what another one put into quarantine.
#[must_use]
pub fn replay_flow(flow: &FlowName) -> FlowName {
    FlowName::new(format!("{flow}@replay"))
}

/// Some files of a quarantine table, sorted out.
#[derive(Default)]
struct Chunk {
    files: Vec<Add>,
    /// Records of the flow, by the source they came from.
    records: BTreeMap<String, Vec<SourceRecord>>,
    /// Rows that stay as they are.
    others: Vec<RecordBatch>,
}

impl Runtime {
    /// Publishes a replay that was staged and not published, and forgets one that was only planned.
    pub(crate) async fn finish_replay(
        &self,
        spec: &FlowSpec,
        progress: &dyn Progress,
        report: &mut FlowReport,
    ) -> Result<Position> {
        let replayed = FlowSpec { name: replay_flow(&spec.name), ..spec.clone() };
        let records = Records::new(self.owner.lake(), &replayed.name);
        let (plans, staged) = records.positions().await?;
        if plans.is_empty() {
            return Ok(Position::new(0, 0));
        }
        let published = self.owner.writer(&spec.target).position(&replayed.name).await?;
        match resume(published, plans.last().copied(), staged.last().copied()) {
            Resume::Publish(at) => {
                let (plan, staged) = (records.plan(at).await?, records.staged(at).await?);
                match self.publish(&replayed, &plan, &staged, Stopwatch::start(), progress, report).await {
                    Ok(()) => Ok(at.next()),
                    Err(error) if error.code() == Code::COMMIT_CONFLICT => {
                        let quarantine = self.owner.writer(&spec.target.quarantine());
                        if quarantine.position(&replayed.name).await? >= Some(at) {
                            return Err(error);
                        }
                        // Files that it was to replace were joined with others. Nothing of it is published.
                        records.remove(&self.owner, at).await?;
                        Ok(at)
                    }
                    Err(error) => Err(error),
                }
            }
            Resume::Stage(at) => {
                records.remove(&self.owner, at).await?;
                Ok(at)
            }
            Resume::Plan(at) => Ok(at),
        }
    }

    /// Sends what a flow put into quarantine through the flow again. Rows that pass are published, the others
    /// stay, with the reasons they have now.
    ///
    /// # Errors
    /// Returns errors of reading and writing; batches published before stay published.
    pub async fn replay(&self, spec: &FlowSpec, progress: &dyn Progress) -> Result<FlowReport> {
        let mut report = FlowReport::default();
        let mut at = self.finish_replay(spec, progress, &mut report).await?;
        if spec.kind != FlowKind::Append {
            return Ok(report);
        }
        let mut sources = BTreeSet::new();
        let streams = spec.inputs.iter().filter(|input| matches!(input.kind, InputKind::Stream(..)));
        if let Some(twice) = streams.map(|input| &input.name).find(|name| !sources.insert(*name)) {
            return Err(Error::new(
                Code::NOT_SUPPORTED,
                format!(
                    "flow \"{}\" reads \"{twice}\" twice; replaying such flows is not supported yet",
                    spec.name
                ),
            ));
        }
        let quarantine = self.owner.lake().table(&spec.target.quarantine());
        let Some(snapshot) = quarantine.latest().await? else { return Ok(report) };
        let mut files = snapshot.files()?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut files = files.into_iter().peekable();
        while files.peek().is_some() {
            let chunk = self.chunk(spec, &mut files)?;
            if chunk.records.is_empty() {
                continue;
            }
            self.replay_chunk(spec, at, &snapshot, chunk, progress, &mut report).await?;
            at = at.next();
        }
        report.version =
            self.owner.lake().table(&spec.target).latest().await?.map(|snapshot| snapshot.version());
        Ok(report)
    }

    fn chunk(&self, spec: &FlowSpec, files: &mut impl Iterator<Item = Add>) -> Result<Chunk> {
        let quarantine = spec.target.quarantine();
        let schema = quarantine_spec(&spec.target).schema;
        let source = TableSource::new(self.owner.lake(), &quarantine, Arc::clone(&schema));
        let streams: Vec<&str> = spec
            .inputs
            .iter()
            .filter(|input| matches!(input.kind, InputKind::Stream(..)))
            .map(|input| input.name.as_str())
            .collect();
        let mut chunk = Chunk::default();
        let mut count = 0;
        for file in files {
            source.scan(std::slice::from_ref(&file), &schema, &mut |rows| {
                let ours = ours(&rows, spec, &streams)?;
                count += ours.true_count();
                take_records(&rows, &ours, &streams, &mut chunk.records)?;
                let rest = not(&ours).and_then(|others| filter_record_batch(&rows, &others));
                chunk.others.push(rest.map_err(internal)?);
                Ok(())
            })?;
            chunk.files.push(file);
            if count >= RECORDS {
                break;
            }
        }
        Ok(chunk)
    }

    async fn replay_chunk(
        &self,
        spec: &FlowSpec,
        at: Position,
        snapshot: &Snapshot,
        mut chunk: Chunk,
        progress: &dyn Progress,
        report: &mut FlowReport,
    ) -> Result<()> {
        // Rules about a batch as a whole were made for batches of input.
        let mut replayed = FlowSpec { name: replay_flow(&spec.name), ruleset: None, ..spec.clone() };
        let mut plan = BatchPlan {
            seed: rand::rng().random(),
            definition_hash: definition_hash(spec),
            definition: spec.definition.clone(),
            ..BatchPlan::empty(replayed.name.clone(), at, self.owner.lake().clock().now_micros())
        };
        for input in &mut replayed.inputs {
            match &input.kind {
                InputKind::Stream(source, limits) => {
                    let records = chunk.records.remove(&input.name).unwrap_or_default();
                    let range = Range::Quarantine { version: snapshot.version(), records: records.len() };
                    plan.ranges.insert(input.name.clone(), range);
                    let source = ReplaySource::new(Arc::clone(source), records);
                    input.kind = InputKind::Stream(Arc::new(source), *limits);
                }
                InputKind::Table(name, version) => {
                    let table = self.owner.lake().table(name);
                    let version = match version {
                        Some(version) => *version,
                        None => table.existing().await?.version(),
                    };
                    plan.versions.insert(input.name.clone(), version);
                }
                InputKind::Everything(source) => {
                    plan.ranges.extend(source.everything().await?.map(|range| (input.name.clone(), range)));
                }
            }
        }
        let records = Records::new(self.owner.lake(), &replayed.name);
        let plan = records.write_plan(&self.owner, plan).await?;
        let (staged, known) = self.compute(&replayed, &plan, None).await?;
        let staged = self.put_back(spec, staged, chunk.files, &chunk.others).await?;
        let staged = records.write_staged(&self.owner, staged).await?;
        self.keys.keep(&spec.target, known);
        self.owner.lake().faults().reach(FaultPoint::StagedWritten)?;
        self.publish(&replayed, &plan, &staged, Stopwatch::start(), progress, report).await?;
        // A rollback needs those that are kept, and that which opens the epoch: it says what that goes on from.
        if let Some(number) = at.number.checked_sub(self.kept_plans()) {
            let before = Position { number, ..at };
            if records.kept_plan(before).await?.is_some_and(|plan| !plan.is_opening()) {
                records.remove(&self.owner, before).await?;
            }
        }
        Ok(())
    }

    /// Lets the batch put what stays in quarantine in place of some of its files.
    pub(crate) async fn put_back(
        &self,
        spec: &FlowSpec,
        mut staged: StagedBatch,
        files: Vec<Add>,
        others: &[RecordBatch],
    ) -> Result<StagedBatch> {
        let table = spec.target.quarantine();
        let declared = quarantine_spec(&spec.target);
        let mut writer = self.owner.writer(&table).files(FileOptions::of(&table, &declared, 128 << 20))?;
        for rows in others.iter().filter(|rows| rows.num_rows() > 0) {
            writer.write(rows).await?;
        }
        let others = writer.finish().await?.adds;
        let index = match staged.outputs.iter().position(|output| output.table == table) {
            Some(index) => index,
            None => {
                let empty = StagedOutput {
                    table,
                    spec: declared,
                    replace: false,
                    replaces: None,
                    adds: Vec::new(),
                    removes: Vec::new(),
                };
                staged.outputs.insert(0, empty);
                0
            }
        };
        staged.outputs[index].adds.extend(others);
        staged.outputs[index].removes = files;
        Ok(staged)
    }
}

/// The rows that the flow put there and that can be decoded again.
fn ours(rows: &RecordBatch, spec: &FlowSpec, streams: &[&str]) -> Result<BooleanArray> {
    let (flows, sources, records) = (texts(rows, "flow")?, texts(rows, "source")?, texts(rows, "record")?);
    let reasons = texts(rows, "reason")?;
    let rules = rows.column_by_name("rules").and_then(|column| column.as_list_opt::<i32>());
    let known: BTreeSet<&str> = streams.iter().copied().collect();
    Ok((0..rows.num_rows())
        .map(|row| {
            let broken_file = rules.is_some_and(|rules| {
                let names = rules.value(row);
                names
                    .as_string_opt::<i32>()
                    .is_some_and(|names| names.iter().any(|name| matches!(name, Some(BROKEN | PARTLY))))
            });
            // Rows from before sources were named can only be those of the one that there is.
            let from_here =
                if sources.is_valid(row) { known.contains(sources.value(row)) } else { known.len() == 1 };
            // Bytes that are no text were written as signs, which are another text.
            let altered = reasons.is_valid(row) && reasons.value(row).contains("invalid UTF-8");
            let ours = !altered && flows.is_valid(row) && flows.value(row) == spec.name.as_str();
            Some(ours && from_here && !broken_file && records.is_valid(row))
        })
        .collect())
}

fn take_records(
    rows: &RecordBatch,
    ours: &BooleanArray,
    streams: &[&str],
    into: &mut BTreeMap<String, Vec<SourceRecord>>,
) -> Result<()> {
    let rows = filter_record_batch(rows, ours).map_err(internal)?;
    let (sources, files, records) =
        (texts(&rows, "source")?, texts(&rows, "file_path")?, texts(&rows, "record")?);
    // Older tables do not have it.
    let headers = rows.column_by_name("header").and_then(|column| column.as_string_opt::<i32>());
    let number = |name: &str, row: usize| {
        let column = rows.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        column.is_valid(row).then(|| u64::try_from(column.value(row)).ok()).flatten()
    };
    for row in 0..rows.num_rows() {
        let source =
            if sources.is_valid(row) { sources.value(row) } else { streams.first().copied().unwrap_or("") };
        into.entry(source.to_owned()).or_default().push(SourceRecord {
            address: Address(0),
            file: if files.is_valid(row) { files.value(row).to_owned() } else { String::new() },
            byte_offset: number("byte_offset", row),
            row_number: number("row_number", row),
            record: records.value(row).to_owned(),
            header: headers
                .filter(|headers| headers.is_valid(row))
                .map(|headers| headers.value(row).to_owned()),
        });
    }
    Ok(())
}

/// A column of text of a quarantine table.
pub(crate) fn texts<'a>(
    rows: &'a RecordBatch,
    name: &str,
) -> Result<&'a datafusion::arrow::array::StringArray> {
    rows.column_by_name(name)
        .and_then(|column| column.as_string_opt::<i32>())
        .ok_or_else(|| Error::new(Code::LOG_CORRUPT, format!("a quarantine table lacks column {name:?}")))
}

fn internal(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::new(Code::INTERNAL, "could not sort quarantined rows out").because(error)
}
