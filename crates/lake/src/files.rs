//! Writes the data files of a table: Parquet, split by partition, with statistics.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{SortColumn, lexsort_to_indices, partition, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use catchment_core::{Clock, Code, Error, Result, TableName};
use deltalake::kernel::Add;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::failure::storage_error;
use crate::schema::to_stored;
use crate::stats::{Indexed, file_stats};
use crate::store::DurableStore;
use crate::writer::TableSpec;

/// Encoded bytes that may wait in memory over all open files of one writer.
const BUFFER_BYTES: usize = 128 << 20;

/// Rows of a row group.
const ROW_GROUP_ROWS: usize = 1 << 20;

/// How the files of a table are written.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// The table they belong to.
    pub table: TableName,
    /// The table's columns in order, partition columns included.
    pub schema: SchemaRef,
    /// The columns whose values split the files.
    pub partition_columns: Vec<String>,
    /// The columns that get statistics.
    pub indexed: Indexed,
    /// The encoded size at which a file is closed and the next begins, in bytes.
    pub target_bytes: usize,
}

impl FileOptions {
    /// Files as a table is declared to have them.
    #[must_use]
    pub fn of(table: &TableName, spec: &TableSpec, target_bytes: usize) -> Self {
        Self {
            table: table.clone(),
            schema: Arc::clone(&spec.schema),
            partition_columns: spec.partition_columns.clone(),
            indexed: Indexed::of(&spec.properties),
            target_bytes,
        }
    }
}

/// Writes rows of one table into new data files. Nothing names the files until a commit does.
pub struct FileWriter {
    store: Arc<DurableStore>,
    clock: Arc<dyn Clock>,
    root: Path,
    options: FileOptions,
    file_schema: SchemaRef,
    open: HashMap<PartitionKey, OpenFile>,
    done: Vec<Add>,
    rows: u64,
}

type PartitionKey = Vec<Option<String>>;

struct OpenFile {
    path: String,
    writer: AsyncArrowWriter<BufWriter>,
}

impl FileWriter {
    pub(crate) fn new(
        store: Arc<DurableStore>,
        clock: Arc<dyn Clock>,
        root: Path,
        options: FileOptions,
    ) -> Result<Self> {
        for name in &options.partition_columns {
            let field = options.schema.field_with_name(name).map_err(|error| {
                Error::new(
                    Code::COLUMN_UNKNOWN,
                    format!("table \"{}\" has no column {name:?} to partition by", options.table),
                )
                .because(error)
            })?;
            if !is_partitionable(field.data_type()) {
                return Err(Error::new(
                    Code::SQL_TYPE,
                    format!(
                        "table \"{}\" cannot be partitioned by {name:?} of type {}",
                        options.table,
                        field.data_type()
                    ),
                )
                .hint("partition by a string, an integer, a date or a boolean"));
            }
        }
        let kept: Vec<_> = options
            .schema
            .fields()
            .iter()
            .filter(|field| !options.partition_columns.contains(field.name()))
            .cloned()
            .collect();
        if kept.is_empty() {
            return Err(Error::new(
                Code::SQL_TYPE,
                format!("table \"{}\" has no column besides those it is partitioned by", options.table),
            ));
        }
        let file_schema = Arc::new(Schema::new(kept));
        Ok(Self { store, clock, root, options, file_schema, open: HashMap::new(), done: Vec::new(), rows: 0 })
    }

