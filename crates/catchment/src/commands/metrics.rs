//! What `catchment serve` tells to Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use catchment_core::{Error, Result};
use catchment_flows::{InputState, Phase, Phases, WindowState};
use catchment_pipelines::{Dataset, OpenLog, RunReport, Workspace};

/// What runs did so far, by dataset.
#[derive(Default)]
pub(crate) struct Totals {
    datasets: Mutex<BTreeMap<String, Total>>,
    /// Runs that failed as a whole.
    failures: AtomicU64,
}

#[derive(Default, Clone, Copy)]
struct Total {
    rows: u64,
    quarantined: u64,
    failures: u64,
    batches: u64,
    phases: Phases,
    /// How long the last run that did something took.
    milliseconds: u64,
}

impl Totals {
    /// Rows and failures of a dataset since the service began.
    pub(crate) fn counts(&self, dataset: &str) -> Option<(u64, u64)> {
        let totals = self.datasets.lock().unwrap_or_else(PoisonError::into_inner);
        totals.get(dataset).map(|total| (total.rows, total.failures))
    }

    pub(crate) fn add(&self, result: Result<&RunReport, &Error>) {
        let Ok(report) = result else {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut totals = self.datasets.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in &report.datasets {
            let total = totals.entry(outcome.dataset.to_string()).or_default();
            total.rows += outcome.rows_out;
            total.quarantined += outcome.quarantined;
            total.failures += u64::from(report.errors.iter().any(|(dataset, _)| *dataset == outcome.dataset));
            if outcome.rows_in > 0 {
                total.milliseconds = outcome.milliseconds;
            }
        }
        for (dataset, batches, phases) in &report.phases {
            let total = totals.entry(dataset.to_string()).or_default();
            total.batches += batches;
            total.phases.add(phases);
        }
    }
}

/// One kind of measure: its name, what it is, its type.
fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a text does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// All measures as Prometheus reads them.
pub(crate) async fn measures(workspace: &Workspace, datasets: &[Dataset], totals: &Totals) -> String {
    let mut text = String::new();
    let failures = totals.failures.load(Ordering::Relaxed);
    head(
        &mut text,
        "catchment_run_failures_total",
        "Runs that failed as a whole since the start.",
        "counter",
    );
    let _ = writeln!(text, "catchment_run_failures_total {failures}");
    let totals = totals.datasets.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut of_datasets = |name: &str, help: &str, kind: &str, value: fn(&Total) -> u64| {
        head(&mut text, name, help, kind);
        for (dataset, total) in &totals {
            let _ = writeln!(text, "{name}{{dataset=\"{dataset}\"}} {}", value(total));
        }
    };
    of_datasets("catchment_dataset_rows_total", "Rows published since the start.", "counter", |total| {
        total.rows
    });
    of_datasets(
        "catchment_dataset_quarantined_total",
        "Rows and files put into quarantine since the start.",
        "counter",
        |total| total.quarantined,
    );
    of_datasets(
        "catchment_dataset_failures_total",
        "Runs that failed since the start.",
        "counter",
        |total| total.failures,
    );
    of_datasets(
        "catchment_dataset_run_milliseconds",
        "Time of the last run that read something.",
        "gauge",
        |total| total.milliseconds,
    );
    of_datasets(
        "catchment_dataset_batches_total",
        "Batches published since the start.",
        "counter",
        |total| total.batches,
    );
    let name = "catchment_dataset_phase_seconds_total";
    head(&mut text, name, "Time that batches took since the start, by what it was spent on.", "counter");
    for (dataset, total) in &totals {
        for phase in Phase::ALL {
            let seconds = total.phases.of(phase).as_secs_f64();
            let _ = writeln!(text, "{name}{{dataset=\"{dataset}\",phase=\"{}\"}} {seconds}", phase.name());
        }
    }
    if let Ok(log) = workspace.streams.log() {
        head(&mut text, "catchment_stream_bytes", "Bytes of a stream on disk.", "gauge");
        for stream in log.streams() {
            let _ = writeln!(
                text,
                "catchment_stream_bytes{{stream=\"{}\"}} {}",
                stream.state().name,
                stream.bytes()
            );
        }
        head(&mut text, "catchment_stream_records_total", "Records that a shard has taken.", "counter");
        for stream in log.streams() {
            let state = stream.state();
            for shard in &state.shards {
                let count = stream.head(shard.id).saturating_sub(1);
                let _ = writeln!(
                    text,
                    "catchment_stream_records_total{{stream=\"{}\",shard=\"{}\"}} {count}",
                    state.name, shard.id
                );
            }
        }
    }
    match workspace.lags(datasets).await {
        Ok(lags) => {
            for (name, help) in [
                ("catchment_flow_lag_records", "Records of a shard that a flow has not published."),
                (
                    "catchment_flow_lag_milliseconds",
                    "How long the oldest record waits that a flow has not published.",
                ),
            ] {
                head(&mut text, name, help, "gauge");
                for lag in &lags {
                    let value = if name.ends_with("records") {
                        i64::try_from(lag.records).unwrap_or(i64::MAX)
                    } else {
                        lag.milliseconds
                    };
                    let _ = writeln!(
                        text,
                        "{name}{{flow=\"{}\",stream=\"{}\",shard=\"{}\"}} {value}",
                        lag.flow, lag.stream, lag.shard
                    );
                }
            }
        }
        Err(error) => tracing::warn!(error = %error.one_line(), "lags cannot be told"),
    }
    windows(&mut text, workspace, datasets).await;
    match workspace.serving_bytes(datasets) {
        Ok(sizes) => {
            let name = "catchment_serving_bytes";
            head(
                &mut text,
                name,
                "Bytes of a serving table on disk, with the states of its groups.",
                "gauge",
            );
            for (table, bytes) in sizes {
                let _ = writeln!(text, "{name}{{table=\"{table}\"}} {bytes}");
            }
        }
        Err(error) => tracing::warn!(error = %error.one_line(), "sizes of serving tables cannot be told"),
    }
    text
}

/// How far the event time of flows with windows has come, and what they hold.
async fn windows(text: &mut String, workspace: &Workspace, datasets: &[Dataset]) {
    let states = match workspace.window_states(datasets).await {
        Ok(states) => states,
        Err(error) => {
            tracing::warn!(error = %error.one_line(), "the time of windows cannot be told");
            return;
        }
    };
    type Value = fn(&WindowState) -> Option<f64>;
    let inputs =
        |state: &WindowState, of: fn(&InputState) -> u64| state.inputs.values().map(of).sum::<u64>() as f64;
    let measures: [(&str, &str, &str, Value); 3] = [
        (
            "catchment_flow_late_rows_total",
            "Rows that came when all of their windows were closed.",
            "counter",
            |state| Some(state.late as f64),
        ),
        (
            "catchment_flow_watermark_seconds",
            "Windows that end here or before are closed, in seconds since the Unix epoch.",
            "gauge",
            |state| state.watermark.map(|micros| micros as f64 / 1e6),
        ),
        (
            "catchment_flow_open_windows",
            "Windows that rows wait for, those of all keys that are of one time counted once.",
            "gauge",
            |state| {
                state.inputs.values().filter_map(|input| input.open_windows).max().map(|open| open as f64)
            },
        ),
    ];
    for (name, help, kind, value) in measures {
        head(text, name, help, kind);
        for (flow, state) in &states {
            if let Some(value) = value(state) {
                let _ = writeln!(text, "{name}{{flow=\"{flow}\"}} {value}");
            }
        }
    }
    for (name, help, of) in [
        (
            "catchment_flow_held_rows",
            "Rows that wait for their windows to close.",
            InputState::rows as fn(&InputState) -> u64,
        ),
        ("catchment_flow_held_bytes", "The size of the rows that wait for their windows.", InputState::bytes),
    ] {
        head(text, name, help, "gauge");
        for (flow, state) in &states {
            let _ = writeln!(text, "{name}{{flow=\"{flow}\"}} {}", inputs(state, of));
        }
    }
}
