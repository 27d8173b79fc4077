//! Takes in the rows of a batch, and decides which windows it closes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_ingest::{
    ADDRESS_COLUMN, Address, BrokenFile, Range, Reject, Rejects, Source, SourceRecord, StreamPosition,
    reject_batch,
};
use catchment_sql::{Closed, Planner, query_error};
use datafusion::arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{SchemaRef, UInt64Type};
use datafusion::catalog::TableProvider;
use datafusion::datasource::provider_as_source;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlanBuilder;
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::held::HeldTable;
use super::state::WindowState;
use super::times::RowTimes;
use super::{EventTime, state_at};
use crate::judge::BadRows;
use crate::records::{BatchPlan, Records};
use crate::runtime::Runtime;
use crate::spec::{FlowSpec, InputKind};
use crate::spool::{Spool, Spooled, project};
use crate::stage::without;

/// Memory for the rows of one stream that were put aside, in bytes.
const SPOOL_BYTES: usize = 32 << 20;

/// Records that are looked up at a time.
const LOOKED_UP: usize = 4_096;

/// What a batch has taken in.
pub(crate) struct Gathered {
    /// The windows that the batch closes.
    pub(crate) closed: Closed,
    /// Rows of the batch that came too late.
    pub(crate) late_rows: u64,
    /// The state behind the batch, the files of which are those of before.
    pub(super) state: WindowState,
    /// The rows of the batch, by the input's name.
    pub(super) inputs: BTreeMap<String, GatheredInput>,
}

pub(super) struct GatheredInput {
    pub(super) schema: SchemaRef,
    pub(super) times: RowTimes,
    pub(super) spooled: Vec<Spooled>,
    /// Rows that came too late, with all columns of their table, when one takes them.
    late: Vec<Spooled>,
}

/// What was taken off one stream of a scan.
#[derive(Default)]
struct Taken {
    spooled: Option<Spooled>,
    late: Option<Spooled>,
    /// The newest time of each piece.
    newest: BTreeMap<u64, i64>,
    late_rows: u64,
    /// Addresses of rows that have no time, or one too far ahead.
    refused: Vec<Address>,
}

impl Runtime {
    /// Takes in the rows of a batch, `None` for a flow without windows.
    pub(crate) async fn gather(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        planner: &Planner,
        (broken, rejects, bad): (&[BrokenFile], &Arc<Rejects>, &mpsc::Sender<BadRows>),
    ) -> Result<Option<Gathered>> {
        if spec.windows.is_empty() {
            return Ok(None);
        }
        let mut state = state_at(&Records::new(self.owner.lake(), &spec.name), plan.state).await?;
        let (behind, late) = (state.watermark, state.late);
        let mut inputs = BTreeMap::new();
        for (name, event_time) in &spec.windows {
            let Some(source) = source_of(spec, name) else { continue };
            let schema = event_time.schema(&source.schema());
            let times = RowTimes::plan(planner, event_time, &schema)?;
            let input = state.inputs.entry(name.clone()).or_default();
            input.definition = event_time.definition();
            (input.delay, input.idle) = (event_time.delay, event_time.idle);
            input.columns = event_time.typed_columns(spec, name);
            input.behind = plan.behind.contains(name);
            let range = plan.ranges.get(name).map(|range| without(range, broken));
            input.of_input = source.schema().fields().iter().map(|field| field.name().clone()).collect();
            let open = range.as_ref().map(open_partitions);
            input.know(open.iter().flatten(), plan.planned_at);
            if let Some(Range::Stream { slices, .. }) = &range {
                input.know(slices.iter().map(|slice| &slice.partition), plan.planned_at);
            }
            if input.partitions.is_empty() && range.is_none() {
                // What has given nothing yet may give anything, until it has been silent for long.
                input.know(&[String::new()], plan.planned_at);
            }
            let mut gathered = GatheredInput { schema, times, spooled: Vec::new(), late: Vec::new() };
            if let Some(range) = range {
                let table = source.read(&range, Arc::clone(rejects), Some(0))?;
                let late = spec.late.as_ref().map(|(_, declared)| &declared.schema);
                let moment = (behind, plan.planned_at.saturating_add(event_time.ahead));
                let taken = self.take(planner, &gathered, table, late, moment).await?;
                let mut refused = Vec::new();
                for part in taken {
                    for (piece, newest) in part.newest {
                        input.hear(partition(&range, piece), newest, plan.planned_at);
                    }
                    state.late += part.late_rows;
                    refused.extend(part.refused);
                    gathered.spooled.extend(part.spooled);
                    gathered.late.extend(part.late);
                }
                if let Some(open) = &open {
                    input.keep(open);
                }
                state.timeless += refused.len() as u64;
                refuse(&source, range, refused, event_time, bad).await?;
            }
            inputs.insert(name.clone(), gathered);
        }
        state.watermark = state.watermark_at(plan.planned_at);
        let closed =
            Closed { behind: behind.unwrap_or(i64::MIN), until: state.watermark.unwrap_or(i64::MIN) };
        Ok(Some(Gathered { closed, late_rows: state.late - late, state, inputs }))
    }

