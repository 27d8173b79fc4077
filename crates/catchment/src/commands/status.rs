//! `catchment status`

use std::collections::BTreeMap;
use std::process::ExitCode;

use catchment_core::{Code, Result, timestamp_text};
use catchment_pipelines::{DatasetKind, Workspace};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{TimestampMicrosecondType, UInt64Type};
use serde_json::{Value, json};

use crate::arguments::{Arguments, ProjectArguments};
use crate::commands::sql;
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
    let served = serving_batches(&workspace).await?;
    let mut rows = Vec::new();
    for name in workspace.project.datasets.keys() {
        // The newest run comes first.
        let last = outcomes.iter().find(|outcome| outcome.dataset == *name);
        let batch = batches.iter().find(|batch| batch.dataset == *name);
        let version = workspace.lake.table(name).latest().await?.map(|snapshot| snapshot.version());
        // A service keeps serving tables up to date by themselves, and not in runs.
        let served = served.get(&name.to_string());
        let status = if served.is_some() { "updated" } else { "never run" };
        let committed = batch.map(|batch| batch.committed_at).or(served.map(|(_, planned_at)| *planned_at));
        rows.push(json!({
            "dataset": name.to_string(),
            "status": last.map_or(status, |outcome| outcome.status.as_str()),
            "version": version.or(served.map(|(number, _)| *number)),
            "committed_at": committed.map(timestamp_text),
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

/// The number of the last batch of each serving table, and when it was planned, by the table's name.
async fn serving_batches(workspace: &Workspace) -> Result<BTreeMap<String, (u64, i64)>> {
    let mut batches = BTreeMap::new();
    let mut datasets = workspace.project.datasets.values();
    if !datasets.any(|declared| declared.body.kind == DatasetKind::ServingTable) {
        return Ok(batches);
    }
    let told = sql::rows_of(workspace, "SELECT dataset, batch, planned_at FROM system.serving_tables").await;
    let rows = match told {
        // A run has them, and nobody can be asked.
        Err(error) if error.code() == Code::SERVING_OWNED => return Ok(batches),
        rows => rows?,
    };
    for rows in &rows {
        let (names, numbers) =
            (rows.column(0).as_string::<i32>(), rows.column(1).as_primitive::<UInt64Type>());
        let times = rows.column(2).as_primitive::<TimestampMicrosecondType>();
        batches.extend(
            (0..rows.num_rows())
                .map(|row| (names.value(row).to_owned(), (numbers.value(row), times.value(row)))),
        );
    }
    Ok(batches)
}
