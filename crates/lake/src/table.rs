//! A table as readers see it: snapshots, scans, history.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use catchment_core::{Code, Error, Position, Result, TableName};
use datafusion::catalog::TableProvider;
use deltalake::delta_datafusion::{DeltaScanConfig, DeltaScanNext};
use deltalake::kernel::{Add, Remove};
use deltalake::logstore::{StorageConfig, default_logstore};
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::Mutex;

use crate::failure::{log_error, storage_error};
use crate::layout::Layout;
use crate::line::{Line, UNDONE};
use crate::local::LocalFile;
use crate::log::{Entry, Log};
use crate::store::DurableStore;
use crate::writer::TableSpec;

/// A handle is opened anew after this many versions: a long-lived one gets slower with each commit.
const REOPEN_AFTER: u64 = 100;

/// Files that are looked for one by one; for more the whole table is listed.
const LOOKED_FOR: usize = 64;

/// One Delta table of the lake, open for reading.
#[derive(Debug)]
pub struct Table {
    name: TableName,
    store: Arc<DurableStore>,
    root: Path,
    layout: Layout,
    log: Log,
    /// The newest state seen, and the version at which the handle was opened.
    state: Mutex<Option<(DeltaTable, u64)>>,
}

/// A table at one version.
#[derive(Debug, Clone)]
pub struct Snapshot {
    name: TableName,
    delta: DeltaTable,
    version: u64,
}

impl Table {
    pub(crate) fn new(name: TableName, store: Arc<DurableStore>, layout: &Layout) -> Self {
        let root = layout.table(&name);
        let log = Log::new(name.clone(), Arc::clone(&store), &root);
        Self { name, store, root, layout: layout.clone(), log, state: Mutex::new(None) }
    }

