//! `catchment run`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catchment_catalog::{BatchRecord, DatasetStatus, RunStatus};
use catchment_core::{Error, FlowName, Result, format_count};
use catchment_flows::{Phases, Progress};
use catchment_pipelines::{RunOptions, RunReport, TimeRange};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::arguments::{Arguments, ReplayArguments, RunArguments};
use crate::show::Screen;
use crate::traces;
use crate::wiring;

/// The exit code when all ran but something sits in quarantine.
const QUARANTINED: u8 = 2;

pub(crate) async fn run(arguments: &Arguments, command: &RunArguments, screen: Screen) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    let options = RunOptions { select: command.select.clone(), full_refresh: command.full_refresh };
    if let (Some(from), Some(to)) = (&command.from, &command.to) {
        let range = TimeRange::parse(from, to)?;
        let progress = Arc::new(Lines::new(screen));
        let report = workspace.run_range(&options, range, Arc::clone(&progress) as Arc<dyn Progress>).await;
        progress.clear();
        return Ok(show(&report?, screen));
    }
    let progress = Arc::new(Lines::new(screen));
    let report = workspace.run(&options, Arc::clone(&progress) as Arc<dyn Progress>).await;
    progress.clear();
    let code = show(&report?, screen);
    let alerts = workspace.run_alerts().await?;
    if alerts.raised > 0 && !screen.json {
        screen.note(format!("\n{} alerts raised: SELECT * FROM system.alerts", alerts.raised));
    }
    for (name, error) in &alerts.failed {
        screen.note(format!("\nalert {name} failed\n{}", screen.error_text(error)));
    }
    for error in &alerts.untold {
        screen.note(format!("\nnotifications wait for the next run: {}", error.one_line()));
    }
    Ok(if alerts.failed.is_empty() { code } else { ExitCode::from(1) })
}

/// `catchment replay`
pub(crate) async fn replay(
    arguments: &Arguments,
    command: &ReplayArguments,
    screen: Screen,
) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    let progress = Arc::new(Lines::new(screen));
    let report = workspace.replay(&command.dataset, Arc::clone(&progress) as Arc<dyn Progress>).await;
    progress.clear();
    Ok(show(&report?, screen))
}

/// Shows what a run did, and says how the program ends.
pub(crate) fn show(report: &RunReport, screen: Screen) -> ExitCode {
    if screen.json {
        screen.json(&to_json(report));
    } else {
        show_table(report, screen);
    }
    code(report)
}

pub(crate) fn code(report: &RunReport) -> ExitCode {
    match report.status() {
        RunStatus::Failed => ExitCode::from(1),
        RunStatus::Quarantined => ExitCode::from(QUARANTINED),
        RunStatus::Succeeded | RunStatus::Running => ExitCode::SUCCESS,
    }
}

/// A line per dataset: living ones on a terminal, plain ones elsewhere.
pub(crate) struct Lines {
    screen: Screen,
    all: MultiProgress,
    bars: Mutex<BTreeMap<String, (ProgressBar, u64)>>,
}

impl Lines {
    pub(crate) fn new(screen: Screen) -> Self {
        Self { screen, all: MultiProgress::new(), bars: Mutex::default() }
    }

    pub(crate) fn clear(&self) {
        let _ = self.all.clear();
    }

    fn with_bar(&self, name: &str, change: impl FnOnce(&ProgressBar, &mut u64)) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let (bar, rows) = bars.entry(name.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix:28} {msg}  {elapsed}") {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            (bar, 0)
        });
        change(bar, rows);
    }
}

impl Progress for Lines {
    fn published(&self, batch: &BatchRecord, took: &Phases) {
        traces::published(batch, took);
        if self.screen.is_watched() {
            self.with_bar(batch.flow.as_str(), |bar, rows| {
                *rows += batch.rows_out;
                bar.set_message(format!("{} rows, batch {}", format_count(*rows), batch.position));
            });
        } else if !self.screen.json {
            let what =
                format!("{} batch {}: {} rows", batch.flow, batch.position, format_count(batch.rows_out));
            self.screen.line(format!("published {what}, version {}", batch.version));
        }
    }

