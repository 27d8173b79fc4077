//! The catalog in one SQLite file, as a laptop or one server has it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catchment_core::{Code, Error, FlowName, Position, Result, TableName};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::alerts::{self, Alert, Evaluation, Notification};
use crate::keys::AccessKey;
use crate::model::{BatchRecord, DatasetOutcome, QueryRecord, RunRecord};
use crate::store::Store;

/// The version of the schema, in SQLite's `user_version`.
const SCHEMA_VERSION: i64 = 5;

/// Runs that are kept.
const KEPT_RUNS: usize = 10_000;

/// Queries that are kept.
const KEPT_QUERIES: i64 = 10_000;

const SCHEMA: &str = "
CREATE TABLE runs (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, started_at INTEGER NOT NULL, finished_at INTEGER, error TEXT
) STRICT;
CREATE TABLE outcomes (
    run TEXT NOT NULL, dataset TEXT NOT NULL, status TEXT NOT NULL, rows_in INTEGER NOT NULL,
    rows_out INTEGER NOT NULL, quarantined INTEGER NOT NULL, version INTEGER, milliseconds INTEGER NOT NULL,
    error TEXT, PRIMARY KEY (run, dataset)
) STRICT;
CREATE TABLE batches (
    flow TEXT NOT NULL, position INTEGER NOT NULL, committed_at INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (flow, position)
) STRICT;
CREATE INDEX batches_by_time ON batches (committed_at);
";

/// What each version of the schema adds to the one before, from version 2 on.
const MIGRATIONS: &[&str] = &[
    "ALTER TABLE outcomes ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;",
    "CREATE TABLE queries (number INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL) STRICT;",
    "CREATE TABLE access_keys (id TEXT PRIMARY KEY, sealed BLOB NOT NULL, created_at INTEGER NOT NULL, note TEXT NOT NULL) STRICT;",
    alerts::TABLES,
];

/// A catalog in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens the catalog at `path`, making it when there is none.
    ///
    /// # Errors
    /// Returns [`Code::CATALOG`] when the file cannot be opened or was made by a newer version.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: &str| {
            Error::new(Code::CATALOG, format!("could not open catalog database {path:?}: {error}"))
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(&error.to_string()))?;
        }
        Self::prepare(path).map_err(|error| {
            failed(&error.to_string()).hint("the catalog can be rebuilt: move the file away and run again")
        })
    }

    /// Makes sure that a file is a catalog that this program can read; nothing is written.
    ///
    /// # Errors
    /// Returns [`Code::CATALOG`] when it is none.
    pub fn require_catalog(path: &Path) -> Result<()> {
        let failed = |error: String| {
            Error::new(Code::CATALOG, format!("{path:?} is not a catalog database")).because(error)
        };
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| failed(error.to_string()))?;
        let version: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(|error| failed(error.to_string()))?;
        if !(1..=SCHEMA_VERSION).contains(&version) {
            return Err(failed(format!(
                "its schema has version {version}, this program knows {SCHEMA_VERSION}"
            )));
        }
        connection
            .query_row("SELECT count(*) FROM batches", [], |row| row.get::<_, i64>(0))
            .map(|_| ())
            .map_err(|error| failed(error.to_string()))
    }

    fn prepare(path: &Path) -> rusqlite::Result<Self> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        // One that reads first and then writes fails at once when another process has written in between.
        connection.set_transaction_behavior(TransactionBehavior::Immediate);
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // FULL: a record that was acknowledged survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version < SCHEMA_VERSION {
            let first = if version == 0 { SCHEMA } else { "" };
            let done = usize::try_from(version - 1).unwrap_or(0);
            let rest: String = MIGRATIONS.iter().skip(done).copied().collect();
            connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {first} {rest} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            ))?;
        } else if version != SCHEMA_VERSION {
            return Err(rusqlite::Error::InvalidParameterName(format!(
                "its schema has version {version}, this program knows {SCHEMA_VERSION}"
            )));
        }
        Ok(Self { connection: Mutex::new(connection) })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn query<T>(
        &self,
        sql: &str,
        limit: usize,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let connection = self.connection();
        let mut statement = connection.prepare_cached(sql).map_err(failed)?;
        let rows = statement.query_map([limit], |row| read(row)).map_err(failed)?;
        rows.collect::<rusqlite::Result<Vec<_>>>().map_err(failed)
    }
}

