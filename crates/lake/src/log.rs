//! Entries of a Delta log, as this platform writes and reads them.
//!
//! Format: the Delta transaction log protocol, one JSON action a line in
//! `_delta_log/<version, 20 digits>.json`.

use std::sync::Arc;

use catchment_core::{Code, Error, Position, Result, TableName};
use deltalake::kernel::{Action, Add, Remove, Transaction};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Map, Value, json};

use crate::failure::{log_error, storage_error};
use crate::store::DurableStore;

/// The application id under which every commit carries the generation of the lake's owner.
pub const OWNER_APPLICATION: &str = "catchment-owner";

/// The key of `commitInfo` under which a commit carries what we know about its batch.
pub const BATCH_KEY: &str = "catchment";

/// The key of `commitInfo` that names a commit attempt, so that its outcome can be found out.
const ATTEMPT_KEY: &str = "catchmentAttempt";

/// One entry of a table's log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The version the entry made.
    pub version: u64,
    /// When it was committed, in milliseconds since the Unix epoch, by the commit's own account.
    pub timestamp: i64,
    /// The operation: `WRITE`, `CREATE TABLE`, `OPTIMIZE`, ...
    pub operation: String,
    /// Parameters of the operation.
    pub parameters: Value,
    /// What the flow's batch left with the commit, see [`BATCH_KEY`].
    pub batch: Value,
    /// Which attempt wrote it.
    pub(crate) attempt: Option<String>,
    /// Positions by application id.
    pub transactions: Vec<Transaction>,
    /// Files that became part of the table.
    pub adds: Vec<Add>,
    /// Files that are no longer part of the table.
    pub removes: Vec<Remove>,
    /// Whether the schema or properties changed.
    pub changes_metadata: bool,
}

impl Entry {
    /// The position that the entry gives to a flow.
    #[must_use]
    pub fn position(&self, application: &str) -> Option<Position> {
        self.transaction(application).and_then(Position::from_version)
    }

    pub(crate) fn transaction(&self, application: &str) -> Option<i64> {
        self.transactions.iter().find(|txn| txn.app_id == application).map(|txn| txn.version)
    }
}

/// What a commit writes.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) operation: String,
    pub(crate) parameters: Map<String, Value>,
    pub(crate) batch: Value,
    pub(crate) blind: bool,
    pub(crate) transactions: Vec<Transaction>,
    /// Protocol and metadata actions as they are written.
    pub(crate) header: Vec<Value>,
    pub(crate) adds: Vec<Add>,
    pub(crate) removes: Vec<Remove>,
}

impl Draft {
    /// The bytes of the entry; `attempt` must be unique, `timestamp` is in milliseconds.
    pub(crate) fn bytes(&self, attempt: &str, timestamp: i64) -> Result<Vec<u8>> {
        let mut info = json!({
            "timestamp": timestamp,
            "operation": self.operation,
            "operationParameters": self.parameters,
            "isBlindAppend": self.blind,
            "engineInfo": concat!("catchment/", env!("CARGO_PKG_VERSION")),
            ATTEMPT_KEY: attempt,
        });
        if !self.batch.is_null() {
            info[BATCH_KEY] = self.batch.clone();
        }
        let mut bytes = Vec::new();
        push_line(&mut bytes, &json!({ "commitInfo": info }))?;
        self.header.iter().try_for_each(|action| push_line(&mut bytes, action))?;
        self.transactions.iter().try_for_each(|txn| push_line(&mut bytes, &Action::Txn(txn.clone())))?;
        self.removes.iter().try_for_each(|remove| push_line(&mut bytes, &Action::Remove(remove.clone())))?;
        self.adds.iter().try_for_each(|add| push_line(&mut bytes, &Action::Add(add.clone())))?;
        Ok(bytes)
    }
}

fn push_line(bytes: &mut Vec<u8>, action: &impl serde::Serialize) -> Result<()> {
    serde_json::to_writer(&mut *bytes, action).map_err(|error| {
        Error::new(Code::INTERNAL, "could not write an entry of a Delta log").because(error)
    })?;
    bytes.push(b'\n');
    Ok(())
}