    /// Reads a table and puts its rows aside.
    async fn take(
        &self,
        planner: &Planner,
        gathered: &GatheredInput,
        table: Arc<dyn TableProvider>,
        late: Option<&SchemaRef>,
        (watermark, latest): (Option<i64>, i64),
    ) -> Result<Vec<Taken>> {
        let of = table.schema();
        let wanted = |name: &String| {
            let is_in = |schema: &SchemaRef| schema.field_with_name(name).is_ok();
            name == ADDRESS_COLUMN || is_in(&gathered.schema) || late.is_some_and(is_in)
        };
        let columns = (0..of.fields().len()).filter(|index| wanted(of.field(*index).name())).collect();
        let columns = Some(columns);
        let scan = LogicalPlanBuilder::scan("gathered", provider_as_source(table), columns)
            .and_then(LogicalPlanBuilder::build)
            .map_err(query_error)?;
        let streams = planner.run_partitioned(planner.physical(&scan).await?)?;
        let mut tasks = JoinSet::new();
        let budget = SPOOL_BYTES / streams.len().max(1);
        for stream in streams {
            let taking = Taking {
                times: gathered.times.clone(),
                schema: Arc::clone(&gathered.schema),
                watermark,
                latest,
                spool: Spool::new(budget, &self.spill_folder()),
                late: late.map(|schema| (Arc::clone(schema), Spool::new(budget, &self.spill_folder()))),
                taken: Taken::default(),
            };
            tasks.spawn(taking.all(stream));
        }
        let mut taken = Vec::new();
        while let Some(done) = tasks.join_next().await {
            taken.push(done.map_err(|error| {
                Error::new(Code::INTERNAL, "a part of a batch ended early").because(error)
            })??);
        }
        Ok(taken)
    }
}

impl Gathered {
    /// Takes the rows out that came too late.
    pub(crate) fn take_late(&mut self) -> Vec<Spooled> {
        self.inputs.values_mut().flat_map(|input| std::mem::take(&mut input.late)).collect()
    }

    /// The rows of an input as the batch's query sees them.
    pub(crate) fn table(&self, runtime: &Runtime, spec: &FlowSpec, name: &str) -> Option<Arc<HeldTable>> {
        let gathered = self.inputs.get(name)?;
        let moves = self.closed.until > self.closed.behind;
        let runs = self.state.inputs.get(name).into_iter().flat_map(|input| &input.runs);
        Some(Arc::new(HeldTable {
            lake: Arc::clone(runtime.owner.lake()),
            flow: spec.name.clone(),
            schema: source_of(spec, name)?.schema(),
            numbered: false,
            // Where a session ends, all rows behind it tell.
            runs: runs
                .filter(|run| moves && (gathered.times.is_of_others() || run.first_end <= self.closed.until))
                .cloned()
                .collect(),
            spooled: if moves { gathered.spooled.clone() } else { Vec::new() },
        }))
    }
}

pub(super) fn source_of(spec: &FlowSpec, name: &str) -> Option<Arc<dyn Source>> {
    spec.inputs.iter().find_map(|input| match &input.kind {
        InputKind::Stream(source, _) if input.name == name => Some(Arc::clone(source)),
        _ => None,
    })
}

/// The partitions that give rows after a range.
fn open_partitions(range: &Range) -> BTreeSet<String> {
    match range {
        Range::Stream { upto, .. } => {
            let open = upto.next.iter().filter(|(_, at)| !matches!(at, StreamPosition::End));
            open.map(|(name, _)| name.clone()).collect()
        }
        _ => BTreeSet::from([String::new()]),
    }
}

/// The partition of a range's piece. Files and tables are one partition: they are read to their end before the watermark
/// moves.
fn partition(range: &Range, piece: u64) -> &str {
    match range {
        Range::Stream { slices, .. } => usize::try_from(piece)
            .ok()
            .and_then(|piece| slices.get(piece))
            .map_or("", |slice| &slice.partition),
        _ => "",
    }
}

