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
use catchment_sql::Definition;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::records::BatchPlan;
use crate::serving::cache::StateCache;
use crate::serving::rows::{Layout, RowKey};
use crate::serving::table::ServingTable;

/// The version of how rows are written; a store of another version is built anew.
const FORMAT: &str = "1";

/// Memory for blocks that were read, in bytes.
const CACHE_BYTES: u64 = 128 << 20;

/// Bytes of what is not in files yet, which are read again when the store is opened.
const JOURNAL_BYTES: u64 = 64 << 20;

/// What a table has a keyspace for.
const KINDS: [&str; 3] = ["rows", "states", "ages"];

/// Threads that write files and join them.
const WORKERS: usize = 2;

/// All serving tables of a project.
pub struct ServingStore {
    database: Database,
    /// By the table's name: [`Described`].
    descriptions: Keyspace,
    tables: Mutex<HashMap<TableName, Arc<ServingTable>>>,
    cache: Arc<StateCache>,
}

/// The folder of the store, which is opened when it is needed.
#[derive(Debug)]
pub struct ServingFolder {
    path: PathBuf,
    state_bytes: u64,
    opened: Mutex<Option<Arc<ServingStore>>>,
}

impl ServingFolder {
    /// Nothing is opened or made yet. States of groups will have so many bytes of memory.
    #[must_use]
    pub fn new(path: PathBuf, state_bytes: u64) -> Self {
        Self { path, state_bytes, opened: Mutex::default() }
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
            let store = Arc::new(ServingStore::open(&self.path, self.state_bytes)?);
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
        if !self.exists() {
            return Ok(BTreeMap::new());
        }
        Ok(self.store()?.described(name)?.map(|described| described.plan.streams).unwrap_or_default())
    }

    /// The number of the last batch of a table, and when it was planned, in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`ServingStore::open`].
    pub fn last_batch(&self, name: &TableName) -> Result<Option<(u64, i64)>> {
        if !self.exists() {
            return Ok(None);
        }
        let described = self.store()?.described(name)?;
        Ok(described.map(|described| (described.plan.position.number, described.plan.planned_at)))
    }

    /// Whether there is a store.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// The table of a name, when a batch has written it.
    ///
    /// # Errors
    /// As [`ServingStore::open`].
    pub fn table(&self, name: &TableName) -> Result<Option<Arc<ServingTable>>> {
        // Who only looks makes no store.
        match self.exists() {
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
    /// Which of its forms is the one that is read.
    #[serde(default)]
    pub(crate) generation: u32,
}

/// What the rows and states of a table are made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) definition: Definition,
    /// The states of its groups, when it has some.
    pub(crate) states: Option<MadeStates>,
}

/// What the states of groups are like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MadeStates {
    /// Their columns, as an Arrow stream without rows.
    pub(crate) schema: Vec<u8>,
    /// How many of them each aggregate has, behind those of the groups.
    pub(crate) counts: Vec<usize>,
}

pub(crate) fn failed(what: &str, error: fjall::Error) -> Error {
    Error::new(Code::INPUT_OUTPUT, format!("the serving store could not {what}")).because(error)
}

/// The folder of the store's files, which is there as a whole or not at all: a process may die while it makes them.
fn made_whole(parent: &Path) -> Result<PathBuf> {
    let folder = parent.join(FORMAT);
    if folder.exists() {
        return Ok(folder);
    }
    let made = |error: std::io::Error| {
        Error::new(Code::INPUT_OUTPUT, format!("the serving store could not be made in {folder:?}"))
            .because(error)
    };
    std::fs::create_dir_all(parent).map_err(made)?;
    let aside = tempfile::tempdir_in(parent).map_err(made)?;
    drop(Database::builder(aside.path()).worker_threads(1).open().map_err(|error| failed("be made", error))?);
    match std::fs::rename(aside.path(), &folder) {
        Ok(()) => {
            let _ = aside.keep();
            std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(made)?;
        }
        // Another process was quicker.
        Err(_) if folder.exists() => {}
        Err(error) => return Err(made(error)),
    }
    Ok(folder)
}

fn keyspace_name(kind: &str, name: &TableName, generation: u32) -> String {
    match generation {
        0 => format!("{kind} {name}"),
        generation => format!("{kind}.{generation} {name}"),
    }
}

/// Where [`Made`] stands; no name has a space.
fn made_key(name: &TableName) -> String {
    format!("{name} made")
}

