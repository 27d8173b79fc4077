//! Traces of batches, as a collector reads them that nobody here wrote.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::project::{Done, Killed, Project, python, repository};

/// A collector.
struct Collector {
    _process: Killed,
    port: u16,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Collector {
    fn start() -> Option<Self> {
        let script = repository().join("crates/catchment/tests/oracle/otlp_collector.py");
        let mut process = Command::new(python()?).arg(script).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap().parse().unwrap();
        Some(Self { _process: Killed(process), port, lines })
    }

    /// The spans up to the one that ends a batch, which comes last.
    fn batch(&mut self) -> Vec<Value> {
        let mut spans: Vec<Value> = Vec::new();
        while spans.last().is_none_or(|span| span["name"] != "batch") {
            spans.push(serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap());
        }
        spans
    }
}

fn project() -> Project {
    let project =
        Project::new("CREATE STREAMING TABLE raw.t AS SELECT n FROM STREAM read_files('in/*.json');");
    project.write("in/a.json", "{\"n\": 1}\n{\"n\": 2}\n");
    project
}

fn run(project: &Project, port: u16, fault: Option<&str>) -> Done {
    let mut command = project.command(&["run"]);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"))
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
        .envs(fault.map(|fault| ("CATCHMENT_FAULT", fault)));
    command.output().unwrap().into()
}

#[test]
fn a_batch_is_a_span_and_its_parts_are_within() {
    let Some(mut collector) = Collector::start() else { return };
    let project = project();
    // The commit fails once, and is made at the second attempt.
    run(&project, collector.port, Some("staged-written:1:fail")).exits(0);
    let failed = collector.batch();
    assert_eq!((failed.len(), &failed[0]["status"]), (1, &json!(2)), "{failed:?}");
    assert_eq!(failed[0]["attributes"]["catchment.flow"], "raw.t");
    let spans = collector.batch();
    let batch = spans.last().unwrap();
    let attributes = &batch["attributes"];
    let version = project.query("SELECT max(version) AS v FROM system.flows WHERE dataset = 'raw.t'");
    assert_eq!(attributes["catchment.version"], version[0]["v"]);
    assert_eq!((&attributes["catchment.rows_in"], &attributes["catchment.rows_out"]), (&json!(2), &json!(2)));
    assert_eq!((&batch["service"], &batch["key"]), (&json!("catchment"), &json!("secret")));
    assert_eq!((&batch["path"], &batch["parent"]), (&json!("/v1/traces"), &json!("")));
    // A batch that was staged is only published: what is there is told.
    let names: Vec<&str> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names.last(), Some(&"batch"));
    let mut at = batch["start"].as_u64().unwrap();
    for part in &spans[..spans.len() - 1] {
        assert_eq!((&part["parent"], &part["trace"]), (&batch["span"], &batch["trace"]));
        assert_eq!(part["start"].as_u64().unwrap(), at);
        at = part["end"].as_u64().unwrap();
    }
    assert_eq!(batch["end"].as_u64().unwrap(), at);
    project.write("in/b.json", "{\"n\": 3}\n");
    run(&project, collector.port, None).exits(0);
    let names: Vec<Value> = collector.batch().iter().map(|span| span["name"].clone()).collect();
    assert_eq!(names, ["plan", "stage", "publish", "batch"]);
}

#[test]
fn a_collector_that_is_not_there_holds_nothing_up() {
    let project = project();
    // A port that nobody listens on any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let done = run(&project, port, None).exits(0);
    assert!(done.err.to_lowercase().contains("opentelemetry"), "{}", done.err);
    assert!(!done.err.contains("secret"), "{}", done.err);
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t")[0]["n"], 2);
}
