//! `catchment check`

use std::process::ExitCode;

use catchment_core::{Error, Result};
use catchment_pipelines::{Dataset, DatasetKind};
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
    let checked = workspace.check().await;
    if screen.json {
        let datasets: Vec<Value> = checked.datasets.iter().map(dataset_json).collect();
        screen.json(&json!({ "datasets": datasets, "errors": checked.errors.len() }));
    } else if checked.errors.is_empty() {
        let rows: Vec<Vec<String>> = checked
            .datasets
            .iter()
            .map(|dataset| {
                let reads: Vec<String> = dataset
                    .flows
                    .iter()
                    .flat_map(|flow| &flow.inputs)
                    .map(|input| input.name.clone())
                    .collect();
                vec![dataset.name.to_string(), kind(dataset).to_owned(), reads.join(", ")]
            })
            .collect();
        screen.line(screen.table(&["DATASET", "KIND", "READS"], &rows, &[]));
        screen.line(format!("\n{} datasets, no errors", rows.len()));
    }
    Error::join(checked.errors)?;
    Ok(ExitCode::SUCCESS)
}

fn kind(dataset: &Dataset) -> &'static str {
    match dataset.kind {
        DatasetKind::StreamingTable => "streaming table",
        DatasetKind::MaterializedView => "materialized view",
    }
}

fn dataset_json(dataset: &Dataset) -> Value {
    let flows: Vec<Value> = dataset
        .flows
        .iter()
        .map(|flow| json!({ "flow": flow.name, "reads": flow.inputs.iter().map(|input| &input.name).collect::<Vec<_>>() }))
        .collect();
    let columns: Vec<Value> = dataset
        .table
        .schema
        .fields()
        .iter()
        .map(|field| json!({ "name": field.name(), "type": field.data_type().to_string() }))
        .collect();
    json!({ "dataset": dataset.name.to_string(), "kind": kind(dataset), "flows": flows, "columns": columns })
}
