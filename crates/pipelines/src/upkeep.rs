//! Upkeep of tables on demand: `OPTIMIZE` and `VACUUM`.

use std::time::Duration;

use catchment_core::{Code, Error, FlowName, Result, TableName};
use catchment_flows::{InputKind, finish_rollback, pins};
use catchment_lake::{Add, Compacted, FileOptions, Owner, Snapshot};
use catchment_sql::{SqlText, query_error};
use futures::TryStreamExt;

use crate::access::Access;
use crate::run::Workspace;

/// How long files are kept after they were part of a table's newest version, unless it is said.
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The property of a table that names the columns its rows are sorted by.
pub(crate) const CLUSTER_BY: &str = "catchment.clusterBy";

/// What upkeep did to one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpkeepReport {
    /// The table.
    pub table: TableName,
    /// Files taken out, or removed.
    pub removed: u64,
    /// Files put in.
    pub added: u64,
    /// The size of what was removed, in bytes.
    pub bytes: u64,
}

impl Workspace {
    /// Joins the small files of a table. A table with `CLUSTER BY` is sorted by its columns within each partition,
    /// unless it is already, so that queries that filter by them read few files and parts of files.
    ///
    /// # Errors
    /// Returns [`Code::TABLE_UNKNOWN`], and errors of the lease, of reading and of writing.
    pub async fn optimize(&self, table: &TableName) -> Result<UpkeepReport> {
        self.lake.table(table).existing().await?;
        let (owner, _heartbeat) = self.own()?;
        finish_rollback(&owner, self.store.as_ref()).await?;
        let target_bytes = self.project.config.config.maintenance.target_bytes()?;
        let snapshot = self.lake.table(table).existing().await?;
        let done = match snapshot.properties()?.get(CLUSTER_BY) {
            Some(columns) => self.cluster(&owner, &snapshot, columns, target_bytes).await?,
            None => owner.writer(table).optimize(target_bytes).await?,
        };
        Ok(UpkeepReport {
            table: table.clone(),
            removed: done.removed as u64,
            added: done.added as u64,
            bytes: done.bytes,
        })
    }

    /// Writes all files of a table again, sorted, unless all are sorted already.
    async fn cluster(
        &self,
        owner: &Owner,
        snapshot: &Snapshot,
        columns: &str,
        target_bytes: usize,
    ) -> Result<Compacted> {
        let sorted = |file: &Add| {
            let tag = file.tags.as_ref().and_then(|tags| tags.get(CLUSTER_BY).cloned().flatten());
            tag.as_deref() == Some(columns)
        };
        if snapshot.files()?.iter().all(sorted) {
            return Ok(Compacted::default());
        }
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let (schema, partition_columns) = (snapshot.schema()?, snapshot.partition_columns()?);
        let all: Vec<String> = schema.fields().iter().map(|field| quoted(field.name())).collect();
        let keys = partition_columns.iter().map(String::as_str).chain(columns.split(','));
        let keys: Vec<String> = keys.map(quoted).collect();
        let name = snapshot.name();
        let sql = format!(
            "SELECT {} FROM {}.{} VERSION AS OF {} ORDER BY {}",
            all.join(", "),
            quoted(&name.schema),
            quoted(&name.table),
            snapshot.version(),
            keys.join(", ")
        );
        let writer = owner.writer(name);
        let mut files =
            writer.files(FileOptions { table: name.clone(), schema, partition_columns, target_bytes })?;
        let mut rows = Access::new(self).query(&SqlText::new("OPTIMIZE", sql)).await?;
        while let Some(batch) = rows.try_next().await.map_err(query_error)? {
            files.write(&batch).await?;
        }
        let mut written = files.finish().await?;
        for add in &mut written.adds {
            add.tags = Some([(CLUSTER_BY.to_owned(), Some(columns.to_owned()))].into());
        }
        writer.replace_all(snapshot, written).await
    }

    /// Removes files that no version of the last `retention` has, no release, and no flow still needs. Without
    /// a name all tables of the lake are looked through.
    ///
    /// # Errors
    /// As [`Workspace::optimize`].
    pub async fn vacuum(
        &self,
        table: Option<&TableName>,
        retention: Duration,
        dry_run: bool,
    ) -> Result<Vec<UpkeepReport>> {
        let checked = self.check().await;
        // Which flows read a table must be known.
        Error::join(checked.errors)?;
        let flows: Vec<(FlowName, TableName)> = checked
            .datasets
            .iter()
            .flat_map(|dataset| dataset.flows.iter().map(|flow| (flow.name.clone(), dataset.name.clone())))
            .collect();
        let names = match table {
            Some(table) => vec![table.clone()],
            None => self.lake.list()?,
        };
        let (owner, _heartbeat) = self.own()?;
        finish_rollback(&owner, self.store.as_ref()).await?;
        let releases = self.lake.releases().await?;
        let mut reports = Vec::new();
        for name in names {
            if self.lake.table(&name).latest().await?.is_none() {
                return Err(Error::new(Code::TABLE_UNKNOWN, format!("no table \"{name}\" in the lake")));
            }
            let mut pins = pins(&self.lake, &name, &flows).await?;
            // A query may name a version for good.
            let inputs =
                checked.datasets.iter().flat_map(|dataset| &dataset.flows).flat_map(|flow| &flow.inputs);
            pins.versions.extend(inputs.filter_map(|input| match &input.kind {
                InputKind::Table(table, version) if *table == name => *version,
                _ => None,
            }));
            pins.versions.extend(releases.iter().filter_map(|release| release.version(&name)));
            let done = owner.writer(&name).vacuum(retention, &pins, dry_run).await?;
            reports.push(UpkeepReport { table: name, removed: done.files, added: 0, bytes: done.bytes });
        }
        Ok(reports)
    }
}
