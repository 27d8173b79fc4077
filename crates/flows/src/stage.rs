//! Computes a planned batch and writes its files: nothing is visible until it is published.

use std::collections::BTreeSet;
use std::sync::Arc;

use catchment_catalog::{ColumnSource, InputVersion};
use catchment_core::{Code, Error, FaultPoint, Result};
use catchment_ingest::{BrokenFile, Range, Rejects};
use catchment_lake::{FileOptions, FileWriter, WrittenFiles};
use catchment_sql::{Moment, Planner, column_origins, query_error};
use datafusion::arrow::array::{RecordBatch, new_null_array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use futures::TryStreamExt;
use tokio::task::JoinSet;

use crate::quarantine::{finish, quarantine_spec, write_rejects};
use crate::records::{BatchPlan, BatchSummary, StagedBatch, StagedOutput};
use crate::runtime::Runtime;
use crate::spec::{FlowKind, FlowSpec, Input, InputKind};

/// The size of a data file, in bytes.
const TARGET_BYTES: usize = 128 << 20;

/// Attempts at a batch that finds broken files: each leaves out all that were found before.
const ATTEMPTS: usize = 8;

impl Runtime {
    /// Computes a batch from its plan.
    pub(crate) async fn compute(&self, spec: &FlowSpec, plan: &BatchPlan) -> Result<StagedBatch> {
        let mut broken: Vec<BrokenFile> = Vec::new();
        for _ in 0..ATTEMPTS {
            let attempt = self.attempt(spec, plan, &broken).await?;
            // Rows of a broken file may have gone through the query already, so the files written
            // are left behind and the batch is computed again without it.
            if attempt.newly_broken.is_empty() {
                return self.staged(spec, plan, attempt, broken).await;
            }
            broken.extend(attempt.newly_broken);
        }
        Err(Error::new(
            Code::FILE_BROKEN,
            format!("files of flow \"{}\" keep breaking while they are read", spec.name),
        ))
    }

    async fn attempt(&self, spec: &FlowSpec, plan: &BatchPlan, broken: &[BrokenFile]) -> Result<Attempt> {
        let (rejects, sink) = Rejects::channel();
        let quarantine = self.quarantine_files(spec)?;
        let rejected = tokio::spawn(write_rejects(sink, quarantine, plan.clone()));
        let computed = self.rows(spec, plan, broken, &rejects).await;
        let (rows_in, newly_broken) = (rejects.rows(), rejects.broken());
        // The last sender goes, and the writer of rejects comes to its end.
        drop(rejects);
        let rejected = rejected.await.map_err(|error| {
            Error::new(Code::INTERNAL, "the writer of rejects ended early").because(error)
        })?;
        let (written, columns) = computed?;
        Ok(Attempt { written, columns, rejected: rejected?, rows_in, newly_broken })
    }

    /// Runs the query and writes its result; all that holds a sender of rejects ends with this.
    async fn rows(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        broken: &[BrokenFile],
        rejects: &Arc<Rejects>,
    ) -> Result<(WrittenFiles, Vec<ColumnSource>)> {
        let planner = Arc::new(self.sessions.planner(Moment { micros: plan.planned_at, seed: plan.seed })?);
        for input in &spec.inputs {
            self.bind(&planner, input, plan, broken, rejects).await?;
        }
        let logical = planner.plan(&spec.text, &spec.query).await?;
        let columns = lineage(&logical, &spec.inputs);
        let physical = planner.physical(&logical).await?;
        let streams = planner.run_partitioned(physical)?;
        let mut tasks = JoinSet::new();
        for stream in streams {
            let writer = self.owner.writer(&spec.target).files(FileOptions {
                table: spec.target.clone(),
                schema: Arc::clone(&spec.table.schema),
                partition_columns: spec.table.partition_columns.clone(),
                target_bytes: TARGET_BYTES,
            })?;
            tasks.spawn(write_stream(stream, writer, Arc::clone(&spec.table.schema)));
        }
        let mut written = WrittenFiles::default();
        while let Some(done) = tasks.join_next().await {
            let part = done.map_err(|error| {
                Error::new(Code::INTERNAL, "a writer of a batch ended early").because(error)
            })??;
            written.rows += part.rows;
            written.adds.extend(part.adds);
        }
        written.adds.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((written, columns))
    }

    async fn bind(
        &self,
        planner: &Planner,
        input: &Input,
        plan: &BatchPlan,
        broken: &[BrokenFile],
        rejects: &Arc<Rejects>,
    ) -> Result<()> {
        let table = match &input.kind {
            InputKind::Stream(source, _) | InputKind::Everything(source) => {
                match plan.ranges.get(&input.name) {
                    Some(range) => source.read(&without(range, broken), Arc::clone(rejects), None)?,
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
        planner.bind(&input.key, table)
    }

    fn quarantine_files(
        &self,
        spec: &FlowSpec,
    ) -> Result<impl FnMut() -> Result<FileWriter> + Send + 'static> {
        let table = spec.target.quarantine();
        let writer = self.owner.writer(&table);
        let options = FileOptions {
            schema: quarantine_spec(&spec.target).schema,
            table,
            partition_columns: Vec::new(),
            target_bytes: TARGET_BYTES,
        };
        Ok(move || writer.files(options.clone()))
    }

    async fn staged(
        &self,
        spec: &FlowSpec,
        plan: &BatchPlan,
        attempt: Attempt,
        broken: Vec<BrokenFile>,
    ) -> Result<StagedBatch> {
        let mut quarantine = self.quarantine_files(spec)?;
        let quarantined = finish(attempt.rejected, &mut quarantine, &broken, plan).await?;
        self.owner.lake().faults().reach(FaultPoint::FilesWritten)?;
        let replace = spec.kind == FlowKind::Replace;
        let mut outputs = Vec::new();
        if !quarantined.adds.is_empty() {
            outputs.push(StagedOutput {
                table: spec.target.quarantine(),
                spec: quarantine_spec(&spec.target),
                replace,
                adds: quarantined.adds,
            });
        }
        outputs.push(StagedOutput {
            table: spec.target.clone(),
            spec: spec.table.clone(),
            replace,
            adds: attempt.written.adds,
        });
        let files: usize = plan.ranges.values().map(|range| range.files().len()).sum();
        let vanished = broken.iter().filter(|broken| broken.vanished).count();
        let summary = BatchSummary {
            rows_in: attempt.rows_in,
            rows_out: attempt.written.rows,
            quarantined: quarantined.rows,
            files: (files - vanished) as u64,
            planned_at: plan.planned_at,
            ranges: digest(&plan.ranges)?,
            inputs: inputs(spec, plan),
            columns: attempt.columns,
        };
        Ok(StagedBatch { position: plan.position, outputs, broken, summary })
    }
}

struct Attempt {
    written: WrittenFiles,
    columns: Vec<ColumnSource>,
    rejected: Option<FileWriter>,
    rows_in: u64,
    newly_broken: Vec<BrokenFile>,
}

/// A range without the files that turned out to be broken.
fn without(range: &Range, broken: &[BrokenFile]) -> Range {
    match range {
        Range::Files { files } => Range::Files {
            files: files
                .iter()
                .filter(|file| broken.iter().all(|b| b.file.path != file.path))
                .cloned()
                .collect(),
        },
        table @ Range::Table { .. } => table.clone(),
    }
}

async fn write_stream(
    mut rows: SendableRecordBatchStream,
    mut writer: FileWriter,
    schema: SchemaRef,
) -> Result<WrittenFiles> {
    while let Some(batch) = rows.try_next().await.map_err(query_error)? {
        writer.write(&by_name(&batch, &schema)?).await?;
    }
    writer.finish().await
}

/// Puts the columns of a query into the order of its table; columns that the query lacks are null.
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
    RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| {
        Error::new(Code::INTERNAL, "rows do not have the columns of their table").because(error)
    })
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