impl ServingStore {
    /// Opens the store in a folder, which one process has at a time, with so many bytes of memory for states of groups.
    ///
    /// # Errors
    /// Returns [`Code::SERVING_OWNED`] when another process has it, and errors of the disk.
    pub fn open(folder: &Path, state_bytes: u64) -> Result<Self> {
        let folder = made_whole(folder)?;
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
        Ok(Self { database, descriptions, tables: Mutex::default(), cache: StateCache::new(state_bytes) })
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
                self.opened(name, described.generation, Layout::new(&schema, &described.key)?).map(Some)
            }
            None => Ok(None),
        }
    }

    /// What the rows and states of a table are made of, when it is known.
    pub(crate) fn made(&self, name: &TableName) -> Result<Option<Made>> {
        let found = self.descriptions.get(made_key(name)).map_err(|error| failed("be read", error))?;
        // What another release has written may be otherwise: the table goes on while its definition is the same.
        Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
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
    pub(crate) fn opened(
        &self,
        name: &TableName,
        generation: u32,
        layout: Layout,
    ) -> Result<Arc<ServingTable>> {
        let table = self.generation(name, generation, layout)?;
        self.show(name, &table);
        Ok(table)
    }

    /// Makes a table the one that is read.
    pub(crate) fn show(&self, name: &TableName, table: &Arc<ServingTable>) {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), Arc::clone(table));
    }

    /// An empty form of a table behind the one that is read; nobody reads it yet.
    pub(crate) fn next_generation(
        &self,
        name: &TableName,
        before: u32,
        layout: Layout,
    ) -> Result<Arc<ServingTable>> {
        // What lies there an interrupted change has left.
        self.remove_generations(name, before)?;
        self.generation(name, before + 1, layout)
    }

    fn generation(&self, name: &TableName, generation: u32, layout: Layout) -> Result<Arc<ServingTable>> {
        let keyspace = |kind: &str| {
            self.database
                .keyspace(&keyspace_name(kind, name, generation), KeyspaceCreateOptions::default)
                .map_err(|error| failed("be opened", error))
        };
        Ok(Arc::new(ServingTable {
            layout,
            generation,
            database: self.database.clone(),
            rows: keyspace("rows")?,
            states: keyspace("states")?,
            cached: self.cache.table(),
            ages: keyspace("ages")?,
            swept: AtomicI64::new(0),
        }))
    }

    /// Removes all forms of a table but one.
    pub(crate) fn remove_generations(&self, name: &TableName, but: u32) -> Result<()> {
        let kept = KINDS.map(|kind| keyspace_name(kind, name, but));
        for (known, keyspace) in self.keyspaces(name)? {
            if !kept.contains(&known) {
                self.database
                    .delete_keyspace(keyspace)
                    .map_err(|error| failed("remove what is gone", error))?;
            }
        }
        Ok(())
    }

    /// The keyspaces of all forms of a table, with their names.
    fn keyspaces(&self, name: &TableName) -> Result<Vec<(String, Keyspace)>> {
        let of_table = name.to_string();
        let names = self.database.list_keyspace_names().into_iter().map(|known| known.to_string());
        let of_table =
            names.filter(|known| known.split_once(' ').is_some_and(|(_, table)| table == of_table));
        let open = |known: String| {
            let keyspace = self.database.keyspace(&known, KeyspaceCreateOptions::default);
            Ok((known, keyspace.map_err(|error| failed("be opened", error))?))
        };
        of_table.map(open).collect()
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
        made: Option<&Made>,
        mut batch: OwnedWriteBatch,
    ) -> Result<()> {
        let wrong = |error| Error::new(Code::INTERNAL, "a plan cannot be written").because(error);
        batch.insert(&self.descriptions, name.to_string(), serde_json::to_vec(described).map_err(wrong)?);
        if let Some(made) = made {
            batch.insert(&self.descriptions, made_key(name), serde_json::to_vec(made).map_err(wrong)?);
        }
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
        self.descriptions.remove(made_key(name)).map_err(done)?;
        self.database.persist(PersistMode::SyncAll).map_err(done)?;
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        for (_, keyspace) in self.keyspaces(name)? {
            // Who has it open still sees nothing.
            keyspace.clear().and_then(|()| self.database.delete_keyspace(keyspace)).map_err(done)?;
        }
        self.database.persist(PersistMode::SyncAll).map_err(done)
    }
}
