//! Alerts: asks their queries, enters what they have into the catalog, and has it told.
//!
//! A row whose key was not there when the query was asked last is an alert. Entering it and what is to be sent of it is one
//! transaction, so an alert is in `system.alerts` once, whatever dies; sending is the outbox's, and nobody waits for it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use catchment_catalog::Evaluation;
use catchment_core::{Code, Error, Result, TableName};
use catchment_ingest::streams::OpenLog;
use catchment_notify::{Message, Outbox, OutboxOptions, Target};
use catchment_sql::{nearest, query_error};
use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::{LineDelimited, make_encoder};
use datafusion::arrow::json::{EncoderOptions, WriterBuilder};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::sqlparser::tokenizer::Span;
use futures::TryStreamExt;
use tokio::sync::watch;

use crate::access::Access;
use crate::declare_alert::AlertStatement;
use crate::keep::Listener;
use crate::project::Declared;
use crate::readers::{Readers, Schemas};
use crate::run::Workspace;

/// Rows that one alert may have at a time.
const ROWS: usize = 1_000;

/// The key of the alert that an alert's query cannot be asked; others are lists.
const FAILURE: &str = "cannot be asked";

/// How long `catchment run` waits for those who are told.
const FAREWELL: Duration = Duration::from_secs(15);

/// What evaluating the alerts of a project gave.
#[derive(Debug, Default)]
pub struct AlertReport {
    /// How many alerts were raised.
    pub raised: usize,
    /// Alerts whose queries could not be asked.
    pub failed: Vec<(TableName, Error)>,
    /// Why somebody could not be told; it waits.
    pub untold: Vec<Error>,
}

impl Workspace {
    /// What sends this project's notifications.
    ///
    /// # Errors
    /// Returns errors of the targets' configuration.
    pub fn outbox(&self) -> Result<Outbox> {
        let config = &self.project.config.config;
        let targets = config.notify.keys().map(|name| self.target(name)).collect::<Result<_>>()?;
        let give_up_after = i64::from(config.alerts.give_up_hours) * 3_600_000_000;
        Ok(Outbox::new(
            Arc::clone(&self.store),
            Arc::clone(&self.clock),
            targets,
            OutboxOptions { give_up_after },
        ))
    }

    /// The target of a name.
    ///
    /// # Errors
    /// Returns [`Code::TARGET_UNKNOWN`] when there is none, and errors of its configuration.
    pub fn target(&self, name: &str) -> Result<Target> {
        let targets = &self.project.config.config.notify;
        let config = targets.get(name).ok_or_else(|| unknown_target(name, targets.keys()))?;
        config.open(name, &|variable| (self.variable)(variable), &|| self.streams.log())
    }

    /// What targets lack where this runs: variables of the environment that are not set, streams that the project does not
    /// declare and that have to be made before.
    #[must_use]
    pub fn lacking_for_targets(&self) -> Vec<String> {
        let is_declared = |stream: &String| {
            let mut own = self.project.streams.values().filter_map(|declared| declared.body.own.as_ref());
            own.any(|own| own.name == *stream)
        };
        let lacking = self.project.config.config.notify.iter().filter_map(|(name, target)| {
            match target.stream.is_empty() {
                true => target.require_open(name, &|name| (self.variable)(name)).err().map(|error| error.message().to_owned()),
                false if is_declared(&target.stream) => None,
                false => Some(format!(
                    "notify.{name}: stream \"{stream}\" is not declared; unless it is there, `catchment stream create {stream}` makes it",
                    stream = target.stream
                )),
            }
        });
        lacking.collect()
    }

    /// Tells a target that it is reached, and waits until it has taken that.
    ///
    /// # Errors
    /// As [`Workspace::target`], and [`Code::NOTIFICATION_FAILED`] when it does not take it.
    pub async fn test_target(&self, name: &str) -> Result<Message> {
        let target = self.target(name)?;
        let message = self.test_message(name);
        target.send(&message, self.clock.now_micros()).await.map(|()| message)
    }

