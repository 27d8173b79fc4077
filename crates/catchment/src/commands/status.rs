//! `catchment status`

use std::process::ExitCode;

use catchment_core::{Result, timestamp_text};
use serde_json::{Value, json};

use crate::arguments::{Arguments, ProjectArguments};
use crate::show::Screen;
use crate::wiring;

pub(crate) async fn run(
    arguments: &Arguments,
    command: &ProjectArguments,
    screen: Screen,
) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    let outcomes = workspace.store.outcomes()?;
    let batches = workspace.store.batches(usize::MAX)?;
    let mut rows = Vec::new();
    for name in workspace.project.datasets.keys() {
        // The newest run comes first.
        let last = outcomes.iter().find(|outcome| outcome.dataset == *name);
        let batch = batches.iter().find(|batch| batch.dataset == *name);
        let version = workspace.lake.table(name).latest().await?.map(|snapshot| snapshot.version());
        rows.push(json!({
            "dataset": name.to_string(),
            "status": last.map_or("never run", |outcome| outcome.status.as_str()),
            "version": version,
            "committed_at": batch.map(|batch| timestamp_text(batch.committed_at)),
            "error": last.and_then(|outcome| outcome.error.clone()),
        }));
    }
    if screen.json {
        screen.json(&json!({ "datasets": rows }));
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let head = ["DATASET", "STATUS", "VERSION", "LAST COMMIT", "ERROR"];
    let keys = ["dataset", "status", "version", "committed_at", "error"];
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| keys.iter().map(|key| text(&row[*key])).collect()).collect();
    screen.line(screen.table(&head, &cells, &[2]));
    Ok(ExitCode::SUCCESS)
}
