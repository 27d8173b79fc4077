//! A table as a stream: the rows that its versions add, each once.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use catchment_core::{Code, Error, Result, TableName};
use catchment_lake::{Add, Entry, Lake, Line, LocalFile, Snapshot, Table};
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;

use crate::address::{ADDRESS_COLUMN, Address, address_field, consecutive};
use crate::files::{Body, Cut, Failure, FileFormat, Unit, UnitQueue, parquet};
use crate::records::{SourceRecord, by_piece, look_up};
use crate::rejects::Rejects;
use crate::replay::RecordFormat;
use crate::source::{AddedFile, Limits, Meeting, Range, Replaced, Source, Standing, TableStanding};

/// A table of the lake, read as a stream.
///
/// The first range is the table as it stands; later ones are the files that later versions add.
/// Compaction adds nothing, since it changes no row. A version that removes rows is an error: a
/// stream has handed them out already.
#[derive(Debug)]
pub struct TableSource {
    table: Arc<Table>,
    schema: SchemaRef,
}

impl TableSource {
    /// Makes a source of a table with the columns given; the table need not be there before it is planned.
    #[must_use]
    pub fn new(lake: &Lake, name: &TableName, schema: SchemaRef) -> Self {
        Self { table: lake.table(name), schema }
    }

    /// Reads some columns of data files, a record batch at a time, without counting the rows as read.
    ///
    /// # Errors
    /// Returns [`Code::HISTORY_GONE`] when a file is gone, and what `each` returns.
    pub fn scan(
        &self,
        files: &[Add],
        columns: &SchemaRef,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        for file in files.iter().map(AddedFile::of) {
            let failed = |failure| unreadable(self.table.name(), &file, failure);
            let units = units_of(&self.table, std::slice::from_ref(&file));
            while let Some(unit) = units.next().map_err(|(_, failure)| failed(failure))? {
                let Body::RowGroup { metadata, group, .. } = unit.body else { break };
                for rows in
                    parquet::row_group(unit.at.path(), metadata, group, 8_192, columns).map_err(failed)?
                {
                    let rows = rows.map_err(|error| failed(Failure::Broken(error.to_string())))?;
                    each(self.fit(columns, &file, &rows)?)?;
                }
            }
        }
        Ok(())
    }

