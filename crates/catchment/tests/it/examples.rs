//! The examples, run as the README says, checked against another engine.

use std::path::Path;

use crate::project::{Project, dataset, oracle, python};

/// Moves the flights of the last days of January out of a copy of the example.
fn without_last_days(project: &Project) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let folder = project.path().join("data/flights");
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap() > "2013-01-25" {
            kept.push((path.clone(), std::fs::read(&path).unwrap()));
            std::fs::remove_file(&path).unwrap();
        }
    }
    assert_eq!(kept.len(), 7);
    kept
}

fn agrees_with_duckdb(python: &Path, project: &Project) {
    let out = oracle(python, "lakehouse.py", &[project.path().to_str().unwrap()]);
    assert_eq!(out.lines().count(), 19, "{out}");
}

#[test]
fn the_lakehouse_is_what_duckdb_makes_of_the_same_files() {
    let project = Project::copy_of("examples/lakehouse");
    let last = without_last_days(&project);
    // What is planted in the reports sits in quarantine, and the run says so.
    let first = project.call(&["run", "--json"]).exits(2).json();
    assert_eq!(first["run"]["status"], "quarantined");
    assert_eq!(first["broken_files"][0]["path"], "data/reports/2013-01-04.jsonl.gz");
    let counts = project.query(
        "SELECT expectation, CAST(failed AS INT) AS failed FROM system.expectations WHERE dataset = 'curated.reports' ORDER BY 1",
    );
    let count = |name: &str| {
        counts.as_array().unwrap().iter().find(|row| row["expectation"] == name).unwrap()["failed"].clone()
    };
    let found = ["has_carrier", "known_airline", "severity_in_range", "plausible_delay", "once"].map(count);
    assert_eq!(found, [1, 2, 2, 1, 3].map(serde_json::Value::from));
    let python = python();
    if let Some(python) = &python {
        agrees_with_duckdb(python, &project);
    }
    let rows = |report: &serde_json::Value| dataset(report, "raw.flights")["rows_in"].as_u64().unwrap();
    let before = rows(&first);

    // New files are dropped in, then run again: only they are read.
    for (path, bytes) in &last {
        crate::project::write(path, bytes);
    }
    let second = project.run();
    assert_eq!(before + rows(&second), 27_004);
    assert_eq!(dataset(&second, "raw.planes")["status"], "up to date");
    assert_eq!(dataset(&second, "curated.flights")["rows_in"], rows(&second));
    let files = project.query("SELECT number, count(*) AS files FROM system.files WHERE flow = 'raw.flights' GROUP BY number ORDER BY number");
    assert_eq!(files, serde_json::json!([{ "number": 0, "files": 24 }, { "number": 1, "files": 7 }]));
    if let Some(python) = &python {
        agrees_with_duckdb(python, &project);
    }

    let third = project.run();
    let datasets = third["datasets"].as_array().unwrap();
    assert!(datasets.iter().all(|dataset| dataset["status"] == "up to date"), "{third}");

    // A rebuild from the start gives the same tables.
    project.call(&["run", "--full-refresh"]).exits(2);
    if let Some(python) = &python {
        agrees_with_duckdb(python, &project);
    }
}

#[test]
fn explain_tells_how_many_files_and_partitions_are_left() {
    let project = Project::copy_of("examples/lakehouse");
    project.call(&["run"]).exits(2);
    let out = project
        .call(&["sql", "EXPLAIN SELECT carrier FROM curated.flights WHERE flight_date = DATE '2013-01-05'"])
        .exits(0)
        .out;
    assert!(
        out.contains("curated.flights: 1 of 31 files, 1 of 31 partitions, 1 of 1 row groups, ")
            && out.contains(" KB to read"),
        "{out}"
    );
    let lineage = project.query("SELECT input, input_column FROM system.lineage WHERE dataset = 'curated.weather' AND column_name = 'temperature_celsius'");
    assert_eq!(lineage, serde_json::json!([{ "input": "raw.weather", "input_column": "temp" }]));
}
