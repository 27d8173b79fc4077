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
    assert_eq!(out.lines().count(), 15, "{out}");
}

#[test]
fn the_lakehouse_is_what_duckdb_makes_of_the_same_files() {
    let project = Project::copy_of("examples/lakehouse");
    let last = without_last_days(&project);
    let first = project.run();
    assert_eq!(first["run"]["status"], "succeeded");
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
    project.call(&["run", "--full-refresh"]).exits(0);
    if let Some(python) = &python {
        agrees_with_duckdb(python, &project);
    }
}

#[test]
fn explain_tells_how_many_files_and_partitions_are_left() {
    let project = Project::copy_of("examples/lakehouse");
    project.run();
    let out = project
        .call(&["sql", "EXPLAIN SELECT carrier FROM curated.flights WHERE flight_date = DATE '2013-01-05'"])
        .exits(0)
        .out;
    assert!(out.contains("curated.flights: 1 of 31 files read, 1 of 31 partitions"), "{out}");
    let lineage = project.query("SELECT input, input_column FROM system.lineage WHERE dataset = 'curated.weather' AND column_name = 'temperature_celsius'");
    assert_eq!(lineage, serde_json::json!([{ "input": "raw.weather", "input_column": "temp" }]));
}
