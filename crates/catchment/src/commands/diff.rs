//! `catchment diff`

use std::process::ExitCode;

use catchment_core::{Result, format_count};
use catchment_pipelines::{Diff, DiffOptions};
use serde_json::json;

use crate::arguments::{Arguments, DiffArguments};
use crate::show::Screen;
use crate::wiring;

pub(crate) async fn run(arguments: &Arguments, command: &DiffArguments, screen: Screen) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    let options = DiffOptions {
        dataset: command.dataset.clone(),
        before: command.before.clone(),
        after: command.after.clone(),
        key: command.key.clone(),
        samples: command.samples,
    };
    let diff = workspace.diff(&options).await?;
    if screen.json {
        screen.json(&json!(diff));
    } else {
        show(&diff, screen);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(diff: &Diff, screen: Screen) {
    let by = if diff.key.is_empty() { "whole rows".to_owned() } else { diff.key.join(", ") };
    screen.line(format!("version {} to version {}, by {by}", diff.versions.0, diff.versions.1));
    let counts = [diff.rows.0, diff.rows.1, diff.added, diff.removed, diff.changed];
    let row: Vec<String> = counts.iter().map(|count| format_count(*count)).collect();
    let head = ["ROWS BEFORE", "ROWS AFTER", "ADDED", "REMOVED", "CHANGED"];
    screen.line(screen.table(&head, &[row], &[0, 1, 2, 3, 4]));
    if !diff.columns.is_empty() {
        screen.note(format!("only one of them has columns {}", diff.columns.join(", ")));
    }
    if diff.samples.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = diff
        .samples
        .iter()
        .map(|sample| {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            vec![
                sample.change.clone(),
                sample.row.clone(),
                text(&sample.column),
                text(&sample.before),
                text(&sample.after),
            ]
        })
        .collect();
    screen.line("");
    screen.line(screen.table(&["CHANGE", "ROW", "COLUMN", "BEFORE", "AFTER"], &rows, &[]));
}
