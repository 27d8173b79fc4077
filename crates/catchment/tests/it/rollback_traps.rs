//! Rollbacks that a hostile tester broke, each by its name.

use serde_json::json;

use crate::project::Project;

const PIPELINE: &str = "
CREATE STREAMING TABLE raw.o AS SELECT id, v FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT, v BIGINT');
CREATE STREAMING TABLE s.c (CONSTRAINT positive EXPECT (v > 0) ON VIOLATION QUARANTINE) AS SELECT * FROM STREAM raw.o;
CREATE MATERIALIZED VIEW m.a AS SELECT count(*) AS n FROM raw.o;";

fn add(project: &Project, id: i64, v: i64, arguments: &[&str]) {
    project.write(&format!("in/{id}.json"), format!("{{\"id\":{id},\"v\":{v}}}\n"));
    let code = project.call(&[&["run", "--json"], arguments].concat()).code;
    assert!(matches!(code, Some(0 | 2)));
}

fn roll_back(project: &Project, arguments: &[&str]) -> crate::project::Done {
    let folder = project.path().to_str().unwrap().to_owned();
    project.call(&[&["rollback"], arguments, &["-p", &folder]].concat())
}

fn agree(project: &Project, expected: serde_json::Value) {
    project.call(&["run", "--json"]);
    assert_eq!(project.query("SELECT id, v FROM raw.o ORDER BY id"), expected);
    assert_eq!(project.query("SELECT id, v FROM s.c ORDER BY id"), expected);
    assert_eq!(project.query("SELECT n FROM m.a")[0]["n"], expected.as_array().unwrap().len());
}

#[test]
fn a_view_whose_old_files_are_gone_is_built_anew() {
    let project = Project::new(PIPELINE);
    add(&project, 1, 1, &[]);
    add(&project, 2, 2, &[]);
    project.call(&["sql", "VACUUM RETAIN 0 HOURS"]).exits(0);
    let told = roll_back(&project, &["raw.o", "--to", "1", "--cascade", "--json"]).exits(0).json();
    let step = told["steps"].as_array().unwrap().iter().find(|step| step["dataset"] == "m.a").unwrap();
    assert_eq!(step["tables"][0]["to"], json!(null), "{told}");
    agree(&project, json!([{ "id": 1, "v": 1 }, { "id": 2, "v": 2 }]));
}

#[test]
fn a_batch_that_was_planned_on_undone_rows_is_not_published() {
    for fault in ["plan-written", "staged-written", "between-outputs"] {
        let project = Project::new(PIPELINE);
        add(&project, 1, 1, &[]);
        add(&project, 2, -2, &["--select", "raw.o"]);
        add(&project, 3, 3, &["--select", "raw.o"]);
        let mut command = project.command(&["run", "--select", "s.c"]);
        command.env("CATCHMENT_FAULT", format!("{fault}:1:abort"));
        assert_eq!(command.output().unwrap().status.code(), None);
        roll_back(&project, &["raw.o", "--to", "1", "--cascade"]).exits(0);
        // The bad deploy is mended.
        project.write(
            "pipelines/all.sql",
            PIPELINE.replace("SELECT id, v FROM STREAM", "SELECT id, abs(v) AS v FROM STREAM"),
        );
        agree(&project, json!([{ "id": 1, "v": 1 }, { "id": 2, "v": 2 }, { "id": 3, "v": 3 }]));
        let apart = project.path().join("lake/s/c__quarantine/_delta_log");
        if apart.exists() {
            assert_eq!(project.query("SELECT count(*) AS n FROM s.c__quarantine")[0]["n"], 0, "{fault}");
        }
    }
}

#[test]
fn a_reader_that_passed_an_empty_version_goes_on_after_it_is_undone() {
    let positive = PIPELINE.replace("v BIGINT')", "v BIGINT') WHERE v > 0");
    let project = Project::new(&positive);
    add(&project, 1, 1, &[]);
    add(&project, 2, -1, &[]);
    project.run();
    roll_back(&project, &["raw.o", "--to", "1", "--cascade"]).exits(0);
    project.write(
        "pipelines/all.sql",
        PIPELINE.replace("id, v FROM STREAM read", "id, abs(v) AS v FROM STREAM read"),
    );
    agree(&project, json!([{ "id": 1, "v": 1 }, { "id": 2, "v": 1 }]));
}

#[test]
fn what_a_batch_that_stays_has_read_may_be_gone() {
    let project = Project::new(PIPELINE);
    add(&project, 1, 1, &["--select", "raw.o"]);
    add(&project, 2, 2, &["--select", "raw.o"]);
    project.run();
    project.call(&["sql", "OPTIMIZE raw.o"]).exits(0);
    add(&project, 3, 3, &[]);
    project.call(&["sql", "VACUUM raw.o RETAIN 0 HOURS"]).exits(0);
    for _ in 0..2 {
        roll_back(&project, &["s.c", "--to", "1", "--cascade"]).exits(0);
        agree(&project, json!([{ "id": 1, "v": 1 }, { "id": 2, "v": 2 }, { "id": 3, "v": 3 }]));
    }
}