    /// The message that a target is tested with.
    #[must_use]
    pub fn test_message(&self, target: &str) -> Message {
        Message::of(&catchment_catalog::Alert {
            id: new_id(),
            alert: "test".to_owned(),
            severity: "test".to_owned(),
            key: "[]".to_owned(),
            record: serde_json::json!({ "target": target }).to_string(),
            raised_at: self.clock.now_micros(),
            resolved_at: None,
            repeats: 0,
        })
    }

    /// Lets notifications that were given up be sent again; gives how many.
    ///
    /// # Errors
    /// Returns errors of the catalog.
    pub fn retry_notifications(&self) -> Result<usize> {
        self.store.revive_notifications(self.clock.now_micros())
    }

    /// Asks the queries of all alerts once, and sends what is to be told.
    ///
    /// # Errors
    /// Returns errors of the catalog and of the targets' configuration; what one alert or target meets is in the report.
    pub async fn run_alerts(&self) -> Result<AlertReport> {
        self.forget_alerts()?;
        let mut report = AlertReport::default();
        for (name, alert) in &self.project.alerts {
            let asked = self.ask_alert(alert).await;
            match asked.and_then(|asked| self.enter(name, &alert.body, &asked)) {
                Ok(raised) => report.raised += raised,
                Err(error) => {
                    report.raised += self.enter_failure(name, &alert.body, &error)?;
                    report.failed.push((name.clone(), error));
                }
            }
        }
        if self.project.config.config.notify.is_empty() {
            return Ok(report);
        }
        let outbox = self.outbox()?;
        match tokio::time::timeout(FAREWELL, outbox.once()).await {
            Ok(told) => report.untold = told?,
            // What was not sent waits for the next run.
            Err(_) => tracing::warn!("not all notifications could be sent in time"),
        }
        Ok(report)
    }

