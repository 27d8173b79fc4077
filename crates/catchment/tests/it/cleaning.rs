//! Files that were read are taken away when they are told to be, and nothing else is.

use serde_json::json;

use crate::project::Project;

fn pipeline(options: &str) -> String {
    format!(
        "CREATE STREAMING TABLE raw.t AS SELECT k FROM STREAM read_files('in', format => 'json', schema => 'k BIGINT', maxFilesPerTrigger => 2{options});"
    )
}

const DELETE: &str = ", cleanSource => 'DELETE', `cleanSource.retentionDuration` => '0 seconds'";

fn files(project: &Project, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![project.path().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    found.push(path.strip_prefix(project.path()).unwrap().to_string_lossy().into_owned())
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn only_what_was_read_long_enough_ago_is_removed() {
    let project = Project::new(&pipeline(", cleanSource => 'DELETE'"));
    for k in 0..5 {
        project.write(&format!("in/{k}.json"), format!("{{\"k\":{k}}}\n"));
    }
    project.write("in/broken.json.gz", b"\x1f\x8b\x08\x00truncated");
    project.write("in/_hidden.json", "{\"k\":9}\n");
    project.call(&["run"]).exits(2);
    // Thirty days are not over.
    assert_eq!(files(&project, "in").len(), 7);
    // A file that changed after it was read holds what nobody has read.
    project.write("in/3.json", "{\"k\":3}\n{\"k\":33}\n");
    project.write("pipelines/all.sql", pipeline(DELETE));
    project.write("in/5.json", "{\"k\":5}\n");
    project.call(&["run"]).exits(0);
    assert_eq!(files(&project, "in"), ["in/3.json", "in/_hidden.json", "in/broken.json.gz"]);
    let read = json!((0..6).map(|k| json!({ "k": k })).collect::<Vec<_>>());
    assert_eq!(project.query("SELECT k FROM raw.t ORDER BY k"), read);
    // A file of the same name and content is the one that was read.
    project.write("in/6.json", "{\"k\":6}\n");
    project.call(&["run"]).exits(0);
    assert_eq!(files(&project, "in").len(), 3);
    // What is gone cannot be read again, and that is said before anything is emptied.
    let refused = project.call(&["run", "--full-refresh"]).exits(1);
    assert!(refused.err.contains("7 files that it has read were cleaned"), "{}", refused.err);
    let refused = project.call(&["rollback", "raw.t", "--to", "1"]).exits(1);
    assert!(refused.err.contains("its sources do not hold any more"), "{}", refused.err);
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t"), json!([{ "n": 7 }]));
    project.write("pipelines/all.sql", pipeline(""));
    project.call(&["run", "--full-refresh"]).exits(2);
    assert_eq!(project.query("SELECT k FROM raw.t ORDER BY k"), json!([{ "k": 3 }, { "k": 33 }]));
}

#[test]
fn moved_files_keep_their_paths() {
    let moves = ", cleanSource => 'MOVE', `cleanSource.moveDestination` => 'done', `cleanSource.retentionDuration` => '0 days'";
    let project = Project::new(&pipeline(moves));
    project.write("in/a/x.json", "{\"k\":1}\n");
    project.write("in/b/x.json", "{\"k\":2}\n");
    project.call(&["run"]).exits(0);
    assert_eq!(files(&project, "done"), ["done/a/x.json", "done/b/x.json"]);
    assert!(files(&project, "in").is_empty());
    assert_eq!(project.query("SELECT sum(k) AS k FROM raw.t"), json!([{ "k": 3 }]));
}

#[test]
fn a_crash_takes_no_file_away_that_is_not_published() {
    for fault in ["staged-written", "published", "books-written"] {
        let project = Project::new(&pipeline(DELETE));
        for k in 0..4 {
            project.write(&format!("in/{k}.json"), format!("{{\"k\":{k}}}\n"));
        }
        let mut command = project.command(&["run"]);
        command.env("CATCHMENT_FAULT", format!("{fault}:2:abort"));
        assert_eq!(command.output().unwrap().status.code(), None, "{fault}");
        assert_eq!(files(&project, "in").len(), 4, "{fault}");
        project.call(&["run"]).exits(0);
        assert!(files(&project, "in").is_empty(), "{fault}");
        assert_eq!(
            project.query("SELECT sum(k) AS k, count(*) AS n FROM raw.t"),
            json!([{ "k": 6, "n": 4 }])
        );
    }
}

#[test]
fn files_that_others_read_are_not_cleaned() {
    let other = "CREATE MATERIALIZED VIEW cur.n AS SELECT count(*) AS n FROM read_files('in/*.json', schema => 'k BIGINT');";
    let project = Project::new(&format!("{}\n{other}", pipeline(DELETE)));
    let told = project.call(&["check"]).exits(1);
    assert!(told.err.contains("take files away that flow \"cur.n\" reads"), "{}", told.err);
    let whole = pipeline(DELETE).replace("STREAMING TABLE", "MATERIALIZED VIEW").replace("STREAM ", "");
    let told = Project::new(&whole).call(&["check"]).exits(1);
    assert!(told.err.contains("read as a whole"), "{}", told.err);
}

const MOVE: &str = ", cleanSource => 'MOVE', `cleanSource.moveDestination` => 'done', `cleanSource.retentionDuration` => '0 days'";

#[test]
fn nothing_is_overwritten_and_one_file_does_not_hold_up_others() {
    let project = Project::new(&pipeline(&format!("{MOVE}, allowOverwrites => true")));
    project.write("done/a.json", "what lies there");
    project.write("in/a.json", "{\"k\":1}\n");
    project.call(&["run"]).exits(0);
    project.write("in/a.json", "{\"k\":2}\n{\"k\":2}\n");
    // A folder of the name is as much in the way as a file.
    project.write("done/b.json/in the way", "");
    project.write("in/b.json", "{\"k\":3}\n");
    project.write("in/c.json", "{\"k\":4}\n");
    project.call(&["run"]).exits(0);
    let kept: Vec<String> = files(&project, "done")
        .iter()
        .map(|file| std::fs::read_to_string(project.path().join(file)).unwrap())
        .collect();
    assert_eq!(kept.len(), 6, "{kept:?}");
    for content in ["what lies there", "{\"k\":1}\n", "{\"k\":2}\n{\"k\":2}\n", "{\"k\":3}\n", "{\"k\":4}\n"]
    {
        assert!(kept.iter().any(|kept| kept == content), "{content:?} in {kept:?}");
    }
    assert!(files(&project, "in").is_empty());
    assert_eq!(project.query("SELECT sum(k) AS k, count(*) AS n FROM raw.t"), json!([{ "k": 12, "n": 5 }]));
}

#[test]
fn another_file_of_the_name_is_not_the_one_that_was_read() {
    let project = Project::new(&pipeline(DELETE));
    project.write("in/a.json", "{\"k\":1}\n");
    project.call(&["run"]).exits(0);
    project.write("in/b.json", "{\"k\":2}\n");
    project.call(&["run"]).exits(0);
    project.write("in/b.json", "{\"k\":33}\n{\"k\":34}\n");
    let told = project.call(&["run", "--full-refresh"]).exits(1);
    assert!(told.err.contains("2 files that it has read were cleaned"), "{}", told.err);
    let told = project.call(&["rollback", "raw.t", "--to", "1"]).exits(1);
    assert!(told.err.contains("its sources do not hold any more"), "{}", told.err);
    assert_eq!(project.query("SELECT k FROM raw.t ORDER BY k"), json!([{ "k": 1 }, { "k": 2 }]));
}

#[test]
fn folders_are_the_same_however_they_are_written() {
    let project = Project::new("");
    let here = project.path().to_string_lossy().into_owned();
    let call = |path: &str, to: &str| {
        let options = MOVE.replace("'done'", &format!("'{to}'"));
        pipeline(&options).replace("'in'", &format!("'{path}'"))
    };
    for (path, to, why) in [
        ("./in", "in/done", "lies in the folder that is read"),
        ("in", "./in/x", "lies in the folder that is read"),
        ("in", &format!("{here}/in/x"), "lies in the folder that is read"),
        ("in/../in", "in/x", "lies in the folder that is read"),
        ("**/*.json", "done", "lies in the folder that is read"),
        ("s3://b/in", "s3://b//in/x", "lies in the folder that is read"),
        ("in", "", "names no folder"),
        ("in", "/", "names no folder"),
    ] {
        project.write("pipelines/all.sql", call(path, to));
        let told = project.call(&["check"]).exits(1);
        assert!(told.err.contains(why), "{path} to {to}: {}", told.err);
    }
    let other = "CREATE MATERIALIZED VIEW cur.n AS SELECT count(*) AS n FROM read_files('./in/', format => 'json', schema => 'k BIGINT');";
    project.write("pipelines/all.sql", format!("{}\n{other}", call(&format!("{here}/in"), "done")));
    assert!(project.call(&["check"]).exits(1).err.contains("take files away that flow \"cur.n\" reads"));
    project.write("pipelines/all.sql", call(&format!("{here}/in"), "done"));
    project.write("in/x/a.json", "{\"k\":1}\n");
    project.write("in/y/a.json", "{\"k\":2}\n");
    project.call(&["run"]).exits(0);
    assert_eq!(files(&project, "done"), ["done/x/a.json", "done/y/a.json"]);
}

#[test]
fn records_of_csv_keep_the_names_of_their_columns() {
    let table = |least: i64| {
        format!(
            "CREATE STREAMING TABLE raw.t (CONSTRAINT low EXPECT (a > {least}) ON VIOLATION QUARANTINE) AS SELECT a, b
               FROM STREAM read_files('in', format => 'csv', schema => 'a BIGINT, b BIGINT'{DELETE});"
        )
    };
    let project = Project::new(&table(0));
    project.write("in/x.csv", "a,b\n-1,100\n5,6\n7,no\n");
    project.call(&["run"]).exits(2);
    // A file of the same name, whose columns stand otherwise.
    project.write("in/x.csv", "b,a\n7,8\n");
    project.write("pipelines/all.sql", table(-50));
    project.call(&["replay", "raw.t"]);
    assert_eq!(
        project.query("SELECT a, b FROM raw.t ORDER BY a"),
        json!([{ "a": -1, "b": 100 }, { "a": 5, "b": 6 }])
    );
    let held = project.query("SELECT record, header FROM raw.t__quarantine");
    assert_eq!(held, json!([{ "record": "7,no", "header": "a,b" }]));
}
