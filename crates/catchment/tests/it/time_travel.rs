//! Tables as they were: by version, by time, by the name of a release; and back to it.

use serde_json::json;

use crate::project::Project;

const PIPELINE: &str = "
CREATE STREAMING TABLE raw.t AS SELECT id FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT');
CREATE MATERIALIZED VIEW enriched.n AS SELECT count(*) AS n FROM raw.t;";

fn project() -> Project {
    let project = Project::new(PIPELINE);
    for id in 0..3 {
        project.write(&format!("in/{id}.jsonl"), format!("{{\"id\":{id}}}\n"));
        project.run();
        if id == 0 {
            project.call(&["release", "v1.0", "-p", project.path().to_str().unwrap()]).exits(0);
        }
    }
    project
}

#[test]
fn tables_are_read_as_they_were() {
    let project = project();
    let ids =
        |as_of: &str| project.query(&format!("SELECT count(*) AS n FROM raw.t {as_of}"))[0]["n"].clone();
    let history = project.call(&["history", "raw.t", "--json"]).exits(0).json();
    let time = |version: u64| {
        let entry = history.as_array().unwrap().iter().find(|entry| entry["version"] == version).unwrap();
        entry["timestamp"].as_str().unwrap().to_owned()
    };
    assert_eq!(ids("VERSION AS OF 2"), 2);
    assert_eq!(ids("VERSION AS OF 'v1.0'"), 1);
    assert_eq!(ids(&format!("TIMESTAMP AS OF '{}'", time(1))), 1);
    assert_eq!(ids(&format!("TIMESTAMP AS OF TIMESTAMP '{}'", time(2))), 2);
    assert_eq!(ids("TIMESTAMP AS OF '2999-01-01'"), 3);
    let error = |as_of: &str| project.call(&["sql", &format!("SELECT * FROM raw.t {as_of}")]).exits(1).err;
    assert!(error("TIMESTAMP AS OF '1999-01-01'").contains("error[C4006]: table \"raw.t\" was not there"));
    assert!(error("VERSION AS OF 'v9'").contains("error[C4006]: there is no release \"v9\""));
    project.write(
        "pipelines/more.sql",
        "CREATE MATERIALIZED VIEW x.y AS SELECT id FROM raw.t VERSION AS OF 99;",
    );
    let checked = project.call(&["check"]).exits(1).err;
    assert!(checked.contains("error[C4006]: table \"raw.t\" has no version 99"), "{checked}");
    project.write(
        "pipelines/more.sql",
        "CREATE MATERIALIZED VIEW x.y AS SELECT id FROM raw.t VERSION AS OF 'v1.0';",
    );
    project.run();
    assert_eq!(project.query("SELECT count(*) AS n FROM x.y")[0]["n"], 1);
    assert!(error("TIMESTAMP AS OF 3").contains("error[C2001]: 3 is not a time"));
}

#[test]
fn two_states_are_compared_by_key_and_by_whole_rows() {
    let project = Project::new(
        "CREATE MATERIALIZED VIEW enriched.t AS SELECT * FROM read_files('in', format => 'json', schema => 'id BIGINT, name VARCHAR')",
    );
    project.write("in/a.jsonl", "{\"id\":1,\"name\":\"a\"}\n{\"id\":2}\n{\"id\":3,\"name\":\"c\"}\n");
    project.run();
    project.write("in/a.jsonl", "{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":\"b\"}\n{\"id\":4,\"name\":\"d\"}\n{\"id\":5,\"name\":\"d\"}\n");
    project.run();
    let folder = project.path().to_str().unwrap().to_owned();
    let diff = |more: &[&str]| {
        let arguments = ["diff", "enriched.t", "0", "--json", "-p", &folder];
        project.call(&[&arguments, more].concat()).exits(0).json()
    };
    let by_key = diff(&["--key", "id"]);
    assert_eq!(by_key["rows"], json!([3, 4]));
    assert_eq!([&by_key["added"], &by_key["removed"], &by_key["changed"]], [2, 1, 1], "{by_key}");
    assert_eq!(
        by_key["samples"][2],
        json!({ "change": "changed", "row": "2", "column": "name", "before": null, "after": "b" }),
        "{by_key}"
    );
    let whole = diff(&[]);
    assert_eq!([&whole["added"], &whole["removed"], &whole["changed"]], [3, 2, 0], "{whole}");
    let nothing = project.call(&["diff", "enriched.t", "1", "1", "--json", "-p", &folder]).exits(0).json();
    assert_eq!(nothing["samples"], json!([]));
}

#[test]
fn what_is_read_downstream_goes_back_too_or_nothing_does() {
    let project = project();
    let refused = project.call(&["sql", "RESTORE TABLE raw.t TO VERSION AS OF 'v1.0'"]).exits(1);
    assert!(
        refused.err.contains("error[C4011]: nothing was done: enriched.n would have to go back"),
        "{}",
        refused.err
    );
    assert!(refused.out.contains("it read raw.t"), "{}", refused.out);
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t"), json!([{ "n": 3 }]));

    project.call(&["sql", "RESTORE raw.t TO VERSION AS OF 'v1.0' CASCADE"]).exits(0);
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t"), json!([{ "n": 1 }]));
    assert_eq!(project.query("SELECT n FROM enriched.n"), json!([{ "n": 1 }]));
    assert_eq!(project.query("SELECT count(*) AS n FROM system.files"), json!([{ "n": 1 }]));
    project.run();
    assert_eq!(project.query("SELECT count(*) AS n, sum(id) AS s FROM raw.t"), json!([{ "n": 3, "s": 3 }]));
    assert_eq!(project.query("SELECT n FROM enriched.n"), json!([{ "n": 3 }]));
}

#[test]
fn a_source_that_lost_its_files_keeps_the_table_from_going_back() {
    let project = project();
    std::fs::remove_file(project.path().join("in/2.jsonl")).unwrap();
    let refused = project.call(&["rollback", "raw.t", "--to", "2", "--cascade"]).exits(1);
    assert!(refused.err.contains("error[C4008]"), "{}", refused.err);
    assert!(refused.err.contains("in/2.jsonl"), "{}", refused.err);
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t"), json!([{ "n": 3 }]));
    // Its present content is what a changed file holds.
    project.write("in/2.jsonl", "{\"id\":20}\n{\"id\":21}\n");
    let told = project.call(&["rollback", "--all", "--to", "v1.0", "--json"]).exits(0).json();
    assert_eq!(told["steps"][0]["files_changed"], json!(["in/2.jsonl"]));
    project.run();
    assert_eq!(
        project.query("SELECT id FROM raw.t ORDER BY id"),
        json!([{ "id": 0 }, { "id": 1 }, { "id": 20 }, { "id": 21 }])
    );
}