/// Puts rows without a usable time into quarantine.
async fn refuse(
    source: &Arc<dyn Source>,
    range: Range,
    mut refused: Vec<Address>,
    event_time: &EventTime,
    bad: &mpsc::Sender<BadRows>,
) -> Result<()> {
    refused.sort_unstable();
    let reason = format!(
        "{} is null, or more than {} s ahead of the batch",
        event_time.time,
        event_time.ahead / 1_000_000
    );
    for chunk in refused.chunks(LOOKED_UP) {
        let (source, range, wanted, reason) =
            (Arc::clone(source), range.clone(), chunk.to_vec(), reason.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let records = source.records(&range, 0, &wanted)?;
            let reject = |record: SourceRecord| Reject {
                source: source.name(),
                file: record.file,
                offset: record.byte_offset,
                row: record.row_number,
                reason: reason.clone(),
                record: Some(record.record),
                header: record.header,
            };
            reject_batch(&records.into_iter().map(reject).collect::<Vec<_>>())
        });
        let rejected = looked
            .await
            .map_err(|error| Error::new(Code::INTERNAL, "a look-up ended early").because(error))??;
        // Nobody takes them only when the quarantine has failed, which is told there.
        let _ = bad.send(BadRows::Rejected(rejected)).await;
    }
    Ok(())
}

/// Takes the rows of one stream.
struct Taking {
    times: RowTimes,
    schema: SchemaRef,
    watermark: Option<i64>,
    /// The latest time that an event may have.
    latest: i64,
    spool: Spool,
    /// Where late rows go, with the columns that are wanted of them.
    late: Option<(SchemaRef, Spool)>,
    taken: Taken,
}

impl Taking {
    async fn all(mut self, mut stream: SendableRecordBatchStream) -> Result<Taken> {
        while let Some(rows) = stream.try_next().await.map_err(query_error)? {
            self.rows(&rows)?;
        }
        let spooled = self.spool.finish()?;
        let late = self.late.map(|(_, late)| late.finish()).transpose()?;
        let late = late.filter(|late| !late.is_empty());
        Ok(Taken { spooled: (!spooled.is_empty()).then_some(spooled), late, ..self.taken })
    }

    fn rows(&mut self, rows: &RecordBatch) -> Result<()> {
        // The time is planned over the columns that wait; late rows may want others before these.
        let waiting = project(rows, &self.schema)?;
        let times = self.times.times(&waiting)?;
        let addresses = rows
            .column_by_name(ADDRESS_COLUMN)
            .and_then(|column| column.as_primitive_opt::<UInt64Type>())
            .ok_or_else(|| Error::new(Code::INTERNAL, "rows of a stream have no addresses"))?;
        let fates: Vec<Fate> =
            (0..rows.num_rows()).map(|row| self.fate(&times, row, Address(addresses.value(row)))).collect();
        if fates.contains(&Fate::Late)
            && let Some((schema, late)) = &mut self.late
        {
            late.push(choose(&project(rows, schema)?, &fates, Fate::Late)?)?;
        }
        self.spool.push(choose(&waiting, &fates, Fate::Waits)?)
    }

    /// What becomes of a row; takes note of its time.
    fn fate(&mut self, times: &Int64Array, row: usize, address: Address) -> Fate {
        if times.is_null(row) || times.value(row) > self.latest {
            self.taken.refused.push(address);
            return Fate::Refused;
        }
        let newest = self.taken.newest.entry(address.piece()).or_insert(i64::MIN);
        *newest = (*newest).max(times.value(row));
        let is_late = self.times.is_late(times.value(row), self.watermark);
        self.taken.late_rows += u64::from(is_late);
        if is_late { Fate::Late } else { Fate::Waits }
    }
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It waits for its windows.
    Waits,
    /// All of its windows are closed.
    Late,
    /// It has no time, or one too far ahead.
    Refused,
}

/// The rows of one fate.
fn choose(rows: &RecordBatch, fates: &[Fate], wanted: Fate) -> Result<RecordBatch> {
    if fates.iter().all(|fate| *fate == wanted) {
        return Ok(rows.clone());
    }
    let chosen: BooleanArray = fates.iter().map(|fate| Some(*fate == wanted)).collect();
    filter_record_batch(rows, &chosen)
        .map_err(|error| Error::new(Code::INTERNAL, "could not leave rows out").because(error))
}
