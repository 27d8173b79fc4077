//! `catchment rollback`

use std::process::ExitCode;

use catchment_core::{Code, Error, Result, format_bytes, format_count};
use catchment_flows::{RollbackStep, TableStep};
use catchment_pipelines::{RollbackOptions, RollbackReport, Workspace};
use serde_json::json;

use crate::arguments::{Arguments, RollbackArguments};
use crate::show::Screen;
use crate::wiring;

pub(crate) async fn run(
    arguments: &Arguments,
    command: &RollbackArguments,
    screen: Screen,
) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    let options = RollbackOptions {
        datasets: command.datasets.clone(),
        to: command.to.clone(),
        cascade: command.cascade,
        dry_run: command.dry_run,
    };
    roll_back(&workspace, &options, screen).await?;
    Ok(ExitCode::SUCCESS)
}

/// Does a rollback, and shows what it did.
pub(crate) async fn roll_back(
    workspace: &Workspace,
    options: &RollbackOptions,
    screen: Screen,
) -> Result<()> {
    let report = workspace.rollback(options).await?;
    if screen.json {
        show_json(&report, screen);
    } else {
        show(&report, screen);
    }
    if report.done || report.rollback.steps.is_empty() || options.dry_run {
        return Ok(());
    }
    let others: Vec<String> = steps_of_others(&report).map(|step| step.dataset.to_string()).collect();
    Err(Error::new(
        Code::CASCADE_NEEDED,
        format!("nothing was done: {} would have to go back with it", others.join(", ")),
    )
    .hint("add --cascade to take all of them back"))
}

fn steps_of_others(report: &RollbackReport) -> impl Iterator<Item = &RollbackStep> {
    report.rollback.steps.iter().filter(|step| step.because_of.is_some())
}

fn show(report: &RollbackReport, screen: Screen) {
    if report.rollback.steps.is_empty() {
        screen.line("nothing to take back");
        return;
    }
    let rows: Vec<Vec<String>> = report
        .rollback
        .steps
        .iter()
        .flat_map(|step| step.tables.iter().map(move |table| (step, table)))
        .map(|(step, table)| line(step, table))
        .collect();
    let head = ["TABLE", "VERSION", "BECOMES", "ROWS", "BECOME", "BYTES", "BECOME", "BECAUSE"];
    screen.line(screen.table(&head, &rows, &[1, 2, 3, 4, 5, 6]));
    let files: usize = report.rollback.steps.iter().map(|step| step.files).sum();
    if files > 0 {
        screen.line(format!("The next run reads {} files again.", format_count(files as u64)));
    }
    for path in report.rollback.steps.iter().flat_map(|step| &step.changed) {
        screen.note(format!(
            "file \"{path}\" changed since it was read: what it holds now is going to be read"
        ));
    }
    if report.done {
        screen.line("Done. `catchment run` brings the datasets up to date again.");
    }
}

fn line(step: &RollbackStep, table: &TableStep) -> Vec<String> {
    let count = |rows: Option<u64>| rows.map_or_else(|| "?".to_owned(), format_count);
    vec![
        table.table.to_string(),
        table.from.to_string(),
        table.to.map_or_else(|| "empty".to_owned(), |version| format!("as {version}")),
        count(table.rows.0),
        count(table.rows.1),
        format_bytes(table.bytes.0),
        format_bytes(table.bytes.1),
        match &step.because_of {
            Some(dataset) => format!("it read {dataset}"),
            None => "asked for".to_owned(),
        },
    ]
}

fn show_json(report: &RollbackReport, screen: Screen) {
    let steps: Vec<_> = report
        .rollback
        .steps
        .iter()
        .map(|step| {
            json!({
                "dataset": step.dataset.to_string(),
                "because_of": step.because_of.as_ref().map(ToString::to_string),
                "tables": step.tables.iter().map(|table| json!({
                    "table": table.table.to_string(), "from": table.from, "to": table.to,
                    "rows_before": table.rows.0, "rows_after": table.rows.1,
                    "bytes_before": table.bytes.0, "bytes_after": table.bytes.1,
                })).collect::<Vec<_>>(),
                "files_read_again": step.files,
                "files_changed": step.changed,
            })
        })
        .collect();
    screen.json(&json!({ "done": report.done, "steps": steps }));
}