pub(crate) fn failed(error: rusqlite::Error) -> Error {
    Error::new(Code::CATALOG, "catalog database failed").because(error)
}

fn record_of(batch: &BatchRecord) -> Result<String> {
    serde_json::to_string(batch)
        .map_err(|error| Error::new(Code::INTERNAL, "could not write a batch record").because(error))
}

/// Reads a column that holds one of our words or names.
pub(crate) fn word<T>(row: &Row<'_>, index: usize, parse: impl Fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text: String = row.get(index)?;
    parse(&text).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(
            index,
            rusqlite::types::Type::Text,
            format!("unknown word {text:?}").into(),
        )
    })
}

impl Store for SqliteStore {
    fn put_run(&self, run: &RunRecord) -> Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(failed)?;
        transaction
            .execute(
                "INSERT OR REPLACE INTO runs VALUES (?1, ?2, ?3, ?4, ?5)",
                params![run.id, run.status.as_str(), run.started_at, run.finished_at, run.error],
            )
            .map_err(failed)?;
        // Ids sort as runs began.
        let oldest: Option<String> = transaction
            .query_row("SELECT id FROM runs ORDER BY id DESC LIMIT 1 OFFSET ?1", [KEPT_RUNS], |row| {
                row.get(0)
            })
            .optional()
            .map_err(failed)?;
        if let Some(oldest) = oldest {
            transaction.execute("DELETE FROM runs WHERE id <= ?1", [&oldest]).map_err(failed)?;
            transaction.execute("DELETE FROM outcomes WHERE run <= ?1", [&oldest]).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    fn put_outcomes(&self, outcomes: &[DatasetOutcome]) -> Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(failed)?;
        for outcome in outcomes {
            transaction
                .execute(
                    "INSERT OR REPLACE INTO outcomes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                    params![
                        outcome.run,
                        outcome.dataset.to_string(),
                        outcome.status.as_str(),
                        outcome.rows_in,
                        outcome.rows_out,
                        outcome.quarantined,
                        outcome.version,
                        outcome.milliseconds,
                        outcome.error,
                        outcome.dropped,
                    ],
                )
                .map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    fn put_batch(&self, batch: &BatchRecord) -> Result<()> {
        let record = record_of(batch)?;
        self.connection()
            .execute(
                "INSERT OR IGNORE INTO batches VALUES (?1, ?2, ?3, ?4)",
                params![batch.flow.as_str(), batch.position.to_version(), batch.committed_at, record],
            )
            .map(|_| ())
            .map_err(failed)
    }

    fn mark_undone(&self, dataset: &TableName, is_undone: &dyn Fn(u64) -> bool) -> Result<()> {
        let batches = self.batches(usize::MAX)?;
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(failed)?;
        for mut batch in batches.into_iter().filter(|batch| batch.dataset == *dataset) {
            let undone = is_undone(batch.version);
            if batch.undone == undone {
                continue;
            }
            batch.undone = undone;
            transaction
                .execute(
                    "UPDATE batches SET record = ?3 WHERE flow = ?1 AND position = ?2",
                    params![batch.flow.as_str(), batch.position.to_version(), record_of(&batch)?],
                )
                .map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    fn backup(&self, to: &Path) -> Result<()> {
        let failed = |error: String| {
            Error::new(Code::CATALOG, format!("could not write the catalog to {to:?}")).because(error)
        };
        if to.exists() {
            return Err(failed("the file is there already".to_owned()));
        }
        let name = to.to_str().ok_or_else(|| failed("its name is not UTF-8".to_owned()))?;
        self.connection().execute("VACUUM INTO ?1", [name]).map_err(|error| failed(error.to_string()))?;
        // SQLite does not sync what it writes there.
        std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(|error| failed(error.to_string()))
    }

    fn last_position(&self, flow: &FlowName) -> Result<Option<Position>> {
        let last: Option<i64> = self
            .connection()
            .query_row("SELECT max(position) FROM batches WHERE flow = ?1", [flow.as_str()], |row| row.get(0))
            .map_err(failed)?;
        Ok(last.and_then(Position::from_version))
    }

    fn runs(&self, limit: usize) -> Result<Vec<RunRecord>> {
        self.query("SELECT * FROM runs ORDER BY id DESC LIMIT ?1", limit, |row| {
            Ok(RunRecord {
                id: row.get(0)?,
                status: word(row, 1, |text| text.parse().ok())?,
                started_at: row.get(2)?,
                finished_at: row.get(3)?,
                error: row.get(4)?,
            })
        })
    }

    fn outcomes(&self) -> Result<Vec<DatasetOutcome>> {
        self.query("SELECT * FROM outcomes ORDER BY run DESC, dataset LIMIT ?1", usize::MAX, |row| {
            Ok(DatasetOutcome {
                run: row.get(0)?,
                dataset: word(row, 1, |text| TableName::parse(text, ""))?,
                status: word(row, 2, |text| text.parse().ok())?,
                rows_in: row.get(3)?,
                rows_out: row.get(4)?,
                quarantined: row.get(5)?,
                version: row.get(6)?,
                milliseconds: row.get(7)?,
                error: row.get(8)?,
                dropped: row.get(9)?,
            })
        })
    }

    fn put_query(&self, query: &QueryRecord) -> Result<()> {
        let record = serde_json::to_string(query)
            .map_err(|error| Error::new(Code::INTERNAL, "could not write a query record").because(error))?;
        let connection = self.connection();
        connection.execute("INSERT INTO queries (record) VALUES (?1)", [record]).map_err(failed)?;
        let oldest = connection.last_insert_rowid() - KEPT_QUERIES;
        connection.execute("DELETE FROM queries WHERE number <= ?1", [oldest]).map(|_| ()).map_err(failed)
    }

    fn queries(&self, limit: usize) -> Result<Vec<QueryRecord>> {
        self.query("SELECT record FROM queries ORDER BY number DESC LIMIT ?1", limit, |row| {
            word(row, 0, |text| serde_json::from_str(text).ok())
        })
    }

    fn put_key(&self, key: &AccessKey) -> Result<()> {
        self.connection()
            .execute(
                "INSERT INTO access_keys VALUES (?1, ?2, ?3, ?4)",
                params![key.id, key.sealed, key.created_at, key.note],
            )
            .map(|_| ())
            .map_err(failed)
    }

    fn remove_key(&self, id: &str) -> Result<bool> {
        self.connection()
            .execute("DELETE FROM access_keys WHERE id = ?1", [id])
            .map(|count| count > 0)
            .map_err(failed)
    }

    fn keys(&self) -> Result<Vec<AccessKey>> {
        self.query("SELECT * FROM access_keys ORDER BY created_at LIMIT ?1", usize::MAX, |row| {
            Ok(AccessKey { id: row.get(0)?, sealed: row.get(1)?, created_at: row.get(2)?, note: row.get(3)? })
        })
    }

    fn batches(&self, limit: usize) -> Result<Vec<BatchRecord>> {
        self.query(
            "SELECT record FROM batches ORDER BY committed_at DESC, position DESC LIMIT ?1",
            limit,
            |row| word(row, 0, |text| serde_json::from_str(text).ok()),
        )
    }

    fn evaluate_alert(&self, found: &Evaluation<'_>, new_id: &dyn Fn() -> String) -> Result<usize> {
        alerts::evaluate(&mut self.connection(), found, new_id)
    }

    fn forget_alerts(&self, names: &[String], targets: &[String], at: i64) -> Result<()> {
        alerts::forget_others(&self.connection(), names, targets, at)
    }

    fn alerts(&self) -> Result<Vec<Alert>> {
        alerts::alerts(&self.connection(), false, usize::MAX)
    }

    fn open_alerts(&self, limit: usize) -> Result<Vec<Alert>> {
        alerts::alerts(&self.connection(), true, limit)
    }

    fn notifications(&self) -> Result<Vec<Notification>> {
        alerts::notifications(&self.connection())
    }

    fn due_notifications(&self, target: &str, at: i64, limit: usize) -> Result<Vec<Notification>> {
        alerts::due(&self.connection(), target, at, limit)
    }

    fn settle_notification(&self, notification: &Notification) -> Result<()> {
        alerts::settle(&self.connection(), notification)
    }

    fn revive_notifications(&self, at: i64) -> Result<usize> {
        alerts::revive(&self.connection(), at)
    }
}
