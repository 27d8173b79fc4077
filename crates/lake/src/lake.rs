//! A lake: a folder of tables, and the right to write it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use catchment_core::{Clock, Faults, Result, TableName};
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use tokio::time::Instant;
use url::Url;

use crate::failure::storage_error;
use crate::layout::Layout;
use crate::lease::Lease;
use crate::log::OWNER_APPLICATION;
use crate::maintain::{Maintainer, MaintenanceOptions};
use crate::store::DurableStore;
use crate::table::Table;
use crate::writer::TableWriter;

/// A folder of Delta tables, open for reading.
#[derive(Debug)]
pub struct Lake {
    layout: Layout,
    store: Arc<DurableStore>,
    clock: Arc<dyn Clock>,
    faults: Arc<dyn Faults>,
    tables: Mutex<HashMap<TableName, Arc<Table>>>,
}

impl Lake {
    /// Opens the lake in `folder`, an absolute path that need not exist yet.
    ///
    /// # Errors
    /// Returns [`catchment_core::Code::CONFIG_INVALID`] when the path cannot name a lake.
    pub fn open(folder: &FilePath, clock: Arc<dyn Clock>, faults: Arc<dyn Faults>) -> Result<Arc<Self>> {
        let layout = Layout::new(folder)?;
        let store = Arc::new(DurableStore::new(folder.to_path_buf(), Arc::clone(&faults)));
        Ok(Arc::new(Self { layout, store, clock, faults, tables: Mutex::default() }))
    }

    /// Opens the lake below `root` in a bucket, whose URL is such as `s3://bucket`; `scratch` is a folder of this
    /// machine for copies of files.
    #[must_use]
    pub fn open_remote(
        bucket: Url,
        root: Path,
        store: Arc<dyn ObjectStore>,
        scratch: PathBuf,
        clock: Arc<dyn Clock>,
        faults: Arc<dyn Faults>,
    ) -> Arc<Self> {
        let layout = Layout::remote(bucket, root, scratch);
        let store = Arc::new(DurableStore::remote(store, Arc::clone(&faults)));
        Arc::new(Self { layout, store, clock, faults, tables: Mutex::default() })
    }

    /// Where things lie.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The store below everything.
    #[must_use]
    pub fn store(&self) -> &Arc<DurableStore> {
        &self.store
    }

    /// The lake's clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The lake's fault points.
    #[must_use]
    pub fn faults(&self) -> &Arc<dyn Faults> {
        &self.faults
    }

