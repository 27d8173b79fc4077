//! `catchment history`

use std::process::ExitCode;

use catchment_core::{Code, Error, Result, TableName};
use catchment_pipelines::{Access, HistoryRow};
use serde_json::json;

use crate::arguments::{Arguments, HistoryArguments};
use crate::show::Screen;
use crate::wiring;

pub(crate) async fn run(
    arguments: &Arguments,
    command: &HistoryArguments,
    screen: Screen,
) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    let schema = &workspace.project.config.config.project.schema;
    let name = TableName::parse(&command.table, schema)
        .ok_or_else(|| Error::new(Code::NAME_INVALID, format!("{:?} is not schema.table", command.table)))?;
    let rows = Access::new(&workspace).history(&name, command.limit).await?;
    show(&rows, screen);
    Ok(ExitCode::SUCCESS)
}

/// Shows the versions of a table.
pub(crate) fn show(rows: &[HistoryRow], screen: Screen) {
    if screen.json {
        screen.json(&json!(rows));
        return;
    }
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.version.to_string(),
                row.timestamp.clone(),
                row.operation.clone(),
                dash(row.flow.clone()),
                dash(row.batch.clone()),
                dash(row.rows.map(|rows| rows.to_string())),
                row.files_added.to_string(),
                row.files_removed.to_string(),
            ]
        })
        .collect();
    let head = ["VERSION", "TIMESTAMP", "OPERATION", "FLOW", "BATCH", "ROWS", "ADDED", "REMOVED"];
    screen.line(screen.table(&head, &cells, &[0, 5, 6, 7]));
}
