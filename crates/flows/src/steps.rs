//! What happens to the rows of a batch between its query and its files: they are held to the conditions, duplicates
//! go, the others are sorted when the table is, and written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use catchment_core::{Code, Error, Result};
use catchment_ingest::{ADDRESS_COLUMN, Address, address_field};
use catchment_lake::{FileOptions, FileWriter, WrittenFiles, to_stored};
use catchment_quality::RulesetState;
use catchment_sql::{Planner, query_error};
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array, new_null_array};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::backfill::Replacing;
use crate::finder::{Finder, Known};
use crate::judge::{BadRows, Judge, without_addresses};
use crate::ordered::Ordered;
use crate::rules::BatchRules;
use crate::runtime::Runtime;
use crate::spec::FlowSpec;
use crate::stage::{Computed, TARGET_BYTES};
use crate::unique::Looked;

/// What the rows of a batch go through.
pub(crate) struct Steps<'a> {
    pub(crate) spec: &'a FlowSpec,
    pub(crate) planner: &'a Arc<Planner>,
    pub(crate) replacing: Option<&'a Arc<Replacing>>,
    pub(crate) judge: &'a Arc<Judge>,
    pub(crate) rules: Option<&'a Arc<BatchRules>>,
    pub(crate) bad: &'a mpsc::Sender<BadRows>,
}

/// The order in which rows are written.
#[derive(Debug, Clone)]
struct Sorting {
    planner: Arc<Planner>,
    schema: SchemaRef,
    columns: Vec<String>,
}

impl Sorting {
    /// The order of a table's rows; partition columns come first, so that one file at a time is open.
    fn of(spec: &FlowSpec, planner: &Arc<Planner>) -> Option<Self> {
        let clustered = spec.table.cluster_columns();
        let columns = spec.table.partition_columns.iter().chain(&clustered).cloned().collect();
        let (planner, schema) = (Arc::clone(planner), Arc::clone(&spec.table.schema));
        (!clustered.is_empty()).then_some(Self { planner, schema, columns })
    }

    fn sort(&self, rows: mpsc::Receiver<RecordBatch>) -> Result<SendableRecordBatchStream> {
        let batches = futures::stream::unfold(rows, |mut rows| async move {
            let batch = rows.recv().await?;
            Some((Ok(without_addresses(batch)), rows))
        });
        let stream = RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches);
        self.planner.sorted(Box::pin(stream), &self.columns)
    }
}

impl Steps<'_> {
    /// Reads all streams at the same time and writes the rows that stay.
    pub(crate) async fn write(
        self,
        runtime: &Runtime,
        streams: Vec<SendableRecordBatchStream>,
        unique: Option<Finder>,
    ) -> Result<(Computed, Vec<RulesetState>)> {
        let Self { spec, replacing, judge, rules, bad, .. } = self;
        let sorting = Sorting::of(spec, self.planner);
        let mut seen = Vec::new();
        let mut tasks = JoinSet::new();
        let mut computed = Computed::default();
        let writers = streams.len();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..writers).map(|_| mpsc::channel(2)).unzip();
        let numbered = Arc::new(AtomicU64::new(0));
        for (stream, sender) in streams.into_iter().zip(senders) {
            let judging = Judging {
                judge: Arc::clone(judge),
                schema: Arc::clone(&spec.table.schema),
                replacing: replacing.cloned(),
                bad: bad.clone(),
                numbered: Arc::clone(&numbered),
            };
            tasks.spawn(async move {
                judging.stream(stream, sender).await.map(|()| (WrittenFiles::default(), None))
            });
        }
        let mut finding = None;
        let receivers = match unique {
            None => receivers,
            Some(unique) => {
                let (senders, unique_receivers) = (0..writers).map(|_| mpsc::channel(2)).unzip();
                let (judge, bad) = (Arc::clone(judge), bad.clone());
                finding = Some(tokio::task::spawn_blocking(move || {
                    find_duplicates(Ordered::new(receivers), unique, &judge, &bad, senders)
                }));
                unique_receivers
            }
        };
        for receiver in receivers {
            let writer = runtime.owner.writer(&spec.target).files(FileOptions::of(
                &spec.target,
                &spec.table,
                TARGET_BYTES,
            ))?;
            tasks.spawn(write_rows(receiver, writer, rules.cloned(), sorting.clone()));
        }
        let ended = |error: tokio::task::JoinError| {
            Error::new(Code::INTERNAL, "a part of a batch ended early").because(error)
        };
        while let Some(done) = tasks.join_next().await {
            let (part, state) = done.map_err(ended)??;
            seen.extend(state);
            computed.written.rows += part.rows;
            computed.written.adds.extend(part.adds);
        }
        if let Some(finding) = finding {
            let (mut known, spilled) = finding.await.map_err(ended)??;
            computed.spilled_bytes = spilled;
            known.wrote(&computed.written.adds);
            computed.known = Some(known);
        }
        computed.written.adds.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((computed, seen))
    }
}

