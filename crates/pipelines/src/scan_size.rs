//! How much a query has to read of each table: partitions, files, row groups and bytes that are left after pruning.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use catchment_core::{Result, TableName, format_bytes, format_count};
use catchment_lake::{Lake, Snapshot};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::physical_plan::parquet::{
    PagePruningAccessPlanFilter, ParquetAccessPlan, ParquetFileMetrics, RowGroupAccess,
    RowGroupAccessPlanFilter,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use object_store::path::Path;

/// The most files whose inside is looked at; of more than these only whole files are counted.
const OPENED: usize = 1_000;

/// What a query reads of one table, and what there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanSize {
    /// Files that are read, and all.
    pub files: (u64, u64),
    /// Partitions that are read, and all; none in a table without partitions.
    pub partitions: Option<(u64, u64)>,
    /// Row groups that are read, and those of the files read; unknown when these are too many to be opened.
    pub row_groups: Option<(u64, u64)>,
    /// Bytes of the columns and pages that are read, and of all files.
    pub bytes: (u64, u64),
    /// Rows in all files, where statistics tell.
    pub rows: Option<u64>,
}

impl fmt::Display for ScanSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |(read, all): (u64, u64)| format!("{} of {}", format_count(read), format_count(all));
        write!(f, "{} files", of(self.files))?;
        if let Some(partitions) = self.partitions {
            write!(f, ", {} partitions", of(partitions))?;
        }
        if let Some(row_groups) = self.row_groups {
            write!(f, ", {} row groups", of(row_groups))?;
        }
        write!(f, ", {} of {} to read", format_bytes(self.bytes.0), format_bytes(self.bytes.1))
    }
}

/// One file of a scan.
struct Scanned {
    location: Path,
    size: u64,
    columns: BTreeSet<String>,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
}

/// For each table of the lake that a plan reads, how much of it; `versions` has these tables, with the version that
/// is asked for. With `opened` files are looked into.
///
/// # Errors
/// Returns errors of reading the tables' logs and the files' footers.
pub async fn scan_sizes(
    lake: &Lake,
    plan: &dyn ExecutionPlan,
    versions: &BTreeMap<TableName, Option<u64>>,
    opened: bool,
) -> Result<BTreeMap<TableName, ScanSize>> {
    let mut scanned = Vec::new();
    collect(plan, &mut scanned);
    let root = lake.layout().root().to_string();
    let mut tables: BTreeMap<TableName, Vec<Scanned>> = BTreeMap::new();
    for file in scanned {
        let path = file.location.to_string();
        let Some(rest) = path.strip_prefix(&root).map(|rest| rest.trim_start_matches('/')) else { continue };
        let mut parts = rest.splitn(3, '/');
        if let (Some(schema), Some(table)) = (parts.next(), parts.next()) {
            tables.entry(TableName::new(schema, table)).or_default().push(file);
        }
    }
    let mut sizes = BTreeMap::new();
    for (name, version) in versions {
        // Of a table of which nothing is left no file is in the plan.
        let files = tables.remove(name).unwrap_or_default();
        let table = lake.table(name);
        let snapshot = match version {
            Some(version) => Some(table.at(*version).await?),
            None => table.latest().await?,
        };
        if let Some(snapshot) = snapshot {
            sizes.insert(name.clone(), size_of(lake, &snapshot, &files, opened).await?);
        }
    }
    Ok(sizes)
}

async fn size_of(lake: &Lake, snapshot: &Snapshot, files: &[Scanned], opened: bool) -> Result<ScanSize> {
    let all = snapshot.files()?;
    let folder = lake.layout().table(snapshot.name()).to_string();
    let read: BTreeSet<String> = files.iter().map(|file| file.location.to_string()).collect();
    let (mut partitions, mut partitions_read) = (BTreeSet::new(), BTreeSet::new());
    for add in &all {
        let mut values: Vec<_> = add.partition_values.iter().collect();
        values.sort();
        if read.contains(&format!("{folder}/{}", add.path)) {
            partitions_read.insert(values.clone());
        }
        partitions.insert(values);
    }
    let mut size = ScanSize {
        files: (read.len() as u64, all.len() as u64),
        partitions: (!snapshot.partition_columns()?.is_empty())
            .then_some((partitions_read.len() as u64, partitions.len() as u64)),
        row_groups: None,
        bytes: (
            files.iter().map(|file| file.size).sum(),
            all.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum(),
        ),
        rows: all.iter().map(catchment_lake::rows_of).sum(),
    };
    if opened && files.len() <= OPENED {
        let (mut groups, mut bytes) = ((0, 0), 0);
        for file in files {
            let metadata = lake.parquet_metadata(&file.location, file.size).await?;
            let access = file.access(&metadata);
            groups.0 += access.row_group_indexes().len() as u64;
            groups.1 += metadata.num_row_groups() as u64;
            bytes += file.bytes(&metadata, &access);
        }
        size.row_groups = Some(groups);
        size.bytes.0 = bytes;
    }
    Ok(size)
}