#[test]
fn a_time_means_what_was_newest_then() {
    let project = Project::new(PIPELINE);
    add(&project, 1, 1, &[]);
    add(&project, 2, 2, &[]);
    let history = project.call(&["history", "raw.o", "--json"]).exits(0).json();
    let time = history[0]["timestamp"].as_str().unwrap().to_owned();
    roll_back(&project, &["raw.o", "--to", "1", "--cascade"]).exits(0);
    let then = project.query(&format!("SELECT count(*) AS n FROM raw.o TIMESTAMP AS OF '{time}'"));
    assert_eq!(then[0]["n"], 2);
    // And a rollback to it brings it all back.
    roll_back(&project, &["--all", "--to", &time]).exits(0);
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.o")[0]["n"], 2);
    agree(&project, json!([{ "id": 1, "v": 1 }, { "id": 2, "v": 2 }]));
}

#[test]
fn a_release_waits_for_a_rollback_that_was_not_finished() {
    let project = Project::new(PIPELINE);
    add(&project, 1, 1, &[]);
    let folder = project.path().to_str().unwrap().to_owned();
    project.call(&["release", "r1", "-p", &folder]).exits(0);
    add(&project, 2, 2, &[]);
    let mut command = project.command(&["rollback", "raw.o", "--to", "r1", "--cascade", "-p", &folder]);
    command.env("CATCHMENT_FAULT", "table-restored:1:abort");
    assert_eq!(command.output().unwrap().status.code(), None);
    project.call(&["release", "mid", "-p", &folder]).exits(0);
    let counts = "SELECT (SELECT count(*) FROM raw.o VERSION AS OF 'mid') AS raw, (SELECT count(*) FROM s.c VERSION AS OF 'mid') AS c";
    assert_eq!(project.query(counts), json!([{ "raw": 1, "c": 1 }]));
}

#[test]
fn a_stream_of_one_version_is_refused() {
    let project = Project::new(&format!(
        "{PIPELINE} CREATE STREAMING TABLE s.v AS SELECT * FROM STREAM raw.o VERSION AS OF 1;"
    ));
    let refused = project.call(&["check"]).exits(1);
    assert!(refused.err.contains("has all its rows, and no VERSION AS OF 1"), "{}", refused.err);
}

#[test]
fn differences_of_booleans_and_of_composite_keys_are_found() {
    let project = Project::new(
        "CREATE MATERIALIZED VIEW a.b AS SELECT * FROM read_files('in', format => 'json',
           schema => 'id BIGINT, part BIGINT, f BOOLEAN, g BOOLEAN, weight BIGINT, s STRUCT<x BIGINT>')",
    );
    let write = |g: bool, x: u64| {
        project.write("in/a.json", format!("{{\"id\":1,\"part\":1,\"f\":true,\"g\":{g},\"weight\":5,\"s\":{{\"x\":{x}}}}}\n{{\"id\":1,\"part\":2,\"f\":true,\"g\":true}}\n"));
        project.run();
    };
    write(true, 1);
    write(false, 2);
    let folder = project.path().to_str().unwrap().to_owned();
    let diff = |more: &[&str]| project.call(&[&["diff", "a.b", "0", "--json", "-p", &folder], more].concat());
    let by_key = diff(&["--key", "id,part"]).exits(0).json();
    assert_eq!([&by_key["added"], &by_key["removed"], &by_key["changed"]], [0, 0, 1], "{by_key}");
    assert_eq!(by_key["samples"].as_array().unwrap().len(), 2, "{by_key}");
    let whole = diff(&[]).exits(0).json();
    assert_eq!([&whole["added"], &whole["removed"]], [1, 1], "{whole}");
    let refused = diff(&["--key", "id"]).exits(1).err;
    assert!(refused.contains("share values of id"), "{refused}");
}

#[test]
fn columns_of_paths_leave_something_to_read() {
    let project = Project::new(
        "CREATE STREAMING TABLE a.t AS SELECT * FROM STREAM read_files('in', format => 'text', partitionColumns => 'value')",
    );
    project.write("in/value=1/a.txt", "x\n");
    let refused = project.call(&["run"]).exits(1);
    assert!(refused.err.contains("leaves no column to read"), "{}", refused.err);
}

#[test]
fn going_forward_without_those_who_read_the_stream_is_refused_and_together_it_works() {
    let project = Project::new(PIPELINE);
    add(&project, 1, 1, &[]);
    add(&project, 2, 2, &[]);
    let folder = project.path().to_str().unwrap().to_owned();
    project.call(&["release", "two", "-p", &folder]).exits(0);
    roll_back(&project, &["raw.o", "--to", "1", "--cascade"]).exits(0);
    let told = roll_back(&project, &["raw.o", "--to", "two", "--cascade"]).exits(1);
    assert!(told.err.contains("C4011") && told.err.contains("s.c"), "{}", told.err);
    roll_back(&project, &["--all", "--to", "two"]).exits(0);
    agree(&project, json!([{ "id": 1, "v": 1 }, { "id": 2, "v": 2 }]));
    add(&project, 3, 3, &[]);
    agree(&project, json!([{ "id": 1, "v": 1 }, { "id": 2, "v": 2 }, { "id": 3, "v": 3 }]));
}
