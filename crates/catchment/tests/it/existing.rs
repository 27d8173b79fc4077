//! Files that were there before a flow are never read, when it says so, whatever is rolled back or built anew.

use serde_json::{Value, json};

use crate::project::{Project, dataset};

fn write(project: &Project, file: i64) {
    project.write(&format!("in/{file}.jsonl"), format!("{{\"id\":{file}}}\n"));
}

fn ids(project: &Project) -> Vec<i64> {
    let rows = project.query("SELECT id FROM t.t ORDER BY id");
    rows.as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

#[test]
fn files_that_were_there_before_stay_out() {
    // With one plan kept, plans become bookmarks soon, and most versions cannot be gone back to.
    for kept_plans in [1, 64] {
        stay_out(kept_plans);
    }
}

fn stay_out(kept_plans: usize) {
    let pipeline = "CREATE STREAMING TABLE t.t PARTITIONED BY (p) AS SELECT id, id % 2 AS p FROM
        STREAM read_files('in', format => 'json', schema => 'id BIGINT', includeExistingFiles => false);";
    let project = Project::new(pipeline);
    project.write(
        "catchment.toml",
        format!("[engine]\nthreads = 2\n[maintenance]\nkept_plans = {kept_plans}\n"),
    );
    (1..4).for_each(|file| write(&project, file));
    assert_eq!(dataset(&project.run(), "t.t")["rows_in"], 0);
    let begun =
        project.query("SELECT CAST(max(committed_at) AS VARCHAR) AS at FROM system.flows")[0]["at"].clone();
    for file in 4..8 {
        write(&project, file);
        project.run();
    }
    let expected = [4, 5, 6, 7];
    assert_eq!(ids(&project), expected);
    // One that changes is no news.
    project.write("in/1.jsonl", "{\"id\":100}\n");
    assert_eq!(project.run()["changed_files"], json!([]));
    let counted =
        project.query("SELECT status, CAST(count(*) AS INT) AS n FROM system.files GROUP BY 1 ORDER BY 1");
    assert_eq!(counted, json!([{ "status": "passed over", "n": 3 }, { "status": "read", "n": 4 }]));
    project.call(&["run", "--full-refresh"]).exits(0);
    assert_eq!(ids(&project), expected);
    project.call(&["backfill", "t.t", "--all"]).exits(0);
    assert_eq!(ids(&project), expected);
    // To before the flow had read anything, and to when there was no table.
    let before: [&Value; 2] = [&begun, &json!("2020-01-01")];
    for time in before.into_iter().skip(usize::from(kept_plans == 1)) {
        project.call(&["rollback", "t.t", "--to", time.as_str().unwrap()]).exits(0);
        assert!(ids(&project).is_empty());
        project.run();
        assert_eq!(ids(&project), expected, "to {time}");
    }
    // Without the option a rebuild reads all.
    project.write("pipelines/all.sql", pipeline.replace(", includeExistingFiles => false", ""));
    project.call(&["run", "--full-refresh"]).exits(0);
    assert_eq!(ids(&project), [2, 3, 4, 5, 6, 7, 100]);
}
