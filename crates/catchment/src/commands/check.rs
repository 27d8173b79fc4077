//! `catchment check`

use std::process::ExitCode;

use catchment_core::{Error, FlowName, Result};
use catchment_flows::{EventTime, FlowSpec, ServingStanding, held_rows};
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
    let mut checked = workspace.check().await;
    checked.errors.append(&mut checked.panels);
    let (mut waiting, mut serving, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    if checked.errors.is_empty() {
        // An edit may want other columns than the table has, and other rows than those that wait; a run would stop there.
        for dataset in checked.datasets.iter().filter(|dataset| dataset.kind == DatasetKind::StreamingTable) {
            let table = workspace.lake.table(&dataset.name);
            changed.extend(table.require_fit(&dataset.table).await.err());
        }
        for flow in flows_of(&checked.datasets).filter(|flow| !flow.windows.is_empty()) {
            match held_rows(&workspace.lake, flow).await {
                Ok(rows) => waiting.push((&flow.name, rows)),
                Err(error) => changed.push(error),
            }
        }
        for flow in flows_of(&checked.datasets).filter(|flow| flow.serving.is_some()) {
            match workspace.serving_standing(flow) {
                Ok(standing) => serving.extend(standing.map(|standing| (&flow.target, standing))),
                Err(error) => changed.push(error),
            }
        }
        Error::join(changed)?;
    }
    if screen.json {
        let datasets: Vec<Value> = checked.datasets.iter().map(dataset_json).collect();
        let held: Vec<Value> =
            waiting.iter().map(|(flow, rows)| json!({ "flow": flow, "rows": rows })).collect();
        let serving: Vec<Value> = serving
            .iter()
            .map(|(table, standing)| json!({ "table": table.to_string(), "rows": standing_word(*standing) }))
            .collect();
        screen.json(
            &json!({ "datasets": datasets, "held": held, "serving": serving, "errors": checked.errors.len() }),
        );
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
        for (flow, (input, event_time)) in windows_of(&checked.datasets) {
            screen.line(format!("{}: {}", flow.name, windows_text(input, event_time)));
        }
        for (flow, columns) in flows_of(&checked.datasets).flat_map(compared_with_all) {
            screen.line(format!(
                "{flow}: UNIQUE ({columns}) compares with all rows of the table, which become more; it remembers the stream's delay when its time is among the columns, or what WITHIN says"
            ));
        }
        for (flow, rows) in waiting.iter().filter(|(_, rows)| *rows > 0) {
            screen.line(format!("{flow}: {rows} rows wait for their windows, and are kept"));
        }
        for (table, standing) in serving {
            match standing {
                ServingStanding::Same => {}
                ServingStanding::Kept => screen.line(format!("{table}: changed, and goes on with its rows")),
                ServingStanding::Anew => {
                    screen.line(format!("{table}: changed, and is computed anew as a whole"))
                }
            }
        }
    }
    Error::join(checked.errors)?;
    Ok(ExitCode::SUCCESS)
}

/// What becomes of the rows of a serving table.
fn standing_word(standing: ServingStanding) -> &'static str {
    match standing {
        ServingStanding::Same => "same",
        ServingStanding::Kept => "kept",
        ServingStanding::Anew => "anew",
    }
}

fn flows_of(datasets: &[Dataset]) -> impl Iterator<Item = &FlowSpec> {
    datasets.iter().flat_map(|dataset| &dataset.flows)
}

/// What a flow over streams compares with all that its table has, with the flow's name.
fn compared_with_all(flow: &FlowSpec) -> Vec<(&FlowName, String)> {
    let is_of_stream =
        |name: &str| ["stream:", "kinesis:", "kafka:"].iter().any(|kind| name.starts_with(kind));
    let reads_streams = flow.inputs.iter().any(|input| is_of_stream(&input.name));
    let compared = flow.expectations.iter().filter(|_| reads_streams);
    let columns = compared.filter_map(|expectation| match expectation.rule.unique() {
        Some((columns, None)) => Some((&flow.name, columns.join(", "))),
        _ => None,
    });
    columns.collect()
}

/// The flows that put inputs into windows, with each of these.
fn windows_of(datasets: &[Dataset]) -> impl Iterator<Item = (&FlowSpec, (&String, &EventTime))> {
    flows_of(datasets).flat_map(|flow| flow.windows.iter().map(move |window| (flow, window)))
}

/// What a flow waits for.
fn windows_text(input: &str, event_time: &EventTime) -> String {
    let seconds = |micros: i64| format!("{} s", micros as f64 / 1e6);
    let idle = match event_time.idle {
        Some(idle) => format!(", a silent shard is idle after {}", seconds(idle)),
        None => String::new(),
    };
    let default = if event_time.defaulted { " (say otherwise with WATERMARK ... DELAY OF)" } else { "" };
    format!(
        "{} over {} of {input}; events may be {} late{idle}{default}",
        event_time.shape,
        event_time.time,
        seconds(event_time.delay)
    )
}

fn kind(dataset: &Dataset) -> &'static str {
    match dataset.kind {
        DatasetKind::StreamingTable => "streaming table",
        DatasetKind::MaterializedView => "materialized view",
        DatasetKind::ServingTable => "serving table",
    }
}

fn dataset_json(dataset: &Dataset) -> Value {
    let flows: Vec<Value> = dataset
        .flows
        .iter()
        .map(|flow| {
            let reads: Vec<_> = flow.inputs.iter().map(|input| &input.name).collect();
            let windows = flow.windows.iter().map(|(input, event_time)| {
                let delay = event_time.delay / 1_000;
                json!({ "input": input, "time": event_time.time.to_string(), "windows": event_time.shape.to_string(), "delay_milliseconds": delay })
            });
            json!({ "flow": flow.name, "reads": reads, "windows": windows.collect::<Vec<_>>() })
        })
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