    fn retrying(&self, flow: &FlowName, error: &Error) {
        traces::retrying(flow, error);
        if self.screen.is_watched() {
            self.with_bar(flow.as_str(), |bar, _| {
                bar.set_message(format!("trying again: {}", error.message()))
            });
        } else if !self.screen.json {
            self.screen.note(format!("{flow} is tried again: {}", error.one_line()));
        }
    }
}

fn show_table(report: &RunReport, screen: Screen) {
    let rows: Vec<Vec<String>> = report
        .datasets
        .iter()
        .map(|dataset| {
            vec![
                dataset.dataset.to_string(),
                dataset.status.to_string(),
                format_count(dataset.rows_in),
                format_count(dataset.rows_out),
                format_count(dataset.dropped),
                format_count(dataset.quarantined),
                dataset.version.map_or_else(|| "-".to_owned(), |version| version.to_string()),
                format!("{:.1}", dataset.milliseconds as f64 / 1_000.0),
            ]
        })
        .collect();
    let head = ["DATASET", "STATUS", "ROWS IN", "ROWS OUT", "DROPPED", "QUARANTINED", "VERSION", "SECONDS"];
    screen.line("");
    let table = screen.table(&head, &rows, &[2, 3, 4, 5, 6, 7]);
    let mut lines = table.lines();
    screen.line(lines.next().unwrap_or_default());
    for (line, dataset) in lines.zip(&report.datasets) {
        let style = match dataset.status {
            DatasetStatus::Updated => "32",
            DatasetStatus::UpToDate => "2",
            DatasetStatus::Failed => "31;1",
            DatasetStatus::Skipped => "33",
        };
        let status = dataset.status.as_str();
        screen.line(line.replacen(&format!(" {status} "), &format!(" {} ", screen.paint(status, style)), 1));
    }
    for (dataset, error) in &report.errors {
        screen.note(format!("\n{dataset} failed"));
        screen.note(screen.error_text(error));
    }
    for outcome in report.datasets.iter().filter(|outcome| outcome.status == DatasetStatus::Skipped) {
        screen.note(format!(
            "\n{} was skipped: {}",
            outcome.dataset,
            outcome.error.as_deref().unwrap_or_default()
        ));
    }
    for (dataset, path, reason) in &report.broken {
        screen.note(format!("\nC3001: {dataset} could not read file \"{path}\": {reason}"));
    }
    for (dataset, path) in &report.changed {
        screen.note(format!(
            "\nC3004: {dataset} does not read file \"{path}\" again, which changed after it was read"
        ));
    }
    let counted = report.datasets.iter().filter(|outcome| outcome.quarantined > 0);
    for outcome in counted {
        let quarantine = outcome.dataset.quarantine();
        screen.note(format!(
            "\n{} rows or files in quarantine: SELECT * FROM {quarantine}",
            outcome.quarantined
        ));
    }
    screen.line(format!("\n{}", summary(report)));
}

fn summary(report: &RunReport) -> String {
    let count = |status| report.datasets.iter().filter(|outcome| outcome.status == status).count();
    let parts: Vec<String> =
        [DatasetStatus::Updated, DatasetStatus::UpToDate, DatasetStatus::Failed, DatasetStatus::Skipped]
            .into_iter()
            .filter(|status| count(*status) > 0)
            .map(|status| format!("{} {status}", count(status)))
            .collect();
    let micros = report.run.finished_at.unwrap_or(report.run.started_at) - report.run.started_at;
    format!(
        "{} in {:.1} s",
        if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") },
        micros as f64 / 1e6
    )
}

pub(crate) fn to_json(report: &RunReport) -> Value {
    let broken: Vec<_> = report
        .broken
        .iter()
        .map(|(dataset, path, reason)| json!({ "dataset": dataset.to_string(), "path": path, "reason": reason }))
        .collect();
    let changed: Vec<_> = report
        .changed
        .iter()
        .map(|(dataset, path)| json!({ "dataset": dataset.to_string(), "path": path }))
        .collect();
    json!({ "run": report.run, "datasets": report.datasets, "broken_files": broken, "changed_files": changed })
}
