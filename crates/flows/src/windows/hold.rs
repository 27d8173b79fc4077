//! Writes the rows down that wait for windows behind the batch.

use std::sync::Arc;

use catchment_core::{Code, Error, Result};
use catchment_lake::Owner;
use datafusion::arrow::array::{AsArray, BooleanArray, Int64Array, RecordBatch};
use datafusion::arrow::compute::filter;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::Int64Type;
use tokio::runtime::Handle;

use super::gather::{Gathered, GatheredInput};
use super::runs::{RunWriter, load, read, to_merge};
use super::state::{Run, WindowState};
use crate::records::BatchPlan;
use crate::runtime::Runtime;
use crate::spec::FlowSpec;
use crate::spool::project;

impl Runtime {
    /// Writes the rows of open windows down, and returns the state that names them. Of sessions, none that is open begins
    /// before `oldest`.
    pub(crate) async fn hold_back(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        gathered: Gathered,
        oldest: i64,
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
                oldest,
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
    oldest: i64,
    input: GatheredInput,
    /// Files that the batch has written for other inputs.
    count: usize,
}

impl Holding {
    /// The files after the batch, and how many it has written. Runs where a thread may wait.
    fn hold(mut self, runs: Vec<Run>) -> Result<(Vec<Run>, usize)> {
        let mut runs: Vec<Run> = runs
            .into_iter()
            .filter(|run| self.input.times.may_be_open(run.last_end, self.watermark, self.oldest))
            .collect();
        let mut writer = self.writer();
        for spooled in std::mem::take(&mut self.input.spooled) {
            spooled.each(|rows| self.write(&mut writer, &rows))?;
        }
        self.end(writer, &mut runs)?;
        loop {
            let merged = to_merge(&runs);
            if merged.is_empty() {
                return Ok((runs, self.count));
            }
            let mut writer = self.writer();
            for run in &merged {
                let bytes = Handle::current().block_on(load(self.owner.lake(), &self.spec.name, run))?;
                for rows in read(bytes, &run.file)? {
                    // Written for another query, they may have other columns, in another order.
                    self.write(&mut writer, &project(&rows?, &self.input.schema)?)?;
                }
            }
            runs.retain(|run| !merged.contains(run));
            self.end(writer, &mut runs)?;
        }
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
        let is_open = |(time, last)| Some(self.input.times.is_open(time, last, self.watermark, self.oldest));
        // A row without a time was refused when it came.
        let open: BooleanArray =
            times.values().iter().copied().zip(last.values().iter().copied()).map(is_open).collect();
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
