//! `VACUUM`: files that nobody needs any more are removed.

use std::time::Duration;

use catchment_core::{Code, Error, FlowName, Result, TableName};
use catchment_flows::{InputKind, finish_rollback, pins};

use crate::check::Dataset;
use crate::run::Workspace;

/// How long files are kept after they were part of a table's newest version, unless it is said.
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 3_600);

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
    /// Whether a table is none of the project's and cannot be read: it is somebody else's to mend.
    pub(crate) async fn is_foreign(&self, name: &TableName, datasets: &[Dataset]) -> bool {
        if datasets.iter().any(|dataset| dataset.name == *name || dataset.name.quarantine() == *name) {
            return false;
        }
        match self.lake.table(name).latest().await {
            Err(error) => {
                tracing::warn!(table = %name, error = %error.one_line(), "a table that is not the project's is passed over");
                true
            }
            Ok(_) => false,
        }
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
            None => self.lake.list().await?,
        };
        let (owner, _heartbeat) = self.own().await?;
        finish_rollback(&owner, self.store.as_ref()).await?;
        let releases = self.lake.releases().await?;
        let mut reports = Vec::new();
        for name in names {
            if table.is_none() && self.is_foreign(&name, &checked.datasets).await {
                continue;
            }
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
