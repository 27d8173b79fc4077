//! What advice about a table rests on.

use std::collections::{BTreeMap, BTreeSet};

use catchment_catalog::QueryRecord;
use catchment_core::{Result, TableName};
use catchment_lake::Indexed;
use catchment_sql::{SqlText, query_error};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, UInt64Type};
use futures::TryStreamExt;

use crate::access::Access;
use crate::run::Workspace;

/// A table as the rules look at it.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) table: String,
    /// Sizes of the data files of each partition, in bytes, by the values of the partition columns.
    pub(super) partitions: BTreeMap<Vec<(String, Option<String>)>, Vec<u64>>,
    /// The columns that split the files.
    pub(super) partition_columns: Vec<String>,
    /// The columns that rows are sorted by.
    pub(super) cluster_columns: Vec<String>,
    /// Columns that filters use and that files tell nothing of.
    pub(super) without_statistics: BTreeSet<String>,
    /// Queries that read the table.
    pub(super) queries: u64,
    /// The columns that these filter by.
    pub(super) filters: BTreeMap<String, Filtered>,
}

/// A column that filters use.
#[derive(Debug, Clone, Default)]
pub(super) struct Filtered {
    /// Queries that filter by it.
    pub(super) queries: u64,
    /// Whether it is a date or a time.
    pub(super) is_time: bool,
    /// Values that it has, about; days for a time.
    pub(super) values: u64,
}

impl Workspace {
    /// Gathers what the rules need; only columns that filters use are counted.
    pub(super) async fn facts(&self, name: &TableName, queries: &[QueryRecord]) -> Result<Facts> {
        let snapshot = self.lake.table(name).existing().await?;
        let spec = snapshot.spec()?;
        let mut facts = Facts {
            table: name.to_string(),
            partition_columns: spec.partition_columns.clone(),
            cluster_columns: spec.cluster_columns(),
            ..Facts::default()
        };
        for file in snapshot.files()? {
            let values: Vec<_> = spec
                .partition_columns
                .iter()
                .map(|column| (column.clone(), file.partition_values.get(column).cloned().flatten()))
                .collect();
            facts.partitions.entry(values).or_default().push(u64::try_from(file.size).unwrap_or(0));
        }
        for scan in queries.iter().flat_map(|query| &query.scans).filter(|scan| scan.table == *name) {
            facts.queries += 1;
            for column in &scan.filters {
                facts.filters.entry(column.clone()).or_default().queries += 1;
            }
        }
        let kinds = |column: &str| spec.schema.field_with_name(column).map(|field| field.data_type().clone());
        facts.filters.retain(|column, _| kinds(column).is_ok_and(|kind| !kind.is_nested()));
        let indexed = Indexed::of(&spec.properties);
        let columns =
            spec.schema.fields().iter().filter(|field| !spec.partition_columns.contains(field.name()));
        for (index, field) in columns.enumerate() {
            if facts.filters.contains_key(field.name()) && !indexed.has(index, field.name()) {
                facts.without_statistics.insert(field.name().clone());
            }
        }
        self.count_values(name, &mut facts, &kinds).await?;
        Ok(facts)
    }

    /// Counts the values of columns that filters use and that do not split the files yet.
    async fn count_values(
        &self,
        name: &TableName,
        facts: &mut Facts,
        kind_of: &dyn Fn(&str) -> std::result::Result<DataType, datafusion::arrow::error::ArrowError>,
    ) -> Result<()> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let mut counted = Vec::new();
        let mut counts = Vec::new();
        for (column, filtered) in &mut facts.filters {
            filtered.is_time = kind_of(column).is_ok_and(|kind| kind.is_temporal());
            if !facts.partition_columns.contains(column) {
                let value = match filtered.is_time {
                    true => format!("CAST({} AS DATE)", quoted(column)),
                    false => format!("CAST({} AS VARCHAR)", quoted(column)),
                };
                counts.push(format!("approx_distinct({value})"));
                counted.push(column.clone());
            }
        }
        if counts.is_empty() {
            return Ok(());
        }
        let sql =
            format!("SELECT {} FROM {}.{}", counts.join(", "), quoted(&name.schema), quoted(&name.table));
        let rows = Access::new(self).query(&SqlText::new("advise", sql)).await?;
        let rows: Vec<_> = rows.try_collect().await.map_err(query_error)?;
        if let Some(row) = rows.first() {
            for (column, values) in counted.iter().zip(row.columns()) {
                let count = values.as_primitive_opt::<UInt64Type>().map_or(0, |values| values.value(0));
                facts.filters.entry(column.clone()).or_default().values = count;
            }
        }
        Ok(())
    }
}
