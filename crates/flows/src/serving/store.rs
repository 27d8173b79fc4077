//! The store of serving tables: rows by key on this machine's disk, with the position of the batch that wrote them.
//!
//! All that a batch does to a table is one synced write: its rows, the states of its groups, what it takes away, and where
//! the flow stands. So there is nothing to recover: what is there was written by a whole batch.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use catchment_core::{Code, Error, Result, TableName};
use catchment_ingest::StreamStanding;
use catchment_lake::parse_schema_text;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::records::BatchPlan;
use crate::serving::rows::{Layout, RowKey};
use crate::serving::table::ServingTable;

/// The version of how rows are written; a store of another version is built anew.
const FORMAT: &str = "1";

/// Memory for blocks that were read, in bytes.
const CACHE_BYTES: u64 = 128 << 20;

/// Bytes of what is not in files yet, which are read again when the store is opened.
const JOURNAL_BYTES: u64 = 64 << 20;

/// Threads that write files and join them.
const WORKERS: usize = 2;

/// All serving tables of a project.
pub struct ServingStore {
    database: Database,
    /// By the table's name: [`Described`].
    descriptions: Keyspace,
    tables: Mutex<HashMap<TableName, Arc<ServingTable>>>,
}

/// The folder of the store, which is opened when it is needed.
#[derive(Debug)]
pub struct ServingFolder {
    path: PathBuf,
    opened: Mutex<Option<Arc<ServingStore>>>,
}

impl ServingFolder {
    /// Nothing is opened or made yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, opened: Mutex::default() }
    }

    /// The store.
    ///
    /// # Errors
    /// As [`ServingStore::open`].
    pub fn store(&self) -> Result<Arc<ServingStore>> {
        let open = || {
            let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(store) = &*opened {
                return Ok(Arc::clone(store));
            }
            let store = Arc::new(ServingStore::open(&self.path)?);
            *opened = Some(Arc::clone(&store));
            Ok(store)
        };
        // What was written last is read again when a store is opened, which others need not wait for.
        let is_open = || self.opened.try_lock().is_ok_and(|opened| opened.is_some());
        match Handle::try_current() {
            Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread && !is_open() => {
                tokio::task::block_in_place(open)
            }
            _ => open(),
        }
    }

    /// Where the flow of a table stands in each stream that it reads, by the stream's name.
    ///
    /// # Errors
    /// As [`ServingStore::open`].
    pub fn stream_standings(&self, name: &TableName) -> Result<BTreeMap<String, StreamStanding>> {
        Ok(self.last_plan(name)?.map(|plan| plan.streams).unwrap_or_default())
    }

    /// The plan of the last batch of a table.
    pub(crate) fn last_plan(&self, name: &TableName) -> Result<Option<BatchPlan>> {
        if !self.path.exists() {
            return Ok(None);
        }
        Ok(self.store()?.described(name)?.map(|described| described.plan))
    }

    /// The table of a name, when a batch has written it.
    ///
    /// # Errors
    /// As [`ServingStore::open`].
    pub fn table(&self, name: &TableName) -> Result<Option<Arc<ServingTable>>> {
        // Who only looks makes no store.
        match self.path.exists() {
            true => self.store()?.table(name),
            false => Ok(None),
        }
    }
}

impl std::fmt::Debug for ServingStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingStore").finish_non_exhaustive()
    }
}

/// What is known of a table besides its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Described {
    /// Its columns.
    pub(crate) schema: String,
    /// How its rows are found.
    pub(crate) key: RowKey,
    /// The plan of the last batch, without its ranges: where the flow stands.
    pub(crate) plan: BatchPlan,
}

pub(crate) fn failed(what: &str, error: fjall::Error) -> Error {
    Error::new(Code::INPUT_OUTPUT, format!("the serving store could not {what}")).because(error)
}