    /// Writes rows; their columns must be those of the table, in order.
    ///
    /// # Errors
    /// Returns [`Code::SQL_TYPE`] for a value that does not fit, and the machine's errors.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = to_stored(batch, &self.options.schema)?;
        self.rows += batch.num_rows() as u64;
        for (key, part) in split(&batch, &self.options.partition_columns)? {
            self.write_part(key, part).await?;
        }
        self.flush_largest().await
    }

    async fn write_part(&mut self, key: PartitionKey, part: RecordBatch) -> Result<()> {
        let attempt = || format!("could not write a data file of table \"{}\"", self.options.table);
        let columns = self
            .file_schema
            .fields()
            .iter()
            .filter_map(|field| part.column_by_name(field.name()).cloned())
            .collect();
        let part = RecordBatch::try_new(Arc::clone(&self.file_schema), columns)
            .map_err(|error| Error::new(Code::INTERNAL, attempt()).because(error))?;
        if !self.open.contains_key(&key) {
            let file = self.open_file(&key)?;
            self.open.insert(key.clone(), file);
        }
        let Some(file) = self.open.get_mut(&key) else { return Ok(()) };
        file.writer.write(&part).await.map_err(|error| storage_error(attempt(), error))?;
        if file.writer.bytes_written() + file.writer.in_progress_size() >= self.options.target_bytes
            && let Some(file) = self.open.remove(&key)
        {
            self.close(&key, file).await?;
        }
        Ok(())
    }

    /// Keeps the memory of many open partitions bounded: the largest row group is written out.
    async fn flush_largest(&mut self) -> Result<()> {
        let held: usize = self.open.values().map(|file| file.writer.memory_size()).sum();
        if held < BUFFER_BYTES {
            return Ok(());
        }
        let Some(file) = self.open.values_mut().max_by_key(|file| file.writer.memory_size()) else {
            return Ok(());
        };
        file.writer.flush().await.map_err(|error| {
            storage_error(format!("could not write a data file of table \"{}\"", self.options.table), error)
        })
    }

    fn open_file(&self, key: &PartitionKey) -> Result<OpenFile> {
        let mut path = String::new();
        for (column, value) in self.options.partition_columns.iter().zip(key) {
            path.push_str(&format!(
                "{}={}/",
                folder_text(column),
                value.as_deref().map_or("__null__".into(), folder_text)
            ));
        }
        path.push_str(&format!("part-{}.snappy.parquet", uuid::Uuid::now_v7()));
        let location = path.split('/').fold(self.root.clone(), |root, part| root.join(part));
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_created_by(concat!("catchment/", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let sink = BufWriter::new(Arc::clone(&self.store) as Arc<dyn object_store::ObjectStore>, location);
        let writer = AsyncArrowWriter::try_new(sink, Arc::clone(&self.file_schema), Some(properties))
            .map_err(|error| {
                storage_error(
                    format!("could not begin a data file of table \"{}\"", self.options.table),
                    error,
                )
            })?;
        Ok(OpenFile { path, writer })
    }

    async fn close(&mut self, key: &PartitionKey, mut file: OpenFile) -> Result<()> {
        let attempt = || format!("could not finish a data file of table \"{}\"", self.options.table);
        let metadata = file.writer.finish().await.map_err(|error| storage_error(attempt(), error))?;
        let size = i64::try_from(file.writer.bytes_written()).unwrap_or(i64::MAX);
        let names = self.options.partition_columns.iter().cloned();
        self.done.push(Add {
            path: file.path,
            partition_values: names.zip(key.iter().cloned()).collect(),
            size,
            modification_time: self.clock.now_millis(),
            data_change: true,
            stats: Some(file_stats(&self.file_schema, &metadata, &self.options.indexed)),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        });
        Ok(())
    }

    /// Closes all files; they are durable when this returns.
    ///
    /// # Errors
    /// Returns the machine's errors.
    pub async fn finish(mut self) -> Result<WrittenFiles> {
        let mut open: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        // The order of the files in a commit does not depend on that of a hash map.
        open.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (key, file) in open {
            self.close(&key, file).await?;
        }
        Ok(WrittenFiles { rows: self.rows, adds: self.done })
    }
}

/// Data files that no commit names yet.
#[derive(Debug, Default)]
pub struct WrittenFiles {
    /// Rows in them.
    pub rows: u64,
    /// The actions that would make them part of the table.
    pub adds: Vec<Add>,
}

fn is_partitionable(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Utf8 | DataType::Date32 | DataType::Boolean)
}

/// A value as part of a folder's name. The log holds the value; the folder is for people.
fn folder_text(text: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let short: String = text.chars().take(60).map(|c| if kept(c) { c } else { '_' }).collect();
    if short.is_empty() || short.chars().all(|c| c == '.') { "_".to_owned() } else { short }
}

/// Splits rows by the values of the partition columns, in the order of the values.
fn split(batch: &RecordBatch, columns: &[String]) -> Result<Vec<(PartitionKey, RecordBatch)>> {
    if columns.is_empty() {
        return Ok(vec![(Vec::new(), batch.clone())]);
    }
    let failed = |error: arrow::error::ArrowError| {
        Error::new(Code::INTERNAL, "could not split rows by partition").because(error)
    };
    let keys: Vec<SortColumn> = columns
        .iter()
        .filter_map(|name| batch.column_by_name(name))
        .map(|values| SortColumn { values: Arc::clone(values), options: None })
        .collect();
    let order: UInt32Array = lexsort_to_indices(&keys, None).map_err(failed)?;
    let sorted = take_record_batch(batch, &order).map_err(failed)?;
    let values: Vec<_> = columns.iter().filter_map(|name| sorted.column_by_name(name).cloned()).collect();
    let options = FormatOptions::new().with_display_error(false);
    let texts = values
        .iter()
        .map(|array| ArrayFormatter::try_new(array, &options))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    let ranges = partition(&values).map_err(failed)?.ranges();
    Ok(ranges
        .into_iter()
        .map(|range| {
            let key = values
                .iter()
                .zip(&texts)
                .map(|(array, text)| array.is_valid(range.start).then(|| text.value(range.start).to_string()))
                // Delta reads an empty text as null, so it is written as one.
                .map(|value| value.filter(|text| !text.is_empty()))
                .collect();
            (key, sorted.slice(range.start, range.len()))
        })
        .collect())
}
