//! Writes files of a table again without changing a row: joined into larger ones, or with wider columns.
//!
//! This is our own rewrite and not the library's: there, two of them, or one beside a full
//! overwrite, may both commit and duplicate rows. Here nothing else takes files out of the table from choosing the
//! files to the commit that swaps them; others may add some.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{Schema, SchemaRef};
use catchment_core::{Code, Error, FaultPoint, Result, TableName};
use deltalake::kernel::{Add, Remove};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::failure::storage_error;
use crate::files::{FileOptions, WrittenFiles};
use crate::log::Draft;
use crate::schema::to_stored;
use crate::table::{Snapshot, remove_of};
use crate::writer::{Outcome, TableWriter, parameters};

/// Bins of files that one commit joins, for each that is joined at the same time.
const BINS_PER_COMMIT: usize = 16;

/// Which of some data files are meant.
pub type FileCondition<'a> = dyn Fn(&[Add]) -> Result<Vec<bool>> + Send + Sync + 'a;

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Files taken out.
    pub removed: usize,
    /// Files put in.
    pub added: usize,
    /// The size of the files taken out, in bytes.
    pub bytes: u64,
}

impl TableWriter {
    /// Joins small files until no two of a partition fit into one of the target size; `width` bins at a time,
    /// each of which takes about as much memory as its largest file. With `condition` only files are looked at
    /// that it says.
    ///
    /// # Errors
    /// Returns errors of reading and writing; what was joined before stays joined.
    pub async fn optimize(
        self: &Arc<Self>,
        target_bytes: usize,
        width: usize,
        condition: Option<&FileCondition<'_>>,
    ) -> Result<Compacted> {
        let mut done = Compacted::default();
        loop {
            let _alone = self.taking_out().await;
            let Some(snapshot) = self.newest().await? else { return Ok(done) };
            let mut files = snapshot.files()?;
            if let Some(condition) = condition {
                let chosen = condition(&files)?;
                files =
                    files.into_iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(add, _)| add).collect();
            }
            let mut bins = bins(files, target_bytes);
            bins.truncate(width.max(1) * BINS_PER_COMMIT);
            if bins.is_empty() {
                return Ok(done);
            }
            let pass = self.join_bins(&snapshot, bins, target_bytes, width).await?;
            done.removed += pass.removed;
            done.added += pass.added;
            done.bytes += pass.bytes;
            // A pass that leaves as many files as there were would repeat itself.
            if pass.added >= pass.removed {
                return Ok(done);
            }
        }
    }

    async fn join_bins(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        bins: Vec<Vec<Add>>,
        target_bytes: usize,
        width: usize,
    ) -> Result<Compacted> {
        let schema = snapshot.schema()?;
        let mut waiting = bins.clone().into_iter();
        let mut tasks = JoinSet::new();
        let mut adds = Vec::new();
        loop {
            while tasks.len() < width.max(1)
                && let Some(files) = waiting.next()
            {
                let (writer, snapshot, schema) = (Arc::clone(self), snapshot.clone(), Arc::clone(&schema));
                tasks.spawn(async move { writer.join_files(&snapshot, &schema, &files, target_bytes).await });
            }
            let Some(joined) = tasks.join_next().await else { break };
            let joined = joined.map_err(|error| {
                Error::new(Code::INTERNAL, "the joining of files ended early").because(error)
            })?;
            adds.extend(joined?);
        }
        let removes: Vec<Add> = bins.into_iter().flatten().collect();
        self.commit_joined(&removes, adds, target_bytes).await
    }

    /// Rewrites partitions that have at least `minimum_files` files below half the target size.
    ///
    /// Appends go on while it runs. It takes at most one target file per partition at a time.
    ///
    /// # Errors
    /// Returns errors of reading and writing; the table is then as it was.
    pub(crate) async fn compact(&self, minimum_files: usize, target_bytes: usize) -> Result<Compacted> {
        let _alone = self.taking_out().await;
        let Some(snapshot) = self.newest().await? else { return Ok(Compacted::default()) };
        let chosen = choose(snapshot.files()?, minimum_files, target_bytes);
        if chosen.is_empty() {
            return Ok(Compacted::default());
        }
        let mut adds = Vec::new();
        for files in chosen.values() {
            adds.extend(self.join_files(&snapshot, &snapshot.schema()?, files, target_bytes).await?);
        }
        let removes: Vec<Add> = chosen.into_values().flatten().collect();
        self.commit_joined(&removes, adds, target_bytes).await
    }

    async fn newest(&self) -> Result<Option<Snapshot>> {
        let tip = self.tip().await?;
        self.snapshot(&tip).await
    }

    /// Swaps files for others with the same rows; nobody else takes files out meanwhile.
    async fn commit_joined(&self, removes: &[Add], adds: Vec<Add>, target_bytes: usize) -> Result<Compacted> {
        self.faults.reach(FaultPoint::CompactionWritten)?;
        let now = self.clock.now_millis();
        let bytes = removes.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum();
        let done = Compacted { removed: removes.len(), added: adds.len(), bytes };
        let draft = Draft {
            operation: "OPTIMIZE".to_owned(),
            parameters: parameters([("targetSize", target_bytes.to_string().as_str()), ("auto", "true")]),
            batch: Value::Null,
            removes: removes.iter().map(|add| remove_of(add, false, now)).collect(),
            adds,
            ..Draft::default()
        };
        let mut tip = self.tip().await?;
        match self.commit(&mut tip, draft, &[]).await? {
            Outcome::Committed(_) => Ok(done),
            Outcome::AlreadyPublished => Ok(Compacted::default()),
        }
    }

    /// Puts files with the same rows in the place of some files of a snapshot, which must be the newest.
    ///
    /// # Errors
    /// Returns [`Code::COMMIT_CONFLICT`] when the table has changed since, and [`Code::INTERNAL`] for other rows.
    pub async fn rearrange(
        &self,
        snapshot: &Snapshot,
        files: &[Add],
        written: WrittenFiles,
    ) -> Result<Compacted> {
        let (_alone, mut tip) = self.alone().await?;
        let newest = self.existing(&tip).await?;
        if newest.version() != snapshot.version() {
            return Err(Error::new(
                Code::COMMIT_CONFLICT,
                format!("table \"{}\" changed while it was rewritten", self.table().name()),
            ));
        }
        require_rows(self.table().name(), files, written.rows)?;
        self.faults.reach(FaultPoint::CompactionWritten)?;
        let now = self.clock.now_millis();
        let bytes = files.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum();
        let done = Compacted { removed: files.len(), added: written.adds.len(), bytes };
        let draft = Draft {
            operation: "OPTIMIZE".to_owned(),
            parameters: parameters([("auto", "false")]),
            removes: files.iter().map(|add| remove_of(add, false, now)).collect(),
            adds: written.adds.into_iter().map(|add| Add { data_change: false, ..add }).collect(),
            ..Draft::default()
        };
        self.commit(&mut tip, draft, &[]).await.map(|_| done)
    }

    /// Writes all files of a table again, one by one, with the columns of another schema.
    pub(crate) async fn rewrite(
        &self,
        snapshot: &Snapshot,
        schema: &SchemaRef,
    ) -> Result<(Vec<Add>, Vec<Remove>)> {
        let now = self.clock.now_millis();
        let (mut adds, mut removes) = (Vec::new(), Vec::new());
        for file in snapshot.files()? {
            if file.deletion_vector.is_some() {
                return Err(Error::new(
                    Code::NOT_SUPPORTED,
                    format!(
                        "table \"{}\" has deletion vectors; its columns cannot be widened yet",
                        self.table().name()
                    ),
                )
                .hint(format!(
                    "rebuild it with `catchment run --full-refresh --select {}`",
                    self.table().name()
                )));
            }
            removes.push(remove_of(&file, false, now));
            adds.extend(self.join_files(snapshot, schema, &[file], usize::MAX).await?);
        }
        Ok((adds, removes))
    }

    async fn join_files(
        &self,
        snapshot: &Snapshot,
        schema: &SchemaRef,
        files: &[Add],
        target_bytes: usize,
    ) -> Result<Vec<Add>> {
        let partition_columns = snapshot.partition_columns()?;
        let kept: Vec<_> = schema
            .fields()
            .iter()
            .filter(|field| !partition_columns.contains(field.name()))
            .cloned()
            .collect();
        let file_schema = Arc::new(Schema::new(kept));
        let mut writer = self.files(FileOptions {
            schema: Arc::clone(&file_schema),
            partition_columns: Vec::new(),
            ..FileOptions::of(self.table().name(), &snapshot.spec()?, target_bytes)
        })?;
        for file in files {
            let attempt =
                || format!("could not read file {:?} of table \"{}\"", file.path, self.table().name());
            let location = file.path.split('/').fold(self.root.clone(), Path::join);
            // Files are bounded by the target size, so one of them fits in memory.
            let found = self.store.get(&location).await.map_err(|error| storage_error(attempt(), error))?;
            let bytes = found.bytes().await.map_err(|error| storage_error(attempt(), error))?;
            let rows = ParquetRecordBatchReaderBuilder::try_new(bytes)
                .and_then(|builder| builder.build())
                .map_err(|error| storage_error(attempt(), error))?;
            for batch in rows {
                let batch = batch.map_err(|error| storage_error(attempt(), error))?;
                // Files written before a column was added lack it.
                let columns = file_schema.fields().iter().map(|field| {
                    let found = batch.column_by_name(field.name()).cloned();
                    let null = || new_null_array(field.data_type(), batch.num_rows());
                    (field.name(), found.unwrap_or_else(null), true)
                });
                let batch = RecordBatch::try_from_iter_with_nullable(columns)
                    .map_err(|error| Error::new(Code::LOG_CORRUPT, attempt()).because(error))?;
                writer.write(&to_stored(&batch, &file_schema)?).await?;
            }
        }
        let partition_values = files.first().map(|file| file.partition_values.clone()).unwrap_or_default();
        let written = writer.finish().await?;
        require_rows(self.table().name(), files, written.rows)?;
        Ok(written
            .adds
            .into_iter()
            .map(|add| Add { data_change: false, partition_values: partition_values.clone(), ..add })
            .collect())
    }
}