    fn fit(&self, schema: &SchemaRef, file: &AddedFile, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| table_column(self.table.name(), field, file, rows))
            .collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
            .map_err(|error| unreadable(self.table.name(), file, Failure::Broken(error.to_string())))
    }

    async fn next_of_snapshot(
        &self,
        version: u64,
        first: usize,
        snapshot: &Snapshot,
        limits: Limits,
    ) -> Result<Option<Range>> {
        let mut files = snapshot.files()?;
        // In the order in which they were written, so that rows come as they were added.
        files.sort_by(|a, b| (a.modification_time, &a.path).cmp(&(b.modification_time, &b.path)));
        let rest: Vec<AddedFile> = files.iter().skip(first).map(AddedFile::of).collect();
        let taken = limits.take(rest.iter().map(|file| file.size));
        if rest.is_empty() {
            // An empty table is read, too, once.
            let upto = TableStanding { version, last: 0, snapshot: true };
            return Ok((first == 0).then_some(Range::Table { upto, files: Vec::new() }));
        }
        let upto = TableStanding { version, last: first + taken - 1, snapshot: true };
        Ok(Some(Range::Table { upto, files: rest.into_iter().take(taken).collect() }))
    }

    async fn next_of_versions(
        &self,
        standing: TableStanding,
        replaced: &Replaced,
        line: &Line,
        limits: Limits,
    ) -> Result<Option<Range>> {
        if !line.holds(standing.version) {
            return Err(Error::new(
                Code::NOT_APPEND_ONLY,
                format!(
                    "version {} of table \"{}\" was rolled back after its rows were streamed",
                    standing.version,
                    self.table.name()
                ),
            )
            .hint("rebuild the dataset that reads it with `catchment run --full-refresh --select DATASET`"));
        }
        let mut found: Vec<(TableStanding, AddedFile)> = Vec::new();
        // A restore has no rows of its own, and a snapshot was read whole.
        let done = standing.snapshot || line.is_restore(standing.version);
        let mut next = if done { line.next(standing.version) } else { Some(standing.version) };
        while let Some(version) = next {
            next = line.next(version);
            let Some(entry) = self.table.entry(version).await? else {
                return Err(Error::new(
                    Code::HISTORY_GONE,
                    format!(
                        "version {version} of table \"{}\" was cleaned up before it was read",
                        self.table.name()
                    ),
                )
                .hint(
                    "rebuild the dataset that reads it with `catchment run --full-refresh --select DATASET`",
                ));
            };
            match replaced.of(&entry.batch) {
                Meeting::Passed => continue,
                Meeting::End => break,
                Meeting::Other => {}
            }
            self.require_append(&entry)?;
            let files = entry.adds.iter().filter(|add| add.data_change).enumerate();
            let skipped =
                if version == standing.version && !standing.snapshot { standing.last + 1 } else { 0 };
            found.extend(
                files.skip(skipped).map(|(last, add)| {
                    (TableStanding { version, last, snapshot: false }, AddedFile::of(add))
                }),
            );
            if found.len() > limits.files {
                break;
            }
        }
        let taken = limits.take(found.iter().map(|(_, file)| file.size));
        found.truncate(taken);
        let Some((upto, _)) = found.last() else {
            if *replaced == Replaced::Ends {
                return Ok(None);
            }
            // Entries that only rearrange rows are passed once and need not be read again.
            let upto = TableStanding { version: line.tip(), last: 0, snapshot: false };
            let passed = line.tip() > standing.version;
            return Ok(passed.then_some(Range::Table { upto, files: Vec::new() }));
        };
        Ok(Some(Range::Table { upto: *upto, files: found.iter().map(|(_, file)| file.clone()).collect() }))
    }

    fn require_append(&self, entry: &Entry) -> Result<()> {
        if entry.removes.iter().any(|remove| remove.data_change) {
            return Err(Error::new(
                Code::NOT_APPEND_ONLY,
                format!(
                    "version {} ({}) of table \"{}\" took rows away that were streamed already",
                    entry.version,
                    entry.operation,
                    self.table.name()
                ),
            )
            .hint(if entry.batch["replaces"].is_string() {
                "compute the dataset that reads it anew, too: `catchment backfill DATASET --all`"
            } else {
                "rebuild the dataset that reads it with `catchment run --full-refresh --select DATASET`"
            }));
        }
        Ok(())
    }
}

impl AddedFile {
    /// The data file of an `add` action.
    #[must_use]
    pub fn of(add: &Add) -> Self {
        let partition: BTreeMap<_, _> = add.partition_values.clone().into_iter().collect();
        Self { path: add.path.clone(), size: u64::try_from(add.size).unwrap_or(0), partition }
    }
}