/// Holds the rows of one stream to the conditions.
struct Judging {
    judge: Arc<Judge>,
    schema: SchemaRef,
    /// The partitions that are computed anew, when not all rows are wanted.
    replacing: Option<Arc<Replacing>>,
    bad: mpsc::Sender<BadRows>,
    /// Rows without a source that have been numbered.
    numbered: Arc<AtomicU64>,
}

impl Judging {
    /// Gives rows of a query without a stream addresses that say so, when keys are to be compared.
    fn with_addresses(&self, rows: RecordBatch) -> Result<RecordBatch> {
        if self.judge.unique().is_none() || rows.schema().index_of(ADDRESS_COLUMN).is_ok() {
            return Ok(rows);
        }
        let count = rows.num_rows() as u64;
        let first = self.numbered.fetch_add(count, Ordering::Relaxed);
        let addresses: UInt64Array =
            (first..first + count).map(|number| Address::without_source(number).0).collect();
        let fields: Vec<_> = self.schema.fields().iter().cloned().chain([address_field()]).collect();
        let columns = rows.columns().iter().cloned().chain([Arc::new(addresses) as ArrayRef]).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|error| Error::new(Code::INTERNAL, "could not number rows").because(error))
    }

    async fn stream(
        self,
        mut rows: SendableRecordBatchStream,
        kept: mpsc::Sender<RecordBatch>,
    ) -> Result<()> {
        while let Some(batch) = rows.try_next().await.map_err(query_error)? {
            let mut batch = by_name(&batch, &self.schema)?;
            if let Some(replacing) = &self.replacing {
                batch = replacing.keep(&batch)?;
            }
            let judged = self.judge.conditions(self.with_addresses(batch)?)?;
            for bad in judged.bad {
                let _ = self.bad.send(bad).await;
            }
            if judged.kept.num_rows() > 0 && kept.send(judged.kept).await.is_err() {
                // Whoever took the rows has failed, and tells why.
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Takes duplicates out of rows that come in source order, and hands the others to the writers in turn.
fn find_duplicates(
    mut rows: Ordered,
    mut unique: Finder,
    judge: &Judge,
    bad: &mpsc::Sender<BadRows>,
    writers: Vec<mpsc::Sender<RecordBatch>>,
) -> Result<(Known, u64)> {
    let mut next = 0;
    let mut pass_on = |looked: Looked| {
        let judged = judge.duplicates(looked.rows, &looked.duplicate)?;
        for bad_rows in judged.bad {
            let _ = bad.blocking_send(bad_rows);
        }
        if judged.kept.num_rows() > 0 {
            // A writer that takes nothing has failed, and tells why.
            let _ = writers[next % writers.len()].blocking_send(judged.kept);
            next += 1;
        }
        Ok(())
    };
    while let Some(batch) = rows.next()? {
        pass_on(unique.look(batch)?)?;
    }
    unique.finish(&mut pass_on)
}

/// Writes the rows of one stream.
async fn write_rows(
    mut rows: mpsc::Receiver<RecordBatch>,
    mut writer: FileWriter,
    rules: Option<Arc<BatchRules>>,
    sorting: Option<Sorting>,
) -> Result<(WrittenFiles, Option<RulesetState>)> {
    let mut seen = rules.as_ref().map(|rules| rules.plan.start());
    let mut see = |batch: &RecordBatch| match (&rules, &mut seen) {
        (Some(rules), Some(seen)) => rules.plan.see(seen, batch),
        _ => Ok(()),
    };
    match sorting {
        Some(sorting) => {
            let mut sorted = sorting.sort(rows)?;
            while let Some(batch) = sorted.try_next().await.map_err(query_error)? {
                see(&batch)?;
                writer.write(&batch).await?;
            }
        }
        None => {
            while let Some(batch) = rows.recv().await {
                let batch = without_addresses(batch);
                see(&batch)?;
                writer.write(&batch).await?;
            }
        }
    }
    Ok((writer.finish().await?, seen))
}

/// Puts the columns of a query into the order and types of its table, the address behind them; columns
/// that the query lacks are null.
fn by_name(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| {
            let found = batch.column_by_name(field.name()).cloned();
            let column = found.unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()));
            (field.name(), column, true)
        })
        .collect();
    let failed =
        |error| Error::new(Code::INTERNAL, "rows do not have the columns of their table").because(error);
    let rows = RecordBatch::try_from_iter_with_nullable(columns).map_err(failed)?;
    let stored = to_stored(&rows, schema)?;
    let Some(addresses) = batch.column_by_name(ADDRESS_COLUMN) else { return Ok(stored) };
    let fields: Vec<_> = schema.fields().iter().cloned().chain([address_field()]).collect();
    let columns = stored.columns().iter().chain([addresses]).cloned().collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(failed)
}