    /// A table by name, whether it is there or not.
    #[must_use]
    pub fn table(&self, name: &TableName) -> Arc<Table> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let table = tables
            .entry(name.clone())
            .or_insert_with(|| Arc::new(Table::new(name.clone(), Arc::clone(&self.store), &self.layout)));
        Arc::clone(table)
    }

    /// The names of all tables, in order.
    ///
    /// # Errors
    /// Returns the machine's errors; a lake that is not there has no tables.
    pub async fn list(&self) -> Result<Vec<TableName>> {
        let mut names = Vec::new();
        for schema in self.folders(self.layout.root()).await? {
            for table in self.folders(&self.layout.root().clone().join(schema.as_str())).await? {
                let name = TableName::new(schema.clone(), table);
                if name.is_storable() && self.table(&name).log().exists().await? {
                    names.push(name);
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// The names of the folders in one.
    async fn folders(&self, path: &Path) -> Result<Vec<String>> {
        let listed = self.store.list_with_delimiter(Some(path)).await;
        let listed = listed.map_err(|error| storage_error(format!("could not list \"/{path}\""), error))?;
        Ok(listed.common_prefixes.iter().filter_map(|folder| folder.filename().map(str::to_owned)).collect())
    }

    /// Takes the right to write the lake.
    ///
    /// # Errors
    /// Returns [`catchment_core::Code::LAKE_OWNED`] when another process has it.
    pub async fn own(self: &Arc<Self>) -> Result<Owner> {
        let mut lease = Lease::acquire(&self.layout, &self.store, &self.clock, self.faults.as_ref()).await?;
        if lease.generation() == 1 {
            // The first lease, or one after the record was removed: commits may tell of later owners.
            let mut newest = 0;
            for name in self.list().await? {
                if let Ok(Some(snapshot)) = self.table(&name).latest().await {
                    newest = newest.max(snapshot.transaction(OWNER_APPLICATION).await?.unwrap_or(0));
                }
            }
            lease.raise(u64::try_from(newest).unwrap_or(0)).await?;
        }
        Ok(Owner {
            lake: Arc::clone(self),
            lease: Arc::new(lease),
            writers: Mutex::default(),
            maintainers: Mutex::default(),
        })
    }

    /// Reads a record of ours, `None` when it is not there.
    ///
    /// # Errors
    /// Returns the machine's errors.
    pub async fn read_record(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let failed = |error| storage_error(format!("could not read \"/{path}\""), error);
        match self.store.get(path).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// What a data file says about its row groups and pages.
    ///
    /// # Errors
    /// Returns the machine's errors, and those of a file that is no Parquet.
    pub async fn parquet_metadata(&self, path: &Path, size: u64) -> Result<Arc<ParquetMetaData>> {
        let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        let read = reader.load_and_finish(Parts { store: &self.store, path }, size).await;
        read.map(Arc::new).map_err(|error| storage_error(format!("could not read \"/{path}\""), error))
    }

    /// The names of the records in a folder of ours, in order.
    ///
    /// # Errors
    /// Returns the machine's errors.
    pub async fn list_records(&self, folder: &Path) -> Result<Vec<String>> {
        let listed = self
            .store
            .list_with_delimiter(Some(folder))
            .await
            .map_err(|error| storage_error(format!("could not list \"/{folder}\""), error))?;
        let mut names: Vec<String> = listed
            .objects
            .iter()
            .filter_map(|object| object.location.filename().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// Parts of one file.
struct Parts<'a> {
    store: &'a Arc<DurableStore>,
    path: &'a Path,
}

impl MetadataFetch for Parts<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        Box::pin(async move {
            self.store.get_range(self.path, range).await.map_err(|error| ParquetError::External(error.into()))
        })
    }
}

/// The right to write a lake; dropping it gives it up.
#[derive(Debug)]
pub struct Owner {
    lake: Arc<Lake>,
    lease: Arc<Lease>,
    writers: Mutex<HashMap<TableName, Arc<TableWriter>>>,
    /// What looks after the tables that were published to.
    maintainers: Mutex<HashMap<TableName, Maintainer>>,
}

impl Owner {
    /// The lake.
    #[must_use]
    pub fn lake(&self) -> &Arc<Lake> {
        &self.lake
    }

    /// The lease, to be renewed every [`crate::RENEW_MILLIS`].
    #[must_use]
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The writer of a table: always the same one.
    #[must_use]
    pub fn writer(&self, name: &TableName) -> Arc<TableWriter> {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = writers.entry(name.clone()).or_insert_with(|| {
            Arc::new(TableWriter::new(
                self.lake.table(name),
                Arc::clone(&self.lake.store),
                Arc::clone(&self.lake.clock),
                Arc::clone(&self.lake.faults),
                Arc::clone(&self.lease),
                self.lake.layout.table(name),
                self.lake.layout.releases(),
            ))
        });
        Arc::clone(writer)
    }

    /// Has a table looked after in the background, now that it has one version more: for as long as the right to write
    /// is held, or until [`Owner::end_upkeep`]. Needs a Tokio runtime.
    pub fn look_after(&self, table: &TableName, version: u64, options: MaintenanceOptions) {
        let mut maintainers = self.maintainers.lock().unwrap_or_else(PoisonError::into_inner);
        maintainers
            .entry(table.clone())
            .or_insert_with(|| Maintainer::start(self.writer(table), options))
            .committed(version);
    }

    /// Ends the upkeep of tables, after what is due by now. What takes longer than `patience` is left undone.
    pub async fn end_upkeep(&self, patience: Duration) {
        let maintainers =
            std::mem::take(&mut *self.maintainers.lock().unwrap_or_else(PoisonError::into_inner));
        let until = Instant::now() + patience;
        for maintainer in maintainers.into_values() {
            maintainer.stop(until).await;
        }
    }

    /// Writes a record of ours, durably. `Ok(false)` when `create_only` and it is there already.
    ///
    /// # Errors
    /// Returns [`catchment_core::Code::LEASE_LOST`] and the machine's errors.
    pub async fn write_record(&self, path: &Path, bytes: Vec<u8>, create_only: bool) -> Result<bool> {
        self.lease.check()?;
        let mode = if create_only { PutMode::Create } else { PutMode::Overwrite };
        match self.lake.store.put_opts(path, bytes.into(), PutOptions::from(mode)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(storage_error(format!("could not write \"/{path}\""), error)),
        }
    }

    /// Removes a record of ours; one that is not there is fine.
    ///
    /// # Errors
    /// Returns the machine's errors.
    pub async fn remove_record(&self, path: &Path) -> Result<()> {
        match self.lake.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(storage_error(format!("could not remove \"/{path}\""), error)),
        }
    }
}
