//! Writes the rows down that wait for windows behind the batch.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_lake::Owner;
use datafusion::arrow::array::{AsArray, BooleanArray, Int64Array, RecordBatch};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::filter;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::Int64Type;
use tokio::runtime::Handle;

use super::gather::{Gathered, GatheredInput};
use super::open::OpenRows;
use super::runs::{RunWriter, load, read, to_merge};
use super::state::{Run, WindowState};
use crate::records::BatchPlan;
use crate::runtime::Runtime;
use crate::spec::FlowSpec;
use crate::spool::project;

impl Runtime {
    /// Writes the rows of open windows down, and returns the state that names them; `open` tells them where times do not.
    pub(crate) async fn hold_back(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        gathered: Gathered,
        mut open: OpenRows,
    ) -> Result<WindowState> {
        let Gathered { mut state, inputs, .. } = gathered;
        let watermark = state.watermark;
        let mut count = 0;
        for (name, input) in inputs {
            let Some(known) = state.inputs.get_mut(&name) else { continue };
            let holding = Holding {
                owner: Arc::clone(&self.owner),
                spec: spec.clone(),
                plan: plan.clone(),
                watermark,
                open: open.remove(&name),
                input,
                count,
            };
            let (runs, times) = (std::mem::take(&mut known.runs), holding.input.times.clone());
            let held = tokio::task::spawn_blocking(move || holding.hold(runs));
            (known.runs, count) = held.await.map_err(|error| {
                Error::new(Code::INTERNAL, "a part of a batch ended early").because(error)
            })??;
            known.open_windows = times.open_windows(&known.runs, watermark);
        }
        Ok(state)
    }
}

/// What it takes to write the rows of one input.
struct Holding {
    owner: Arc<Owner>,
    spec: FlowSpec,
    plan: BatchPlan,
    watermark: Option<i64>,
    /// Which of the rows are in open windows, those in files first; `None` where times tell, or all are.
    open: Option<BooleanBuffer>,
    input: GatheredInput,
    /// Files that the batch has written for other inputs.
    count: usize,
}

impl Holding {
    /// The files after the batch, and how many it has written. Runs where a thread may wait.
    fn hold(mut self, runs: Vec<Run>) -> Result<(Vec<Run>, usize)> {
        let mut writer = self.writer();
        let mut runs = self.hold_files(runs, &mut writer)?;
        for spooled in std::mem::take(&mut self.input.spooled) {
            let mut is_open = self.take_open(spooled.rows);
            spooled.each(|rows| match take_first(&mut is_open, rows.num_rows()) {
                Some(open) => self.write(&mut writer, &chosen(&rows, open)?),
                None => self.write(&mut writer, &rows),
            })?;
        }
        self.end(writer, &mut runs)?;
        loop {
            let merged = to_merge(&runs);
            if merged.is_empty() {
                return Ok((runs, self.count));
            }
            let mut writer = self.writer();
            for run in &merged {
                self.each(run, |rows| self.write(&mut writer, rows))?;
            }
            runs.retain(|run| !merged.contains(run));
            self.end(writer, &mut runs)?;
        }
    }

    /// Which of the next so many rows are in open windows.
    fn take_open(&mut self, rows: usize) -> Option<BooleanBuffer> {
        take_first(&mut self.open, rows)
    }

    /// The files that stay as they are; of those that stay in part the rows that do are written again.
    fn hold_files(&mut self, runs: Vec<Run>, writer: &mut RunWriter) -> Result<Vec<Run>> {
        let mut stay = Vec::new();
        for run in runs {
            let rows = usize::try_from(run.rows).unwrap_or(usize::MAX);
            let Some(open) = self.take_open(rows) else {
                stay.extend(self.input.times.may_be_open(run.last_end, self.watermark).then_some(run));
                continue;
            };
            match open.count_set_bits() {
                0 => {}
                all if all == rows => stay.push(run),
                _ => {
                    let mut open = Some(open);
                    self.each(&run, |rows| match take_first(&mut open, rows.num_rows()) {
                        Some(open) => self.write(writer, &chosen(rows, open)?),
                        None => self.write(writer, rows),
                    })?;
                }
            }
        }
        Ok(stay)
    }

    /// Hands out the rows of a file. Written for another query, they may have had other columns, in another order.
    fn each(&self, run: &Run, mut take: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        let bytes = Handle::current().block_on(load(self.owner.lake(), &self.spec.name, run))?;
        for rows in read(bytes, &run.file)? {
            take(&project(&rows?, &self.input.schema)?)?;
        }
        Ok(())
    }

    fn writer(&self) -> RunWriter {
        let at = (self.plan.position, self.count);
        RunWriter::new(Arc::clone(&self.owner), self.spec.name.clone(), at, Arc::clone(&self.input.schema))
    }

    fn end(&mut self, writer: RunWriter, runs: &mut Vec<Run>) -> Result<()> {
        let written = Handle::current().block_on(writer.finish())?;
        self.count += written.len();
        runs.extend(written);
        Ok(())
    }

    /// Writes those of the rows that are in a window which is still open.
    fn write(&self, writer: &mut RunWriter, rows: &RecordBatch) -> Result<()> {
        let wrong = |error| Error::new(Code::INTERNAL, "could not hold rows back").because(error);
        let times = self.input.times.times(rows)?;
        let (first, last) = self.input.times.ends(&times);
        // A row without a time was refused when it came.
        let is_open = |last: &i64| Some(self.input.times.may_be_open(*last, self.watermark));
        let open: BooleanArray = last.values().iter().map(is_open).collect();
        if open.true_count() == 0 {
            return Ok(());
        }
        let part = |ends: &Int64Array| -> Result<Int64Array> {
            Ok(filter(ends, &open).map_err(wrong)?.as_primitive::<Int64Type>().clone())
        };
        let rows = filter_record_batch(rows, &open).map_err(wrong)?;
        Handle::current().block_on(writer.write(&rows, &part(&first)?, &part(&last)?))
    }
}

/// Takes the first of some bits, when there are any.
fn take_first(bits: &mut Option<BooleanBuffer>, count: usize) -> Option<BooleanBuffer> {
    let all = bits.take()?;
    let count = count.min(all.len());
    let first = all.slice(0, count);
    *bits = Some(all.slice(count, all.len() - count));
    Some(first)
}

fn chosen(rows: &RecordBatch, open: BooleanBuffer) -> Result<RecordBatch> {
    filter_record_batch(rows, &BooleanArray::new(open, None))
        .map_err(|error| Error::new(Code::INTERNAL, "could not hold rows back").because(error))
}
