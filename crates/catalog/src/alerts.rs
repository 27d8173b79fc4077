//! Alerts that were raised, and the notifications that tell of them: an outbox in the catalog.
//!
//! What an evaluation finds and what is to be told of it are one transaction, so that an alert is in the catalog once
//! and none is lost on its way out. Whoever sends takes notifications that are due and notes how it went; one that was sent and
//! not noted, because the process died in between, is sent again under the same id.

use std::fmt;
use std::str::FromStr;

use catchment_core::{Code, Error, Result};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use crate::model::words;
use crate::sqlite::{failed, word};

/// Alerts that are kept; older ones go once they are over and told.
const KEPT: i64 = 100_000;

/// What the alerts of a catalog lie in.
pub(crate) const TABLES: &str = "
CREATE TABLE alerts (
    id TEXT PRIMARY KEY, alert TEXT NOT NULL, key TEXT NOT NULL, severity TEXT NOT NULL, record TEXT NOT NULL,
    raised_at INTEGER NOT NULL, resolved_at INTEGER, repeats INTEGER NOT NULL
) STRICT;
CREATE INDEX alerts_by_key ON alerts (alert, key, raised_at);
CREATE INDEX alerts_open ON alerts (alert) WHERE resolved_at IS NULL;
CREATE TABLE notifications (
    id TEXT NOT NULL, target TEXT NOT NULL, status TEXT NOT NULL, attempts INTEGER NOT NULL, next_at INTEGER NOT NULL,
    settled_at INTEGER, error TEXT, PRIMARY KEY (id, target)
) STRICT;
CREATE INDEX notifications_due ON notifications (target, status, next_at);
";

/// An alert that was raised: a row that its query had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// Its own id, by which whoever is told knows it again.
    pub id: String,
    /// The alert's name.
    pub alert: String,
    /// How bad it is.
    pub severity: String,
    /// The values of its key, as JSON.
    pub key: String,
    /// The row when it was raised, as JSON.
    pub record: String,
    /// When it was raised, in microseconds since the Unix epoch.
    pub raised_at: i64,
    /// When its row was gone.
    pub resolved_at: Option<i64>,
    /// How often it came back within its silence, and nobody was told.
    pub repeats: u64,
}

/// What an alert's query has now.
#[derive(Debug, Clone)]
pub struct Evaluation<'a> {
    /// The alert's name.
    pub alert: &'a str,
    /// How bad it is.
    pub severity: &'a str,
    /// Who is told.
    pub targets: &'a [String],
    /// Keys and rows, as JSON; a key stands there once.
    pub rows: &'a [(String, String)],
    /// Whether these are all rows, so that what is not among them is over.
    pub is_whole: bool,
    /// The most alerts that are open at a time; more rows are left for later.
    pub most: usize,
    /// How long nobody is told of a key again after it was told, in microseconds.
    pub silence: i64,
    /// When the query was asked.
    pub at: i64,
}

words! {
    /// How a notification stands.
    NotificationStatus {
        /// It is to be sent.
        Waiting = "waiting",
        /// Its target has taken it.
        Sent = "sent",
        /// It was given up.
        Dead = "dead",
    }
}

/// That a target is told of an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notification {
    /// What is told.
    #[serde(flatten)]
    pub alert: Alert,
    /// Who is told.
    pub target: String,
    /// How it stands.
    pub status: NotificationStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next, in microseconds since the Unix epoch.
    pub next_at: i64,
    /// When it was sent or given up.
    pub settled_at: Option<i64>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// Enters what an alert's query has now; gives how many alerts were raised.