#[async_trait]
impl Source for TableSource {
    fn name(&self) -> String {
        self.table.name().to_string()
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn plan(&self, standing: &Standing, limits: Limits) -> Result<Option<Range>> {
        let latest = self.table.existing().await?;
        let Some(at) = standing.table else {
            return self.next_of_snapshot(latest.version(), 0, &latest, limits).await;
        };
        if at.snapshot {
            let first = if at.version == latest.version() {
                latest.clone()
            } else {
                self.table.at(at.version).await?
            };
            if let Some(rest) = self.next_of_snapshot(at.version, at.last + 1, &first, limits).await? {
                return Ok(Some(rest));
            }
        }
        self.next_of_versions(at, &standing.replaced, &latest.line()?, limits).await
    }

    fn read(
        &self,
        range: &Range,
        rejects: Arc<Rejects>,
        first_piece: Option<u32>,
    ) -> Result<Arc<dyn TableProvider>> {
        let Range::Table { files, .. } = range else {
            return Err(Error::new(Code::INTERNAL, "a range of files was given to a table source"));
        };
        let mut fields: Vec<_> = self.schema.fields().iter().cloned().collect();
        if first_piece.is_some() {
            fields.push(address_field());
        }
        Ok(Arc::new(TableRows(Shared {
            table: Arc::clone(&self.table),
            schema: Arc::new(Schema::new(fields)),
            files: files.clone(),
            rejects,
            first_piece: first_piece.unwrap_or(0),
        })))
    }

    fn record_format(&self) -> RecordFormat {
        RecordFormat {
            name: self.name(),
            columns: Arc::clone(&self.schema),
            path_columns: Arc::new(Schema::empty()),
            cut: Cut { format: FileFormat::Json, ..parquet_cut() },
            rescue: None,
            stores: Arc::default(),
            held_to: None,
        }
    }

    fn records(&self, range: &Range, first_piece: u32, wanted: &[Address]) -> Result<Vec<SourceRecord>> {
        let Range::Table { files, .. } = range else {
            return Err(Error::new(Code::INTERNAL, "a range of files was given to a table source"));
        };
        let mut found = Vec::new();
        for addresses in by_piece(wanted) {
            let index = addresses[0].piece().checked_sub(first_piece.into());
            let Some(file) = index.and_then(|index| files.get(usize::try_from(index).ok()?)) else {
                continue;
            };
            let at =
                fetch(&self.table, file).map_err(|failure| unreadable(self.table.name(), file, failure))?;
            let fit = |rows: RecordBatch| self.fit(&self.schema, file, &rows);
            let records = look_up(at.path(), &parquet_cut(), addresses, &fit)
                .map_err(|failure| unreadable(self.table.name(), file, failure))?;
            found.extend(records.into_iter().map(|(address, record)| SourceRecord {
                address,
                file: file.path.clone(),
                byte_offset: None,
                row_number: Some(address.place()),
                record,
                header: None,
            }));
        }
        Ok(found)
    }
}

fn parquet_cut() -> Cut {
    Cut { format: FileFormat::Parquet, header: false, delimiter: b',', multi_line: false }
}

/// Brings a data file to this machine's disk.
fn fetch(table: &Table, file: &AddedFile) -> Result<LocalFile, Failure> {
    table.local_file(&file.path).map_err(Failure::Ours)
}

/// The row groups of data files.
fn units_of(table: &Arc<Table>, files: &[AddedFile]) -> UnitQueue {
    let (table, files) = (Arc::clone(table), files.to_vec());
    let count = files.len();
    UnitQueue::new(parquet_cut(), count, Box::new(move |file| fetch(&table, &files[file])))
}

fn unreadable(table: &TableName, file: &AddedFile, failure: Failure) -> Error {
    let error =
        Error::new(Code::HISTORY_GONE, format!("could not read file {:?} of table \"{table}\"", file.path));
    match failure {
        Failure::Vanished => error.because("the file is gone"),
        Failure::Broken(reason) => error.because(reason),
        Failure::Ours(ours) => ours,
    }
}

#[derive(Debug, Clone)]
struct Shared {
    table: Arc<Table>,
    schema: SchemaRef,
    files: Vec<AddedFile>,
    rejects: Arc<Rejects>,
    first_piece: u32,
}

/// Data files of a table as a table.
#[derive(Debug)]
struct TableRows(Shared);

/// Row groups of a table read at the same time.
const PARTITIONS: usize = 8;

#[async_trait]
impl TableProvider for TableRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let shared = &self.0;
        let schema = match projection {
            Some(projection) => Arc::new(shared.schema.project(projection)?),
            None => Arc::clone(&shared.schema),
        };
        let scan = Arc::new(Scan {
            number: shared.rejects.next_scan(),
            shared: Shared { schema: Arc::clone(&schema), ..shared.clone() },
            // Each scan has a queue of its own: a query may read a table more than once.
            units: units_of(&shared.table, &shared.files),
        });
        let partitions =
            session.config().target_partitions().clamp(1, shared.files.len().clamp(1, PARTITIONS));
        let parts = (0..partitions)
            .map(|_| Arc::new(TableScan { scan: Arc::clone(&scan) }) as Arc<dyn PartitionStream>)
            .collect();
        StreamingTable::try_new(schema, parts)?.scan(session, None, filters, limit).await
    }
}