/// Makes sure that a rewrite has as many rows as the files whose place it takes.
fn require_rows(table: &TableName, files: &[Add], written: u64) -> Result<()> {
    let expected: Option<u64> = files.iter().map(rows_of).sum();
    match expected {
        Some(expected) if expected != written => Err(Error::new(
            Code::INTERNAL,
            format!("a rewrite of table \"{table}\" has {written} rows of {expected}"),
        )),
        _ => Ok(()),
    }
}

/// The rows of a data file by its statistics.
#[must_use]
pub fn rows_of(add: &Add) -> Option<u64> {
    serde_json::from_str::<Value>(add.stats.as_deref()?).ok()?.get("numRecords")?.as_u64()
}

/// Sorts the small files of each partition into bins that are full with a target file; those with a single
/// file are left out. Files keep the order of their names, which is that of their writing.
fn bins(mut files: Vec<Add>, target_bytes: usize) -> Vec<Vec<Add>> {
    let target = i64::try_from(target_bytes).unwrap_or(i64::MAX);
    files.retain(|file| file.size < target / 2 && file.deletion_vector.is_none());
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut open: BTreeMap<PartitionValues, (i64, Vec<Add>)> = BTreeMap::new();
    let mut full = Vec::new();
    for file in files {
        let (bytes, bin) = open.entry(values_of(&file)).or_default();
        if *bytes + file.size > target {
            full.push(std::mem::take(bin));
            *bytes = 0;
        }
        *bytes += file.size;
        bin.push(file);
    }
    full.extend(open.into_values().map(|(_, bin)| bin));
    full.retain(|bin| bin.len() > 1);
    full
}

fn values_of(file: &Add) -> PartitionValues {
    let mut values: PartitionValues = file.partition_values.clone().into_iter().collect();
    values.sort();
    values
}

type PartitionValues = Vec<(String, Option<String>)>;

/// The files to join, by partition: small ones, where there are enough of them, up to one target file.
fn choose(files: Vec<Add>, minimum_files: usize, target_bytes: usize) -> BTreeMap<PartitionValues, Vec<Add>> {
    let mut partitions: BTreeMap<PartitionValues, Vec<Add>> = BTreeMap::new();
    let small = i64::try_from(target_bytes / 2).unwrap_or(i64::MAX);
    for file in files.into_iter().filter(|file| file.size < small && file.deletion_vector.is_none()) {
        let held = partitions.entry(values_of(&file)).or_default();
        let bytes: i64 = held.iter().map(|file| file.size).sum();
        if bytes + file.size <= i64::try_from(target_bytes).unwrap_or(i64::MAX) {
            held.push(file);
        }
    }
    partitions.retain(|_, files| files.len() >= minimum_files.max(2));
    partitions
}
