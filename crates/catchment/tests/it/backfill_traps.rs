//! Backfills that a hostile tester broke, each by its name.

use serde_json::{Value, json};

use crate::project::Project;

const SCHEMA: &str = "format => 'json', schema => 'k BIGINT, v BIGINT, s STRING'";

fn project(pipeline: &str) -> Project {
    let project = Project::new(&pipeline.replace("FILES", &format!("STREAM read_files('in', {SCHEMA})")));
    write(&project, "a", &[(1, 1), (2, 2), (3, 3), (4, 4)]);
    project
}

fn write(project: &Project, name: &str, rows: &[(i64, i64)]) {
    let lines: String = rows.iter().map(|(k, v)| format!("{{\"k\":{k},\"v\":{v}}}\n")).collect();
    project.write(&format!("in/{name}.jsonl"), lines);
}

fn edit(project: &Project, from: &str, to: &str) {
    let text = std::fs::read_to_string(project.path().join("pipelines/all.sql")).unwrap();
    assert!(text.contains(from));
    project.write("pipelines/all.sql", text.replace(from, to));
}

fn fill(project: &Project, arguments: &[&str]) -> crate::project::Done {
    project.call(&[&["backfill", "--json"], arguments].concat())
}

/// Values of a table by key.
fn values(project: &Project, table: &str) -> Vec<(i64, i64)> {
    let rows = project.query(&format!("SELECT k, v FROM {table} ORDER BY k, v"));
    let number = |row: &Value, name: &str| row[name].as_i64().unwrap_or(-1);
    rows.as_array().unwrap().iter().map(|row| (number(row, "k"), number(row, "v"))).collect()
}

fn is_unfinished(project: &Project) -> bool {
    project.path().join("lake/_catchment/backfill.json").exists()
}

#[test]
fn a_reader_follows_a_table_that_becomes_empty() {
    let project = project(
        "CREATE STREAMING TABLE raw.t PARTITIONED BY (p) AS SELECT k, v, k % 2 AS p FROM FILES WHERE k > 0;
         CREATE STREAMING TABLE cur.t PARTITIONED BY (p) AS SELECT k, v, p FROM STREAM raw.t;",
    );
    project.run();
    edit(&project, "k > 0", "k > 100");
    fill(&project, &["raw.t", "--all", "--cascade"]).exits(0);
    assert!(values(&project, "raw.t").is_empty() && values(&project, "cur.t").is_empty());
    write(&project, "b", &[(101, 1)]);
    project.run();
    assert_eq!(values(&project, "cur.t"), [(101, 1)]);
}

#[test]
fn a_source_that_is_read_twice_is_refused_while_records_of_it_are_in_quarantine() {
    let project = project(
        "CREATE STREAMING TABLE t.t (CONSTRAINT g EXPECT (v < 6) ON VIOLATION QUARANTINE) PARTITIONED BY (p) AS
           SELECT k, v + 3 AS v, k % 2 AS p FROM FILES UNION ALL SELECT k, v, k % 2 AS p FROM FILES;",
    );
    project.call(&["run"]).exits(2);
    let before = values(&project, "t.t");
    let refused = fill(&project, &["t.t", "--all"]).exits(1);
    assert!(refused.out.contains("reads \\\"in\\\" twice"), "{}", refused.out);
    assert_eq!((values(&project, "t.t"), is_unfinished(&project)), (before, false));
}

#[test]
fn a_reader_does_not_pass_a_wider_backfill_that_was_given_up() {
    let project = project(
        "CREATE STREAMING TABLE cur.t PARTITIONED BY (p) AS SELECT k, k % 2 AS p, 1 AS v FROM FILES;
         CREATE STREAMING TABLE end.t PARTITIONED BY (p) AS SELECT * FROM STREAM cur.t;",
    );
    project.run();
    edit(&project, "1 AS v", "2 AS v");
    let mut command = project.command(&["backfill", "cur.t", "--all", "--cascade"]);
    command.env("CATCHMENT_FAULT", "published:1:abort");
    command.output().unwrap();
    let left = fill(&project, &["--cancel"]).exits(0).json();
    assert!(left["left"].as_array().unwrap().iter().any(|step| step["dataset"] == "end.t"), "{left}");
    project.call(&["run"]).exits(1);
    // One partition is not enough, and says so without leaving anything behind but what it did.
    fill(&project, &["cur.t", "--where", "p = 1", "--cascade"]).exits(1);
    let told = project.call(&["run"]).exits(1);
    assert!(told.err.contains("C2007"), "{}", told.err);
    fill(&project, &["--cancel"]).exits(0);
    fill(&project, &["end.t", "--all"]).exits(0);
    project.run();
    assert_eq!(values(&project, "end.t"), [(1, 2), (2, 2), (3, 2), (4, 2)]);
}

#[test]
fn an_empty_text_is_a_null_partition_and_chance_is_no_condition() {
    let project = Project::new(&format!(
        "CREATE STREAMING TABLE t.t PARTITIONED BY (s) AS SELECT k, 0 AS v, s FROM STREAM read_files('in', {SCHEMA});"
    ));
    project.write("in/a.jsonl", "{\"k\":1,\"s\":\"\"}\n{\"k\":2,\"s\":null}\n{\"k\":3,\"s\":\"x\"}\n");
    project.run();
    for condition in ["s = ''", "s IS NOT NULL", "s <> 'x'", "s IS NULL", "s = 'x'"] {
        fill(&project, &["t.t", "--where", condition]).exits(0);
        assert_eq!(values(&project, "t.t"), [(1, 0), (2, 0), (3, 0)], "{condition}");
    }
    let refused = fill(&project, &["t.t", "--where", "random() < 0.5"]).exits(1);
    assert!(
        refused.err.contains("another answer") || refused.out.contains("another answer"),
        "{}",
        refused.out
    );
}