impl ServingStore {
    /// Opens the store in a folder, which one process has at a time.
    ///
    /// # Errors
    /// Returns [`Code::SERVING_OWNED`] when another process has it, and errors of the disk.
    pub fn open(folder: &Path) -> Result<Self> {
        let folder = folder.join(FORMAT);
        let opened = Database::builder(&folder)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(WORKERS)
            .open();
        let database = match opened {
            Ok(database) => database,
            Err(fjall::Error::Locked) => {
                return Err(Error::new(Code::SERVING_OWNED, "another process has the serving tables open")
                    .hint("a service answers for them: GET /v1/tables/TABLE/KEY"));
            }
            Err(error) => return Err(failed(&format!("be opened in {folder:?}"), error)),
        };
        let descriptions = database
            .keyspace("tables", KeyspaceCreateOptions::default)
            .map_err(|error| failed("be opened", error))?;
        Ok(Self { database, descriptions, tables: Mutex::default() })
    }

    /// The table of a name, when a batch has written it.
    ///
    /// # Errors
    /// Returns errors of the disk.
    pub fn table(&self, name: &TableName) -> Result<Option<Arc<ServingTable>>> {
        let known = self.tables.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if known.is_some() {
            return Ok(known);
        }
        match self.described(name)? {
            Some(described) => {
                let schema = parse_schema_text(&described.schema)?;
                self.opened(name, Layout::new(&schema, &described.key)?).map(Some)
            }
            None => Ok(None),
        }
    }

    pub(crate) fn described(&self, name: &TableName) -> Result<Option<Described>> {
        let found = self.descriptions.get(name.to_string()).map_err(|error| failed("be read", error))?;
        let Some(bytes) = found else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(Code::PLAN_CORRUPT, format!("what is kept of serving table \"{name}\" cannot be read"))
                .because(error)
        })
    }

    /// The table with a layout, made when it is not there.
    pub(crate) fn opened(&self, name: &TableName, layout: Layout) -> Result<Arc<ServingTable>> {
        let keyspace = |kind: &str| {
            self.database
                .keyspace(&format!("{kind} {name}"), KeyspaceCreateOptions::default)
                .map_err(|error| failed("be opened", error))
        };
        let table = Arc::new(ServingTable {
            layout,
            database: self.database.clone(),
            rows: keyspace("rows")?,
            states: keyspace("states")?,
            ages: keyspace("ages")?,
            swept: AtomicI64::new(0),
        });
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), Arc::clone(&table));
        Ok(table)
    }

    /// A batch of writes that is durable when it is committed.
    pub(crate) fn batch(&self) -> OwnedWriteBatch {
        self.database.batch().durability(Some(PersistMode::SyncAll))
    }

    /// Makes a change durable, together with where the flow stands after it.
    pub(crate) fn commit(
        &self,
        name: &TableName,
        described: &Described,
        mut batch: OwnedWriteBatch,
    ) -> Result<()> {
        let bytes = serde_json::to_vec(described)
            .map_err(|error| Error::new(Code::INTERNAL, "a plan cannot be written").because(error))?;
        batch.insert(&self.descriptions, name.to_string(), bytes);
        batch.commit().map_err(|error| failed("take a batch", error))
    }

    /// Empties a table: its next batch begins with all that there is.
    ///
    /// # Errors
    /// Returns errors of the disk.
    pub fn clear(&self, name: &TableName) -> Result<()> {
        // First where the flow stands: without it, all else is cleared before it is used.
        let done = |error| failed("be emptied", error);
        self.descriptions.remove(name.to_string()).map_err(done)?;
        self.database.persist(PersistMode::SyncAll).map_err(done)?;
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        for kind in ["rows", "states", "ages"] {
            let keyspace = self
                .database
                .keyspace(&format!("{kind} {name}"), KeyspaceCreateOptions::default)
                .map_err(done)?;
            keyspace.clear().map_err(done)?;
        }
        self.database.persist(PersistMode::SyncAll).map_err(done)
    }
}
