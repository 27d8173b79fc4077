//! What the lake cannot rebuild: kept aside, brought back, and the rest rebuilt.

use std::path::Path;

use catchment_catalog::SqliteStore;
use catchment_core::{Code, Error, Result};
use catchment_flows::{finish_rollback, reenter};
use catchment_lake::storage_error;

use crate::place::Machine;
use crate::project::Project;
use crate::run::{CATALOG_FILE, Workspace};

impl Workspace {
    /// Writes the catalog database to a new file, as of one moment, while others may use it.
    ///
    /// # Errors
    /// Returns [`Code::CATALOG`], also when the file is there already.
    pub fn backup(&self, to: &Path) -> Result<()> {
        self.store.backup(to)
    }

    /// Enters what the commits of the lake tell of batches and lineage into the catalog, where it is missing.
    /// Returns how many batches the lake tells of.
    ///
    /// # Errors
    /// Returns errors of the lease, of reading the lake, and of the catalog.
    pub async fn recover(&self) -> Result<u64> {
        let (owner, _heartbeat) = self.own().await?;
        finish_rollback(&owner, self.store.as_ref()).await?;
        let datasets = self.check().await.datasets;
        let mut entered = 0;
        for table in self.lake.list().await? {
            if !table.is_quarantine() && !self.is_foreign(&table, &datasets).await {
                entered += reenter(&self.lake, self.store.as_ref(), &table).await?;
            }
        }
        Ok(entered)
    }
}

/// Brings a catalog database back into a project that has none, or lost it.
///
/// # Errors
/// Returns [`Code::CATALOG`] when the project has one, unless `replace`, or when the file is none.
pub fn restore_catalog(
    folder: &Path,
    settings: &[String],
    from: &Path,
    replace: bool,
    machine: &Machine,
) -> Result<Workspace> {
    let project = Project::load(folder, settings, machine)?;
    let data = project.config.data();
    let to = data.join(CATALOG_FILE);
    if to.exists() && !replace {
        return Err(Error::new(Code::CATALOG, format!("there is a catalog database {to:?} already"))
            .hint("add --replace to put the backup in its place; what it knows more is lost"));
    }
    // A file that is no catalog is found out before anything is replaced.
    SqliteStore::require_catalog(from)?;
    let failed = |error| storage_error(format!("could not bring {from:?} back"), error);
    std::fs::create_dir_all(&data).map_err(failed)?;
    for suffix in ["-wal", "-shm"] {
        let beside = data.join(format!("{CATALOG_FILE}{suffix}"));
        if beside.exists() {
            std::fs::remove_file(beside).map_err(failed)?;
        }
    }
    let partial = data.join(format!("{CATALOG_FILE}.partial"));
    std::fs::copy(from, &partial).map_err(failed)?;
    std::fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&partial, &to).map_err(failed)?;
    std::fs::File::open(&data).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Workspace::open(folder, settings, machine)
}
