//! `catchment check`

use std::process::ExitCode;

use catchment_core::{Error, FlowName, Result, TableName};
use catchment_flows::{EventTime, FlowSpec, Input, ServingStanding, held_rows};
use catchment_pipelines::{Checked, Dataset, DatasetKind, Workspace, select};
use serde_json::{Value, json};

use crate::arguments::{Arguments, CheckArguments};
use crate::show::Screen;
use crate::wiring;

pub(crate) async fn run(arguments: &Arguments, command: &CheckArguments, screen: Screen) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    let mut checked = workspace.check().await;
    checked.errors.append(&mut checked.panels);
    let mut findings = Findings::default();
    if checked.errors.is_empty() {
        let refreshed = match command.full_refresh {
            true => select(checked.datasets.clone(), &command.select)?,
            false => Vec::new(),
        };
        findings = Findings::of(&workspace, &checked.datasets, &refreshed).await?;
    }
    if screen.json {
        screen.json(&findings.json(&checked));
    } else if checked.errors.is_empty() {
        screen.line(graph(&checked.datasets, screen));
        findings.lines(&checked.datasets).iter().for_each(|line| screen.line(line));
    }
    Error::join(checked.errors)?;
    Ok(ExitCode::SUCCESS)
}

/// What becomes of what is kept, by how everything is defined now.
#[derive(Default)]
struct Findings {
    /// Rows that wait for their windows.
    waiting: Vec<(FlowName, u64)>,
    serving: Vec<(TableName, ServingStanding)>,
    /// What datasets are built from whose rebuild is asked for.
    rebuilt: Vec<(TableName, Vec<String>)>,
    /// What targets of alerts lack here.
    lacking: Vec<String>,
}

impl Findings {
    /// Refuses a definition that cannot go on with what is kept, unless it is built anew.
    async fn of(workspace: &Workspace, datasets: &[Dataset], refreshed: &[Dataset]) -> Result<Self> {
        let mut found = Self { lacking: workspace.lacking_for_targets(), ..Self::default() };
        let mut changed = Vec::new();
        let is_refreshed = |name: &str| refreshed.iter().any(|dataset| dataset.name.to_string() == name);
        let is_kept = |dataset: &&Dataset| !refreshed.iter().any(|other| other.name == dataset.name);
        for dataset in datasets.iter().filter(is_kept) {
            // An edit may want other columns than the table has, and other rows than those that wait; a run would stop there.
            if dataset.kind == DatasetKind::StreamingTable {
                let table = workspace.lake.table(&dataset.name);
                changed.extend(table.require_fit(&dataset.table).await.err());
            }
            for flow in &dataset.flows {
                if !flow.windows.is_empty() {
                    match held_rows(&workspace.lake, flow).await {
                        Ok(rows) => found.waiting.push((flow.name.clone(), rows)),
                        Err(error) => changed.push(error),
                    }
                }
                if flow.serving.is_some() {
                    match workspace.serving_standing(flow) {
                        Ok(standing) => {
                            found.serving.extend(standing.map(|standing| (flow.target.clone(), standing)))
                        }
                        Err(error) => changed.push(error),
                    }
                }
            }
        }
        for dataset in refreshed {
            let mut from = Vec::new();
            for input in dataset.flows.iter().flat_map(|flow| &flow.inputs) {
                from.push(match is_refreshed(&input.name) {
                    true => format!("{} as it is built anew", input.name),
                    false => input.begins().await,
                });
            }
            from.sort();
            from.dedup();
            found.rebuilt.push((dataset.name.clone(), from));
        }
        Error::join(changed)?;
        Ok(found)
    }

    fn json(&self, checked: &Checked) -> Value {
        let datasets: Vec<Value> = checked.datasets.iter().map(dataset_json).collect();
        let held = self.waiting.iter().map(|(flow, rows)| json!({ "flow": flow, "rows": rows }));
        let serving = self
            .serving
            .iter()
            .map(|(table, standing)| json!({ "table": table.to_string(), "rows": standing_word(*standing) }));
        let rebuilt = self
            .rebuilt
            .iter()
            .map(|(dataset, from)| json!({ "dataset": dataset.to_string(), "from": from }));
        json!({
            "datasets": datasets,
            "held": held.collect::<Vec<_>>(),
            "serving": serving.collect::<Vec<_>>(),
            "rebuilt": rebuilt.collect::<Vec<_>>(),
            "lacking": self.lacking,
            "errors": checked.errors.len(),
        })
    }

    fn lines(&self, datasets: &[Dataset]) -> Vec<String> {
        let mut lines = Vec::new();
        for (flow, (input, event_time)) in windows_of(datasets) {
            lines.push(format!("{}: {}", flow.name, windows_text(input, event_time)));
        }
        for (flow, columns) in flows_of(datasets).flat_map(compared_with_all) {
            lines.push(format!(
                "{flow}: UNIQUE ({columns}) compares with all rows of the table, which become more; it remembers the stream's delay when its time is among the columns, or what WITHIN says"
            ));
        }
        for (flow, rows) in self.waiting.iter().filter(|(_, rows)| *rows > 0) {
            lines.push(format!("{flow}: {rows} rows wait for their windows, and are kept"));
        }
        for (table, standing) in &self.serving {
            match standing {
                ServingStanding::Same => {}
                ServingStanding::Kept => lines.push(format!("{table}: changed, and goes on with its rows")),
                ServingStanding::Anew => {
                    lines.push(format!("{table}: changed, and is computed anew as a whole"))
                }
            }
        }
        for (dataset, from) in &self.rebuilt {
            let from = match from.is_empty() {
                true => "its query alone".to_owned(),
                false => from.join(", and from "),
            };
            lines.push(format!("{dataset}: a full refresh builds it from {from}"));
        }
        lines.extend(self.lacking.iter().cloned());
        lines
    }
}

/// The datasets and what they read.
fn graph(datasets: &[Dataset], screen: Screen) -> String {
    let reads = |dataset: &Dataset| {
        let inputs = dataset.flows.iter().flat_map(|flow| &flow.inputs);
        inputs.map(|input| input.name.clone()).collect::<Vec<_>>().join(", ")
    };
    let row = |dataset: &Dataset| vec![dataset.name.to_string(), kind(dataset).to_owned(), reads(dataset)];
    let rows: Vec<Vec<String>> = datasets.iter().map(row).collect();
    let count = if rows.len() == 1 { "1 dataset".to_owned() } else { format!("{} datasets", rows.len()) };
    format!("{}\n\n{count}, no errors", screen.table(&["DATASET", "KIND", "READS"], &rows, &[]))
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
    let reads_streams = flow.inputs.iter().any(Input::is_stream);
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
