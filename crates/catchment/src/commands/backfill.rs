//! `catchment backfill`

use std::process::ExitCode;
use std::sync::Arc;

use catchment_core::{Code, Error, Result, format_bytes, format_count};
use catchment_flows::Progress;
use catchment_pipelines::{
    Backfill, BackfillOptions, BackfillReport, BackfillStep, Partitions, Step, TimeRange, Workspace,
};
use serde_json::{Value, json};

use crate::arguments::{Arguments, BackfillArguments};
use crate::commands::run::{Lines, show, to_json};
use crate::show::Screen;
use crate::wiring;

pub(crate) async fn run(
    arguments: &Arguments,
    command: &BackfillArguments,
    screen: Screen,
) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    if command.cancel {
        cancelled(workspace.cancel_backfill().await?.as_ref(), screen);
        return Ok(ExitCode::SUCCESS);
    }
    let partitions = match (&command.from, &command.to, &command.condition) {
        (Some(from), Some(to), _) => {
            let step = command.step.as_deref().map(Step::parse).transpose()?;
            Partitions::Range(TimeRange::parse(from, to)?, step)
        }
        (_, _, Some(condition)) => Partitions::Where(condition.clone()),
        _ => Partitions::All,
    };
    let options = BackfillOptions {
        datasets: command.datasets.clone(),
        partitions,
        cascade: command.cascade,
        settle: command.settle,
        dry_run: command.dry_run,
    };
    fill(&workspace, &options, screen).await
}

/// Says what became of a backfill that was given up.
fn cancelled(backfill: Option<&Backfill>, screen: Screen) {
    if screen.json {
        screen.json(&json!({ "cancelled": backfill.is_some(), "left": backfill.map(steps) }));
        return;
    }
    let Some(backfill) = backfill else {
        screen.line("There is no unfinished backfill.");
        return;
    };
    screen.line("The backfill is given up; what it published stays.");
    for step in &backfill.steps {
        screen.note(format!("{} was not computed anew where {}", step.dataset, step.left.join(" or ")));
    }
}

/// Does a backfill, and shows what it did.
pub(crate) async fn fill(
    workspace: &Workspace,
    options: &BackfillOptions,
    screen: Screen,
) -> Result<ExitCode> {
    let progress = Arc::new(Lines::new(screen));
    let report = workspace.backfill(options, Arc::clone(&progress) as Arc<dyn Progress>).await;
    progress.clear();
    let BackfillReport { backfill, run, unfinished } = report?;
    if screen.json {
        screen.json(&json!({ "steps": steps(&backfill), "run": run.as_ref().map(to_json) }));
    } else if run.is_none() {
        let rows: Vec<Vec<String>> = backfill.steps.iter().map(line).collect();
        let head = ["DATASET", "PARTITIONS", "FILES", "ROWS", "BYTES", "COMMITS", "BECAUSE"];
        screen.line(screen.table(&head, &rows, &[1, 2, 3, 4, 5]));
    }
    match run {
        Some(run) if screen.json => Ok(crate::commands::run::code(&run)),
        Some(run) => {
            let code = show(&run, screen);
            if !run.errors.is_empty() {
                screen.note(match unfinished {
                    true => "\n`catchment run` goes on with what is left.",
                    false => "\nNothing was published.",
                });
            }
            Ok(code)
        }
        None if options.dry_run => Ok(ExitCode::SUCCESS),
        None => {
            let others = backfill.steps.iter().filter(|step| step.because_of.is_some());
            let others: Vec<String> = others.map(|step| step.dataset.to_string()).collect();
            Err(Error::new(
                Code::CASCADE_NEEDED,
                format!("nothing was done: {} would have to be computed anew with it", others.join(", ")),
            )
            .hint("add --cascade to compute all of them anew"))
        }
    }
}

fn line(step: &BackfillStep) -> Vec<String> {
    vec![
        step.dataset.to_string(),
        format_count(step.partitions),
        format_count(step.files),
        step.rows.map_or_else(|| "?".to_owned(), format_count),
        format_bytes(step.bytes),
        format_count(step.left.len() as u64),
        match &step.because_of {
            Some(dataset) => format!("it reads {dataset}"),
            None => "asked for".to_owned(),
        },
    ]
}

fn steps(backfill: &Backfill) -> Vec<Value> {
    let steps = backfill.steps.iter().map(|step| {
        json!({
            "dataset": step.dataset.to_string(),
            "because_of": step.because_of.as_ref().map(ToString::to_string),
            "where": step.within, "commits": step.left,
            "partitions": step.partitions, "files": step.files, "rows": step.rows, "bytes": step.bytes,
        })
    });
    steps.collect()
}