/// One scan of a table, shared by its streams.
#[derive(Debug)]
struct Scan {
    shared: Shared,
    units: UnitQueue,
    number: usize,
}

#[derive(Debug)]
struct TableScan {
    scan: Arc<Scan>,
}

impl PartitionStream for TableScan {
    fn schema(&self) -> &SchemaRef {
        &self.scan.shared.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.scan.shared.schema), 2);
        let sender = builder.tx();
        let scan = Arc::clone(&self.scan);
        builder.spawn_blocking(move || {
            let failed = |error| DataFusionError::External(Box::new(error));
            while let Some(unit) = scan.next_unit().map_err(failed)? {
                let wanted = scan
                    .send_unit(unit, &mut |rows| sender.blocking_send(Ok(rows)).is_ok())
                    .map_err(failed)?;
                if !wanted {
                    break;
                }
            }
            Ok(())
        });
        builder.build()
    }
}

impl Scan {
    fn next_unit(&self) -> Result<Option<Unit>> {
        self.units.next().map_err(|(file, failure)| {
            unreadable(self.shared.table.name(), &self.shared.files[file], failure)
        })
    }

    /// Hands out the rows of a unit; returns whether more are wanted.
    fn send_unit(&self, unit: Unit, send: &mut dyn FnMut(RecordBatch) -> bool) -> Result<bool> {
        let file = &self.shared.files[unit.file];
        let failed = |error: String| unreadable(self.shared.table.name(), file, Failure::Broken(error));
        let Body::RowGroup { metadata, group, first_row } = unit.body else {
            return Err(failed("it is not a Parquet file".to_owned()));
        };
        let reader = parquet::row_group(unit.at.path(), metadata, group, 8_192, &self.shared.schema)
            .map_err(|failure| unreadable(self.shared.table.name(), file, failure))?;
        let piece = self.shared.first_piece + u32::try_from(unit.file).unwrap_or(u32::MAX);
        let mut row = first_row;
        for rows in reader {
            let rows = rows.map_err(|error| failed(error.to_string()))?;
            let addresses: ArrayRef = Arc::new(consecutive(piece, row, rows.num_rows()));
            row += rows.num_rows() as u64;
            let columns = self
                .shared
                .schema
                .fields()
                .iter()
                .map(|field| match field.name().as_str() {
                    ADDRESS_COLUMN => Ok(Arc::clone(&addresses)),
                    _ => table_column(self.shared.table.name(), field, file, &rows),
                })
                .collect::<Result<_>>()?;
            let rows = RecordBatch::try_new(Arc::clone(&self.shared.schema), columns)
                .map_err(|error| failed(error.to_string()))?;
            if self.shared.rejects.claim(&format!("{}/{}", self.shared.table.name(), file.path), self.number)
            {
                self.shared.rejects.count(rows.num_rows());
            }
            if !send(rows) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A column of a table's rows: from the file, or from the folder it lies in.
fn table_column(table: &TableName, field: &Field, file: &AddedFile, rows: &RecordBatch) -> Result<ArrayRef> {
    if let Some(column) = rows.column_by_name(field.name())
        && column.data_type() == field.data_type()
    {
        return Ok(Arc::clone(column));
    }
    let text: ArrayRef = match (file.partition.get(field.name()), rows.column_by_name(field.name())) {
        (Some(Some(value)), _) => Arc::new(StringArray::from(vec![value.as_str(); rows.num_rows()])),
        (_, Some(column)) => Arc::clone(column),
        // The file is older than the column, or the value of the partition is null.
        _ => return Ok(new_null_array(field.data_type(), rows.num_rows())),
    };
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&text, field.data_type(), &options).map_err(|error| {
        Error::new(
            Code::LOG_CORRUPT,
            format!("column \"{}\" of table \"{}\" cannot be read", field.name(), table),
        )
        .because(error)
    })
}