    /// Asks the queries of all alerts as often as they say, and sends what is to be told, until `stop`. It begins when
    /// `is_current` says that all datasets were brought up to date: before, an alert of what is missing would be false.
    ///
    /// # Errors
    /// Returns errors of the targets' configuration.
    pub(crate) async fn keep_alerts(
        self: &Arc<Self>,
        told: &dyn Listener,
        mut is_current: watch::Receiver<bool>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        self.forget_alerts()?;
        let outbox = Arc::new(self.outbox()?);
        let sending = tokio::spawn(Arc::clone(&outbox).keep(stop.clone()));
        let is_current = async {
            let _ = is_current.wait_for(|is_current| *is_current).await;
        };
        tokio::select! {
            () = is_current => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        if !self.project.alerts.is_empty() {
            let readers = Readers::new("alerts");
            let asking = self
                .project
                .alerts
                .keys()
                .map(|name| self.keep_alert(name, &readers, &outbox, told, stop.clone()));
            futures::future::join_all(asking).await;
        }
        let _ = stop.wait_for(|stop| *stop).await;
        let _ = sending.await;
        Ok(())
    }

    async fn keep_alert(
        self: &Arc<Self>,
        name: &TableName,
        readers: &Readers,
        outbox: &Outbox,
        told: &dyn Listener,
        mut stop: watch::Receiver<bool>,
    ) {
        let Some(alert) = self.project.alerts.get(name) else { return };
        let mut last = String::new();
        let mut ticks = tokio::time::interval(Duration::from_micros(alert.body.every.unsigned_abs()));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let (workspace, of) = (Arc::clone(self), name.clone());
            let asking = Box::pin(async move {
                let alert = workspace.project.alerts.get(&of);
                match alert {
                    Some(alert) => workspace.ask_alert(alert).await,
                    None => Err(Error::new(Code::INTERNAL, format!("alert \"{of}\" is gone"))),
                }
            });
            let label = name.to_string();
            let asked = tokio::select! {
                asked = readers.ask(&label, asking) => asked,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match asked.and_then(|asked| self.enter(name, &alert.body, &asked)) {
                Ok(raised) => {
                    last.clear();
                    if raised > 0 {
                        outbox.wake();
                    }
                }
                // The same each second is told once.
                Err(error) if error.one_line() != last => {
                    last = error.one_line();
                    told.alert_failed(name, &error);
                    match self.enter_failure(name, &alert.body, &error) {
                        Ok(raised) if raised > 0 => outbox.wake(),
                        Ok(_) => {}
                        Err(error) => told.alert_failed(name, &error),
                    }
                }
                Err(_) => {}
            }
        }
    }

    /// Asks the query of an alert.
    async fn ask_alert(&self, alert: &Declared<AlertStatement>) -> Result<Asked> {
        let mut asked = Asked { rows: Vec::new(), is_whole: true, at: self.clock.now_micros() };
        let (planner, query) = Access::new(self).bind_query(&alert.text, &alert.body.query).await?;
        let logical = planner.plan(&alert.text, &query).await?;
        let mut stream = planner.run(planner.physical(&logical).await?)?;
        let mut keys = HashSet::new();
        while let Some(batch) = stream.try_next().await.map_err(query_error)? {
            for (key, record) in records(&batch, &alert.body.key)? {
                if asked.rows.len() == ROWS {
                    asked.is_whole = false;
                    return Ok(asked);
                }
                if keys.insert(key.clone()) {
                    asked.rows.push((key, record));
                }
            }
        }
        Ok(asked)
    }

    /// Enters what an alert's query has; gives how many alerts were raised.
    fn enter(&self, name: &TableName, alert: &AlertStatement, asked: &Asked) -> Result<usize> {
        let targets: Vec<String> = alert.targets.iter().map(|(name, _)| name.clone()).collect();
        let found = Evaluation {
            alert: &name.to_string(),
            severity: &alert.severity,
            targets: &targets,
            rows: &asked.rows,
            is_whole: asked.is_whole,
            most: ROWS,
            silence: alert.silence,
            at: asked.at,
        };
        let raised = self.store.evaluate_alert(&found, &new_id)?;
        if asked.is_whole {
            return Ok(raised);
        }
        let what =
            format!("alert \"{name}\" has more than {ROWS} rows; the others are told of when these are gone");
        Err(Error::new(Code::ALERT_MANY, what)
            .hint("an alert is for what somebody looks at: aggregate, or ask for less"))
    }

    /// Raises that an alert's query cannot be asked, since nobody would be told of anything until it can; ends with the next one
    /// that is answered. Gives how many alerts were raised.
    fn enter_failure(&self, name: &TableName, alert: &AlertStatement, error: &Error) -> Result<usize> {
        let targets: Vec<String> = alert.targets.iter().map(|(name, _)| name.clone()).collect();
        let record = serde_json::json!({ "cannot_be_asked": error.one_line() }).to_string();
        let found = Evaluation {
            alert: &name.to_string(),
            severity: &alert.severity,
            targets: &targets,
            rows: &[(FAILURE.to_owned(), record)],
            // What was there may be there still.
            is_whole: false,
            most: usize::MAX,
            silence: alert.silence,
            at: self.clock.now_micros(),
        };
        self.store.evaluate_alert(&found, &new_id)
    }

    /// Ends the alerts that the project does not declare any more, and gives up what waits for targets that it has not.
    fn forget_alerts(&self) -> Result<()> {
        let names: Vec<String> = self.project.alerts.keys().map(ToString::to_string).collect();
        let targets: Vec<String> = self.project.config.config.notify.keys().cloned().collect();
        self.store.forget_alerts(&names, &targets, self.clock.now_micros())
    }

    /// Checks an alert over the tables that a project declares.
    pub(crate) async fn check_alert(
        &self,
        alert: &Declared<AlertStatement>,
        schemas: &Schemas,
    ) -> Result<()> {
        let targets = &self.project.config.config.notify;
        let unknown = alert.body.targets.iter().filter(|(name, _)| !targets.contains_key(name));
        let at = |span| alert.text.place(span);
        Error::join(unknown.map(|(name, span)| unknown_target(name, targets.keys()).at(at(*span))))?;
        let plan = self.plan_over(&alert.text, &alert.body.query, schemas).await?;
        let columns: Vec<&str> = plan.schema().fields().iter().map(|field| field.name().as_str()).collect();
        for (name, span) in &alert.body.key {
            if !columns.contains(&name.as_str()) {
                let what = format!("the query has no column \"{name}\" for KEY");
                let error = Error::new(Code::COLUMN_UNKNOWN, what).at(at(*span));
                return Err(match nearest(name, &columns) {
                    Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                    None => error.hint(format!("columns: {}", columns.join(", "))),
                });
            }
        }
        Ok(())
    }
}

/// The row of an alert in words.
#[must_use]
pub fn alert_text(alert: &catchment_catalog::Alert) -> String {
    Message::of(alert).row_text()
}

/// Ids sort as alerts were raised.
fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

fn unknown_target<'n>(name: &str, known: impl Iterator<Item = &'n String>) -> Error {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let error = Error::new(Code::TARGET_UNKNOWN, format!("no target \"{name}\" for notifications"));
    match nearest(name, &known) {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint(format!("name it in catchment.toml: [notify.{name}] webhook = \"https://...\"")),
    }
}