/// The log of one table: entries by version.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    table: TableName,
    store: Arc<DurableStore>,
    folder: Path,
}

impl Log {
    pub(crate) fn new(table: TableName, store: Arc<DurableStore>, root: &Path) -> Self {
        Self { table, store, folder: root.clone().join("_delta_log") }
    }

    pub(crate) fn path(&self, version: u64) -> Path {
        self.folder.clone().join(format!("{version:020}.json"))
    }

    /// Whether anything stands in the log.
    pub(crate) async fn exists(&self) -> Result<bool> {
        let first = self.store.list(Some(&self.folder)).next().await.transpose();
        first.map(|first| first.is_some()).map_err(|error| {
            storage_error(format!("could not look for the log of table \"{}\"", self.table), error)
        })
    }

    /// The version of the newest checkpoint by the log's own note of it; a note that cannot be read counts as none.
    pub(crate) async fn last_checkpoint(&self) -> Result<u64> {
        let attempt = || format!("could not look for a checkpoint of table \"{}\"", self.table);
        match self.store.get(&self.folder.clone().join("_last_checkpoint")).await {
            Ok(found) => {
                let bytes = found.bytes().await.map_err(|error| storage_error(attempt(), error))?;
                let note: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                Ok(note["version"].as_u64().unwrap_or(0))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(0),
            Err(error) => Err(storage_error(attempt(), error)),
        }
    }

    /// Reads the entry of a version, `None` when there is none.
    pub(crate) async fn read(&self, version: u64) -> Result<Option<Entry>> {
        let attempt = || format!("could not read version {version} of table \"{}\"", self.table);
        let bytes = match self.store.get(&self.path(version)).await {
            Ok(found) => found.bytes().await.map_err(|error| storage_error(attempt(), error))?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(storage_error(attempt(), error)),
        };
        parse(version, &bytes).map(Some).map_err(|error| {
            let path = self.path(version);
            log_error(format!("log entry {path:?} of table \"{}\" is corrupt", self.table), error)
        })
    }

    /// Writes the entry of a version. `Ok(false)` when somebody else has written it.
    pub(crate) async fn write(&self, version: u64, bytes: Vec<u8>) -> Result<bool, object_store::Error> {
        let options = object_store::PutOptions::from(object_store::PutMode::Create);
        match self.store.put_opts(&self.path(version), bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Entry {
    /// Whether the entry was written by this attempt.
    pub(crate) fn is_attempt(&self, attempt: &str) -> bool {
        self.attempt.as_deref() == Some(attempt)
    }
}

fn parse(version: u64, bytes: &[u8]) -> Result<Entry, serde_json::Error> {
    let mut entry = Entry {
        version,
        timestamp: 0,
        operation: String::new(),
        parameters: Value::Null,
        batch: Value::Null,
        attempt: None,
        transactions: Vec::new(),
        adds: Vec::new(),
        removes: Vec::new(),
        changes_metadata: false,
    };
    let mut lines = 0;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        lines += 1;
        let value: Value = serde_json::from_slice(line)?;
        if let Some(info) = value.get("commitInfo") {
            let text = |key: &str| info.get(key).and_then(Value::as_str).map(str::to_owned);
            entry.timestamp = info.get("timestamp").and_then(Value::as_i64).unwrap_or(0);
            entry.operation = text("operation").unwrap_or_default();
            entry.parameters = info.get("operationParameters").cloned().unwrap_or(Value::Null);
            entry.batch = info.get(BATCH_KEY).cloned().unwrap_or(Value::Null);
            entry.attempt = text(ATTEMPT_KEY);
            continue;
        }
        if value.get("metaData").is_some() {
            entry.changes_metadata = true;
            continue;
        }
        match serde_json::from_value(value)? {
            Action::Txn(txn) => entry.transactions.push(txn),
            Action::Add(add) => entry.adds.push(add),
            Action::Remove(remove) => entry.removes.push(remove),
            _ => {}
        }
    }
    if lines == 0 {
        return Err(serde::de::Error::custom("the file is empty"));
    }
    Ok(entry)
}