pub(crate) fn evaluate(
    connection: &mut Connection,
    found: &Evaluation<'_>,
    new_id: &dyn Fn() -> String,
) -> Result<usize> {
    let transaction = connection.transaction().map_err(failed)?;
    let mut open: std::collections::HashMap<String, String> = {
        let mut statement = transaction
            .prepare_cached("SELECT key, id FROM alerts WHERE alert = ?1 AND resolved_at IS NULL")
            .map_err(failed)?;
        let rows =
            statement.query_map([found.alert], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)?
    };
    let (mut raised, mut count) = (0, open.len());
    for (key, record) in found.rows {
        if open.remove(key).is_some() {
            continue;
        }
        // Those that are gone make room.
        if !found.is_whole && count >= found.most {
            continue;
        }
        count += 1;
        let last: Option<(String, i64)> = transaction
            .query_row(
                "SELECT id, raised_at FROM alerts WHERE alert = ?1 AND key = ?2 ORDER BY raised_at DESC LIMIT 1",
                params![found.alert, key],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(failed)?;
        match last {
            Some((id, raised_at))
                if found.silence > 0 && found.at.saturating_sub(raised_at) < found.silence =>
            {
                transaction
                    .execute(
                        "UPDATE alerts SET resolved_at = NULL, repeats = repeats + 1 WHERE id = ?1",
                        [id],
                    )
                    .map_err(failed)?;
            }
            _ => {
                raise(&transaction, found, key, record, &new_id())?;
                raised += 1;
            }
        }
    }
    if found.is_whole {
        for id in open.values() {
            transaction
                .execute("UPDATE alerts SET resolved_at = ?2 WHERE id = ?1", params![id, found.at])
                .map_err(failed)?;
        }
    }
    if raised > 0 {
        forget(&transaction)?;
    }
    transaction.commit().map_err(failed)?;
    Ok(raised)
}

fn raise(connection: &Connection, found: &Evaluation<'_>, key: &str, record: &str, id: &str) -> Result<()> {
    connection
        .execute(
            "INSERT INTO alerts VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL, 0)",
            params![id, found.alert, key, found.severity, record, found.at],
        )
        .map_err(failed)?;
    for target in found.targets {
        connection
            .execute(
                "INSERT INTO notifications VALUES (?1, ?2, 'waiting', 0, ?3, NULL, NULL)",
                params![id, target, found.at],
            )
            .map_err(failed)?;
    }
    Ok(())
}

/// Drops the oldest alerts that are over and told.
fn forget(connection: &Connection) -> Result<()> {
    let oldest: Option<i64> = connection
        .query_row("SELECT raised_at FROM alerts ORDER BY rowid DESC LIMIT 1 OFFSET ?1", [KEPT], |row| {
            row.get(0)
        })
        .optional()
        .map_err(failed)?;
    let Some(oldest) = oldest else { return Ok(()) };
    let over = "SELECT id FROM alerts WHERE raised_at <= ?1 AND resolved_at IS NOT NULL
        AND id NOT IN (SELECT id FROM notifications WHERE status = 'waiting')";
    connection
        .execute(&format!("DELETE FROM notifications WHERE id IN ({over})"), [oldest])
        .map_err(failed)?;
    let left = "DELETE FROM alerts WHERE raised_at <= ?1 AND resolved_at IS NOT NULL
        AND id NOT IN (SELECT id FROM notifications)";
    connection.execute(left, [oldest]).map(|_| ()).map_err(failed)
}

/// Ends the alerts of names that are none any more, and gives up what waits for targets that are none any more.
pub(crate) fn forget_others(
    connection: &Connection,
    names: &[String],
    targets: &[String],
    at: i64,
) -> Result<()> {
    let list = |names: &[String]| {
        serde_json::to_string(names)
            .map_err(|error| Error::new(Code::INTERNAL, "could not list alerts").because(error))
    };
    let text = "UPDATE notifications SET status = 'dead', settled_at = ?1, error = 'there is no such target any more'
        WHERE status = 'waiting' AND target NOT IN (SELECT value FROM json_each(?2))";
    connection.execute(text, params![at, list(targets)?]).map_err(failed)?;
    let text = "UPDATE alerts SET resolved_at = ?1 WHERE resolved_at IS NULL
        AND alert NOT IN (SELECT value FROM json_each(?2))";
    connection.execute(text, params![at, list(names)?]).map(|_| ()).map_err(failed)
}

const NOTIFICATION: &str = "SELECT a.id, a.alert, a.severity, a.key, a.record, a.raised_at, a.resolved_at, a.repeats,
    n.target, n.status, n.attempts, n.next_at, n.settled_at, n.error FROM notifications n JOIN alerts a ON a.id = n.id";

/// Notifications for a target that are due: those that were never tried first, of each alert in turn, so that none of them waits for
/// many others of one alert; then the longest waiting.
pub(crate) fn due(connection: &Connection, target: &str, at: i64, limit: usize) -> Result<Vec<Notification>> {
    let text = format!(
        "{NOTIFICATION} WHERE n.target = ?1 AND n.status = 'waiting' AND n.next_at <= ?2
        ORDER BY n.attempts > 0, row_number() OVER (PARTITION BY a.alert, n.attempts > 0 ORDER BY n.next_at, n.id), n.next_at, n.id LIMIT ?3"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(&text).map_err(failed)?;
    let rows = statement.query_map(params![target, at, limit], notification).map_err(failed)?;
    rows.collect::<rusqlite::Result<Vec<_>>>().map_err(failed)
}

/// All notifications, newest first.
pub(crate) fn notifications(connection: &Connection) -> Result<Vec<Notification>> {
    let text = format!("{NOTIFICATION} ORDER BY a.raised_at DESC, a.id, n.target");
    let mut statement = connection.prepare_cached(&text).map_err(failed)?;
    let rows = statement.query_map([], notification).map_err(failed)?;
    rows.collect::<rusqlite::Result<Vec<_>>>().map_err(failed)
}

/// Notes how a notification stands now.
pub(crate) fn settle(connection: &Connection, notification: &Notification) -> Result<()> {
    let text =
        "UPDATE notifications SET status = ?3, attempts = ?4, next_at = ?5, settled_at = ?6, error = ?7
        WHERE id = ?1 AND target = ?2";
    let Notification { alert, target, status, attempts, next_at, settled_at, error } = notification;
    connection
        .execute(text, params![alert.id, target, status.as_str(), attempts, next_at, settled_at, error])
        .map(|_| ())
        .map_err(failed)
}

/// Lets those that were given up be sent again; gives how many.
pub(crate) fn revive(connection: &Connection, at: i64) -> Result<usize> {
    let text = "UPDATE notifications SET status = 'waiting', attempts = 0, next_at = ?1, settled_at = NULL
        WHERE status = 'dead'";
    connection.execute(text, [at]).map_err(failed)
}

/// Alerts, newest first: at most `limit`, and only those whose rows are there where `open` is set.
pub(crate) fn alerts(connection: &Connection, open: bool, limit: usize) -> Result<Vec<Alert>> {
    let text = "SELECT id, alert, severity, key, record, raised_at, resolved_at, repeats FROM alerts
        WHERE resolved_at IS NULL OR NOT ?1 ORDER BY raised_at DESC, id LIMIT ?2";
    let mut statement = connection.prepare_cached(text).map_err(failed)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![open, limit], alert).map_err(failed)?;
    rows.collect::<rusqlite::Result<Vec<_>>>().map_err(failed)
}

fn alert(row: &Row<'_>) -> rusqlite::Result<Alert> {
    Ok(Alert {
        id: row.get(0)?,
        alert: row.get(1)?,
        severity: row.get(2)?,
        key: row.get(3)?,
        record: row.get(4)?,
        raised_at: row.get(5)?,
        resolved_at: row.get(6)?,
        repeats: row.get(7)?,
    })
}

fn notification(row: &Row<'_>) -> rusqlite::Result<Notification> {
    Ok(Notification {
        alert: alert(row)?,
        target: row.get(8)?,
        status: word(row, 9, |text| text.parse().ok())?,
        attempts: row.get(10)?,
        next_at: row.get(11)?,
        settled_at: row.get(12)?,
        error: row.get(13)?,
    })
}