#[test]
fn a_file_whose_rows_were_published_and_that_broke_refuses_it() {
    let project = project(
        "CREATE STREAMING TABLE t.t PARTITIONED BY (p) AS SELECT k, v, k % 2 AS p FROM STREAM read_files('in', format => 'parquet',
           schema => 'k BIGINT, v BIGINT', allowOverwrites => true);",
    );
    std::fs::remove_file(project.path().join("in/a.jsonl")).unwrap();
    project.write("make.sql", "SELECT 1");
    let other = Project::new("CREATE MATERIALIZED VIEW o.o AS SELECT 1 AS k, 1 AS v;");
    other.run();
    let folder = other.path().join("lake/o/o");
    let file = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some());
    let good = std::fs::read(file.unwrap()).unwrap();
    project.write("in/a.parquet", &good);
    project.run();
    assert_eq!(values(&project, "t.t"), [(1, 1)]);
    project.write("in/a.parquet", &good[..good.len() - 20]);
    project.call(&["run"]).exits(2);
    fill(&project, &["t.t", "--all"]).exits(1);
    assert_eq!((values(&project, "t.t"), is_unfinished(&project)), (vec![(1, 1)], false));
}

#[test]
fn what_is_inserted_once_and_in_quarantine_stays_there() {
    let project = project(
        "CREATE STREAMING TABLE t.t (CONSTRAINT g EXPECT (v < 4) ON VIOLATION QUARANTINE) PARTITIONED BY (p);
         CREATE FLOW f AS INSERT ONCE INTO t.t BY NAME SELECT k, v, k % 2 AS p FROM read_files('in', format => 'json', schema => 'k BIGINT, v BIGINT');",
    );
    project.write("in/b.jsonl", "{\"k\":9,\"v\":\"no number\"}\n");
    project.call(&["run"]).exits(2);
    let apart = "SELECT count(*) AS n FROM t.t__quarantine";
    for _ in 0..2 {
        fill(&project, &["t.t", "--all"]);
        assert_eq!(values(&project, "t.t"), [(1, 1), (2, 2), (3, 3)]);
        assert_eq!(project.query(apart), json!([{ "n": 2 }]));
    }
    // Its source is gone: nothing would make the rows again.
    std::fs::remove_dir_all(project.path().join("in")).unwrap();
    fill(&project, &["t.t", "--all"]).exits(1);
    assert_eq!(values(&project, "t.t"), [(1, 1), (2, 2), (3, 3)]);
}

#[test]
fn what_is_refused_leaves_the_project_as_it_was() {
    let project =
        project("CREATE STREAMING TABLE t.t PARTITIONED BY (p) AS SELECT k, v, k % 2 AS p FROM FILES;");
    write(&project, "b", &[(5, 5)]);
    project.run();
    let before = values(&project, "t.t");
    std::fs::remove_file(project.path().join("in/b.jsonl")).unwrap();
    for arguments in [&["t.t", "--all"][..], &["t.t", "--where", "p = 0"]] {
        let refused = fill(&project, arguments).exits(1);
        assert!(refused.out.contains("C4008"), "{}", refused.out);
        assert_eq!((values(&project, "t.t"), is_unfinished(&project)), (before.clone(), false));
        project.run();
    }
}

#[test]
fn rows_of_a_flow_that_is_gone_refuse_it_until_the_table_is_rebuilt() {
    let project = project(
        "CREATE STREAMING TABLE t.t PARTITIONED BY (p);
         CREATE FLOW one AS INSERT INTO t.t BY NAME SELECT k, v, k % 2 AS p FROM FILES;
         CREATE FLOW two AS INSERT INTO t.t BY NAME SELECT k + 10 AS k, v, k % 2 AS p FROM FILES;",
    );
    project.run();
    let text = std::fs::read_to_string(project.path().join("pipelines/all.sql")).unwrap();
    project.write("pipelines/all.sql", text.split("CREATE FLOW two").next().unwrap());
    let refused = fill(&project, &["t.t", "--where", "p = 1"]).exits(1);
    assert!(refused.out.contains("flow \\\"two\\\" has written rows"), "{}", refused.out);
    project.call(&["run", "--full-refresh"]).exits(0);
    fill(&project, &["t.t", "--where", "p = 1"]).exits(0);
    assert_eq!(values(&project, "t.t").len(), 4);
}

#[test]
fn what_was_staged_and_is_given_up_is_not_published() {
    let project = project(
        "CREATE STREAMING TABLE t.t PARTITIONED BY (p) AS SELECT k, v * 1 AS v, k % 2 AS p FROM FILES;",
    );
    project.run();
    let before = values(&project, "t.t");
    edit(&project, "v * 1", "v * 10");
    let mut command = project.command(&["backfill", "t.t", "--all"]);
    command.env("CATCHMENT_FAULT", "staged-written:1:abort");
    assert_eq!(command.output().unwrap().status.code(), None);
    fill(&project, &["--cancel"]).exits(0);
    project.run();
    assert_eq!(values(&project, "t.t"), before);
}