    /// Which of some data files are not there any more, by their paths.
    ///
    /// # Errors
    /// Returns the machine's errors.
    pub async fn missing_files(&self, paths: &[&str]) -> Result<Vec<String>> {
        let failed =
            |error| storage_error(format!("could not look for files of table \"{}\"", self.name), error);
        let location = |path: &str| path.split('/').fold(self.root.clone(), Path::join);
        let mut missing = Vec::new();
        if paths.len() <= LOOKED_FOR {
            for path in paths {
                match self.store.head(&location(path)).await {
                    Ok(_) => {}
                    Err(object_store::Error::NotFound { .. }) => missing.push((*path).to_owned()),
                    Err(error) => return Err(failed(error)),
                }
            }
            return Ok(missing);
        }
        let listed: Vec<_> = self.store.list(Some(&self.root)).try_collect().await.map_err(failed)?;
        let there: HashSet<&Path> = listed.iter().map(|file| &file.location).collect();
        missing.extend(
            paths.iter().filter(|path| !there.contains(&location(path))).map(|path| (*path).to_owned()),
        );
        Ok(missing)
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &TableName {
        &self.name
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// A data file of the table on this machine's disk: in a folder it lies there, out of a bucket it is copied for
    /// as long as it is held. Blocks; call it where that is allowed.
    ///
    /// # Errors
    /// Returns the machine's errors.
    pub fn local_file(&self, path: &str) -> Result<LocalFile> {
        if let Some(folder) = self.layout.folder() {
            return Ok(LocalFile::new(folder.join(&self.name.schema).join(&self.name.table).join(path)));
        }
        let location = path.split('/').fold(self.root.clone(), Path::join);
        LocalFile::copy(&self.store, &location, self.layout.scratch())
    }

    fn handle(&self) -> Result<DeltaTable> {
        let url = self.layout.table_url(&self.name)?;
        let store = Arc::clone(&self.store) as Arc<dyn ObjectStore>;
        let below = PrefixStore::new(Arc::clone(&store), self.root.clone());
        let log_store = default_logstore(Arc::new(below), store, &url, &StorageConfig::default());
        Ok(DeltaTable::new(log_store))
    }

    /// The newest version, `None` when there is no such table yet.
    ///
    /// # Errors
    /// Returns [`Code::LOG_CORRUPT`] when the log cannot be understood, and the machine's errors.
    pub async fn latest(&self) -> Result<Option<Snapshot>> {
        let mut state = self.state.lock().await;
        if let Some((delta, opened)) = state.as_mut() {
            let before = delta.version().unwrap_or(0);
            if self.log.read(before + 1).await?.is_none() {
                return Ok(Some(self.snapshot(delta)));
            }
            if before < *opened + REOPEN_AFTER {
                delta.update_state().await.map_err(|error| self.corrupt(error))?;
                return Ok(Some(self.snapshot(delta)));
            }
        }
        if !self.log.exists().await? {
            *state = None;
            return Ok(None);
        }
        let mut loaded = self.handle()?;
        loaded.load().await.map_err(|error| self.corrupt(error))?;
        let version = loaded.version().unwrap_or(0);
        let snapshot = self.snapshot(&loaded);
        *state = Some((loaded, version));
        Ok(Some(snapshot))
    }

    /// The newest version of a table that must exist.
    ///
    /// # Errors
    /// Returns [`Code::TABLE_UNKNOWN`] when it does not, and the errors of [`Table::latest`].
    pub async fn existing(&self) -> Result<Snapshot> {
        self.latest().await?.ok_or_else(|| {
            Error::new(Code::TABLE_UNKNOWN, format!("no table \"{}\" in the lake", self.name))
                .hint("run the project first, or look at the names with SHOW TABLES")
        })
    }

    /// The table as it was at `version`.
    ///
    /// # Errors
    /// Returns [`Code::VERSION_UNKNOWN`] when the version is not there, or no longer.
    pub async fn at(&self, version: u64) -> Result<Snapshot> {
        let mut delta = self.handle()?;
        delta.load_version(version).await.map_err(|error| {
            Error::new(Code::VERSION_UNKNOWN, format!("table \"{}\" has no version {version}", self.name))
                .because(error)
                .hint(format!("DESCRIBE HISTORY {} lists the versions", self.name))
        })?;
        Ok(self.snapshot(&delta))
    }

    /// The entry of one version, `None` when it is not there or was cleaned up.
    ///
    /// # Errors
    /// Returns [`Code::LOG_CORRUPT`] when the entry cannot be understood, and the machine's errors.
    pub async fn entry(&self, version: u64) -> Result<Option<Entry>> {
        self.log.read(version).await
    }

    /// The entries of the log from the newest back, at most `limit`, as far as they are still there.
    ///
    /// # Errors
    /// As [`Table::entry`] and [`Table::existing`].
    pub async fn history(&self, limit: usize) -> Result<Vec<Entry>> {
        let mut version = self.existing().await?.version;
        let mut entries = Vec::new();
        while entries.len() < limit {
            let Some(entry) = self.log.read(version).await? else { break };
            entries.push(entry);
            let Some(before) = version.checked_sub(1) else { break };
            version = before;
        }
        Ok(entries)
    }

    /// The version of the newest checkpoint, 0 when there is none.
    pub(crate) async fn last_checkpoint(&self) -> Result<u64> {
        self.log.last_checkpoint().await
    }

    fn snapshot(&self, delta: &DeltaTable) -> Snapshot {
        Snapshot { name: self.name.clone(), delta: delta.clone(), version: delta.version().unwrap_or(0) }
    }

    fn corrupt(&self, error: DeltaTableError) -> Error {
        log_error(format!("could not read the log of table \"{}\"", self.name), error)
    }
}

impl Snapshot {
    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The columns in order.
    ///
    /// # Errors
    /// Returns [`Code::TABLE_UNSUPPORTED`] when a column has a type that cannot be read.
    pub fn schema(&self) -> Result<SchemaRef> {
        self.state().map(|state| state.snapshot().arrow_schema())
    }

    /// The columns that split the files.
    ///
    /// # Errors
    /// As [`Snapshot::schema`].
    pub fn partition_columns(&self) -> Result<Vec<String>> {
        self.state().map(|state| state.metadata().partition_columns().to_vec())
    }

    /// The table's properties.
    ///
    /// # Errors
    /// As [`Snapshot::schema`].
    pub fn properties(&self) -> Result<std::collections::HashMap<String, String>> {
        self.state().map(|state| state.metadata().configuration().clone())
    }

    /// The table's comment.
    ///
    /// # Errors
    /// As [`Snapshot::schema`].
    pub fn comment(&self) -> Result<Option<String>> {
        self.state().map(|state| state.metadata().description().map(str::to_owned))
    }

    /// The versions that this one stands on.
    ///
    /// # Errors
    /// As [`Snapshot::schema`].
    pub fn line(&self) -> Result<Line> {
        let undone = self.properties()?.remove(UNDONE).unwrap_or_default();
        Ok(Line::parse(self.version, &undone))
    }

    /// What the table was declared to be.
    ///
    /// # Errors
    /// As [`Snapshot::schema`].
    pub fn spec(&self) -> Result<TableSpec> {
        let mut properties: Vec<_> =
            self.properties()?.into_iter().filter(|(key, _)| key != UNDONE).collect();
        properties.sort();
        Ok(TableSpec {
            schema: self.schema()?,
            partition_columns: self.partition_columns()?,
            comment: self.comment()?,
            properties,
        })
    }

    /// The table's unchanging id.
    pub(crate) fn id(&self) -> Result<String> {
        self.state().map(|state| state.metadata().id().to_owned())
    }

    /// The position of a flow, `None` when it never published here.
    ///
    /// # Errors
    /// Returns [`Code::LOG_CORRUPT`] when the log cannot be read.
    pub async fn position(&self, application: &str) -> Result<Option<Position>> {
        Ok(self.transaction(application).await?.and_then(Position::from_version))
    }

    pub(crate) async fn transaction(&self, application: &str) -> Result<Option<i64>> {
        let log_store = self.delta.log_store();
        self.state()?
            .transaction_version(log_store.as_ref(), application)
            .await
            .map_err(|error| log_error(format!("could not read positions of table \"{}\"", self.name), error))
    }

    /// The data files.
    ///
    /// # Errors
    /// As [`Snapshot::schema`].
    #[expect(deprecated, reason = "the Arrow form of the file list has no stable column names")]
    pub fn files(&self) -> Result<Vec<Add>> {
        self.state().map(|state| state.log_data().iter().map(|file| file.add_action()).collect())
    }

    /// The actions that would take the data files out of the table.
    pub(crate) fn removes(&self, data_change: bool, now_millis: i64) -> Result<Vec<Remove>> {
        Ok(self.files()?.iter().map(|add| remove_of(add, data_change, now_millis)).collect())
    }

    /// A scan of the whole table at this version, which prunes partitions and files by itself.
    ///
    /// # Errors
    /// Returns [`Code::TABLE_UNSUPPORTED`] when the table uses a feature that cannot be read.
    pub async fn provider(&self) -> Result<Arc<dyn TableProvider>> {
        let failed = |error: datafusion::error::DataFusionError| {
            Error::new(Code::TABLE_UNSUPPORTED, format!("could not read table \"{}\"", self.name))
                .because(error)
        };
        // Partition values come as plain strings: dictionaries make joins on them fail.
        let config = DeltaScanConfig { wrap_partition_values: false, ..DeltaScanConfig::new() };
        let snapshot = self.state()?.snapshot().clone();
        let scan = DeltaScanNext::new(snapshot, config).map_err(failed)?;
        Ok(Arc::new(scan))
    }

    pub(crate) fn delta(&self) -> &DeltaTable {
        &self.delta
    }

    fn state(&self) -> Result<&deltalake::table::state::DeltaTableState> {
        self.delta.snapshot().map_err(|error| {
            Error::new(Code::INTERNAL, format!("table \"{}\" is not loaded", self.name)).because(error)
        })
    }
}

/// The action that takes a data file out of the table.
pub(crate) fn remove_of(add: &Add, data_change: bool, now_millis: i64) -> Remove {
    Remove {
        path: add.path.clone(),
        data_change,
        deletion_timestamp: Some(now_millis),
        extended_file_metadata: Some(true),
        partition_values: Some(add.partition_values.clone()),
        size: Some(add.size),
        tags: None,
        deletion_vector: add.deletion_vector.clone(),
        base_row_id: add.base_row_id,
        default_row_commit_version: add.default_row_commit_version,
    }
}
