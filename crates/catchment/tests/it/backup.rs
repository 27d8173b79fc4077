//! A data folder that was lost: what the lake tells of is rebuilt, the rest comes from a backup.

use crate::project::Project;

const BOOKS: &str =
    "SELECT flow, dataset, epoch, number, version, rows_in, rows_out, quarantined, files, undone
  FROM system.flows ORDER BY flow, epoch, number";
const LINEAGE: &str =
    "SELECT * FROM system.lineage ORDER BY dataset, version, column_name, input, input_column";
const EXPECTATIONS: &str = "SELECT dataset, expectation, passed, failed, version, undone FROM system.expectations ORDER BY dataset, version";

fn project() -> Project {
    let project = Project::new(
        "CREATE STREAMING TABLE raw.t (CONSTRAINT small EXPECT (id < 2) ON VIOLATION QUARANTINE)
           AS SELECT id FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT');
         CREATE MATERIALIZED VIEW enriched.n AS SELECT count(*) AS n FROM raw.t;",
    );
    for id in 0..4 {
        project.write(&format!("in/{id}.jsonl"), format!("{{\"id\":{id}}}\n"));
        assert!(matches!(project.call(&["run"]).code, Some(0 | 2)));
    }
    project
        .call(&["rollback", "raw.t", "--to", "2", "--cascade", "-p", project.path().to_str().unwrap()])
        .exits(0);
    assert_eq!(project.call(&["run"]).code, Some(2));
    project
}

#[test]
fn a_lost_catalog_is_rebuilt_from_the_lake() {
    let project = project();
    let (lineage, expectations) = (project.query(LINEAGE), project.query(EXPECTATIONS));
    let books = |project: &Project| {
        let rows = project.query(BOOKS);
        // Commits that only open an epoch hold no batch.
        let rows = rows.as_array().unwrap().iter().filter(|row| row["epoch"] == 0 || row["number"] != 0);
        rows.cloned().collect::<Vec<_>>()
    };
    let before = books(&project);
    assert!(
        before.iter().any(|row| row["undone"] == true) && before.iter().any(|row| row["undone"] == false)
    );
    std::fs::remove_dir_all(project.path().join(".catchment")).unwrap();
    assert_eq!(books(&project), [] as [serde_json::Value; 0]);
    project.call(&["recover"]).exits(0);
    assert_eq!(books(&project), before);
    assert_eq!(project.query(LINEAGE), lineage);
    assert_eq!(project.query(EXPECTATIONS), expectations);
    project.call(&["run"]).exits(0);
}

#[test]
fn run_history_comes_back_from_a_backup() {
    let project = project();
    let folder = project.path().to_str().unwrap().to_owned();
    let file = project.path().join("kept.sqlite");
    let file = file.to_str().unwrap();
    project.call(&["backup", file, "-p", &folder]).exits(0);
    let again = project.call(&["backup", file, "-p", &folder]).exits(1);
    assert!(again.err.contains("error[C4009]"), "{}", again.err);
    let runs = project.query("SELECT run, status FROM system.runs ORDER BY run");
    // One more batch than the backup knows of.
    project.write("in/9.jsonl", "{\"id\":-1}\n");
    project.call(&["run"]).exits(0);
    let books = project.query(BOOKS);
    let refused = project.call(&["restore", file, "-p", &folder]).exits(1);
    assert!(refused.err.contains("there is a catalog database"), "{}", refused.err);
    std::fs::remove_dir_all(project.path().join(".catchment")).unwrap();
    project.write("none.sqlite", "not a database");
    let none = project.path().join("none.sqlite");
    let refused = project.call(&["restore", none.to_str().unwrap(), "-p", &folder]).exits(1);
    assert!(refused.err.contains("is not a catalog database"), "{}", refused.err);
    project.call(&["restore", file, "-p", &folder]).exits(0);
    assert_eq!(project.query("SELECT run, status FROM system.runs ORDER BY run"), runs);
    assert_eq!(project.query(BOOKS), books);
}