impl Scanned {
    /// The row groups, and the rows of these, that the scan cannot leave out.
    fn access(&self, metadata: &ParquetMetaData) -> ParquetAccessPlan {
        let all = ParquetAccessPlan::new_all(metadata.num_row_groups());
        let Some(predicate) = &self.predicate else { return all };
        let descriptor = metadata.file_metadata().schema_descr();
        let metrics = ParquetFileMetrics::new(0, "", &ExecutionPlanMetricsSet::new());
        let mut groups = RowGroupAccessPlanFilter::new(all);
        let pruning = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(&self.schema))
            .build(Arc::clone(predicate));
        if let Some(pruning) = pruning {
            groups.prune_by_statistics(&self.schema, descriptor, metadata.row_groups(), &pruning, &metrics);
        }
        PagePruningAccessPlanFilter::new(predicate, Arc::clone(&self.schema)).prune_plan_with_page_index(
            groups.build(),
            &self.schema,
            descriptor,
            metadata,
            &metrics,
        )
    }

    /// The bytes of the pages that are read.
    fn bytes(&self, metadata: &ParquetMetaData, access: &ParquetAccessPlan) -> u64 {
        let mut bytes = 0;
        for (index, group) in metadata.row_groups().iter().enumerate() {
            if !access.should_scan(index) {
                continue;
            }
            for (column, chunk) in group.columns().iter().enumerate() {
                let name = chunk.column_path().parts().first();
                if !name.is_some_and(|name| self.columns.contains(name)) {
                    continue;
                }
                let pages = metadata.offset_index().and_then(|offsets| offsets.get(index)?.get(column));
                let chunk_bytes = u64::try_from(chunk.compressed_size()).unwrap_or(0);
                bytes += match (access.inner().get(index), pages) {
                    (Some(RowGroupAccess::Selection(rows)), Some(pages)) => {
                        let data: u64 = rows
                            .scan_ranges(pages.page_locations())
                            .iter()
                            .map(|range| range.end - range.start)
                            .sum();
                        let all: i64 = pages
                            .page_locations()
                            .iter()
                            .map(|page| i64::from(page.compressed_page_size))
                            .sum();
                        // What is no page of data is the dictionary, which is read with any page.
                        data + chunk_bytes.saturating_sub(u64::try_from(all).unwrap_or(0))
                    }
                    _ => chunk_bytes,
                };
            }
        }
        bytes
    }
}

fn collect(plan: &dyn ExecutionPlan, scanned: &mut Vec<Scanned>) {
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>()
        && let Some(config) = scan.data_source().downcast_ref::<FileScanConfig>()
    {
        let predicate = config.file_source().filter();
        let columns: BTreeSet<String> = match config.projected_schema() {
            Ok(schema) => schema.fields().iter().map(|field| field.name().clone()).collect(),
            Err(_) => BTreeSet::new(),
        };
        // A large file is read in several parts at the same time.
        let mut seen = BTreeSet::new();
        let files = config.file_groups.iter().flat_map(|group| group.iter());
        for file in files.filter(|file| seen.insert(file.object_meta.location.to_string())) {
            scanned.push(Scanned {
                location: file.object_meta.location.clone(),
                size: file.object_meta.size,
                columns: columns.clone(),
                predicate: predicate.clone(),
                schema: Arc::clone(config.file_schema()),
            });
        }
    }
    for child in plan.children() {
        collect(child.as_ref(), scanned);
    }
}