/// What an alert's query has.
struct Asked {
    /// Keys and rows, as JSON.
    rows: Vec<(String, String)>,
    /// Whether these are all.
    is_whole: bool,
    at: i64,
}

/// Keys and rows of a batch, as JSON. Keys have their values as text: numbers keep all digits, and what JSON has no word for
/// is told apart. Values with parts are text as JSON has them.
fn records(rows: &RecordBatch, key: &[(String, Span)]) -> Result<Vec<(String, String)>> {
    let failed = |error: String| Error::new(Code::INTERNAL, "rows cannot be written as JSON").because(error);
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(rows).and_then(|()| writer.finish()).map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8(writer.into_inner()).map_err(|error| failed(error.to_string()))?;
    let schema = rows.schema();
    let columns: Vec<usize> = match key.is_empty() {
        true => (0..rows.num_columns()).collect(),
        false => key.iter().filter_map(|(name, _)| schema.index_of(name).ok()).collect(),
    };
    if columns.len() < key.len() {
        return Err(failed(format!("columns {:?} lack one of the key", schema.fields())));
    }
    let texts = columns.iter().map(|at| texts(rows, *at).map_err(|error| failed(error.to_string())));
    let texts: Vec<Vec<Option<String>>> = texts.collect::<Result<_>>()?;
    let key_of = |row: usize| {
        let values: Vec<Option<&String>> = texts.iter().map(|column| column[row].as_ref()).collect();
        serde_json::json!(values).to_string()
    };
    Ok(text.lines().enumerate().map(|(row, line)| (key_of(row), line.to_owned())).collect())
}

/// The values of a column as texts that differ when the values do.
fn texts(rows: &RecordBatch, at: usize) -> std::result::Result<Vec<Option<String>>, ArrowError> {
    let (column, schema) = (rows.column(at), rows.schema());
    let field = &schema.fields()[at];
    let mut texts = Vec::with_capacity(column.len());
    if field.data_type().is_nested() {
        let options = EncoderOptions::default().with_explicit_nulls(true);
        let mut encoder = make_encoder(field, column.as_ref(), &options)?;
        for row in 0..column.len() {
            let mut text = Vec::new();
            if !encoder.is_null(row) {
                encoder.encode(row, &mut text);
            }
            texts.push((!encoder.is_null(row)).then(|| String::from_utf8_lossy(&text).into_owned()));
        }
        return Ok(texts);
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
    texts.extend(
        (0..column.len()).map(|row| (!column.is_null(row)).then(|| formatter.value(row).to_string())),
    );
    Ok(texts)
}
