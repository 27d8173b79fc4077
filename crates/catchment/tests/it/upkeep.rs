//! Upkeep of tables changes no row, so nothing that reads them is computed again.

use serde_json::json;

use crate::project::{Project, dataset};

#[test]
fn a_compaction_is_passed_by_those_that_read_the_table() {
    let project = Project::new(
        "CREATE STREAMING TABLE raw.t AS SELECT id FROM STREAM read_files('in', format => 'json',
           schema => 'id BIGINT', maxFilesPerTrigger => 1);
         CREATE STREAMING TABLE curated.t AS SELECT id FROM STREAM raw.t;
         CREATE MATERIALIZED VIEW enriched.n AS SELECT count(*) AS n FROM raw.t;",
    );
    project.write("catchment.toml", "[maintenance]\ncheckpoint_after = 3\nminimum_files = 2\n");
    for id in 0..6 {
        project.write(&format!("in/{id}.jsonl"), format!("{{\"id\":{id}}}\n"));
    }
    project.run();
    let compacted = project.query("SELECT count(*) AS n FROM system.flows WHERE flow = 'raw.t'");
    assert_eq!(compacted[0]["n"], 6);
    let history = project.call(&["history", "raw.t", "--json"]).exits(0).json();
    let operations: Vec<_> = history.as_array().unwrap().iter().map(|entry| &entry["operation"]).collect();
    assert!(operations.iter().any(|operation| *operation == "OPTIMIZE"), "{history}");
    // The compaction came after its readers had been planned, or before; either way nothing is due.
    for _ in 0..2 {
        let report = project.run();
        for name in ["raw.t", "curated.t", "enriched.n"] {
            assert_eq!(dataset(&report, name)["status"], "up to date", "{report}");
        }
    }
    project.write("in/7.jsonl", "{\"id\":7}\n");
    let report = project.run();
    assert_eq!(dataset(&report, "curated.t")["rows_in"], 1);
    assert_eq!(project.query("SELECT n FROM enriched.n")[0]["n"], 7);
}

#[test]
fn vacuum_keeps_what_versions_releases_and_readers_need() {
    let project = Project::new(
        "CREATE STREAMING TABLE raw.t AS SELECT id FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT');
         CREATE STREAMING TABLE curated.t AS SELECT id FROM STREAM raw.t;",
    );
    let folder = project.path().to_str().unwrap().to_owned();
    let add = |id: u64, arguments: &[&str]| {
        project.write(&format!("in/{id}.jsonl"), format!("{{\"id\":{id}}}\n"));
        project.call(&[&["run", "--json"], arguments].concat()).exits(0);
    };
    add(0, &[]);
    project.call(&["release", "first", "-p", &folder]).exits(0);
    add(1, &[]);
    // The second table has not read these yet.
    for id in 2..5 {
        add(id, &["--select", "raw.t"]);
    }
    let sql = |statement: &str| project.call(&["sql", "--json", statement]).exits(0).json();
    assert_eq!(sql("OPTIMIZE raw.t")[0]["files_removed"], 5);
    // Never part of any version, such as what a killed process left behind.
    project.write("lake/raw/t/part-orphan.parquet", "x");
    let count = || {
        let files = std::fs::read_dir(project.path().join("lake/raw/t")).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "parquet")).count()
    };
    assert_eq!(count(), 7);
    assert_eq!(sql("VACUUM raw.t")[0]["files_removed"], 0, "all are younger than a week");
    // The release holds file 0; files 2 to 4 are still to be read; file 1 and the orphan are needed by nobody.
    assert_eq!(sql("VACUUM raw.t RETAIN 0 HOURS DRY RUN")[0]["files_removed"], 2);
    assert_eq!(count(), 7);
    assert_eq!(sql("VACUUM RETAIN 0 HOURS")[1]["files_removed"], 2);
    assert_eq!(count(), 5);
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t")[0]["n"], 5);
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t VERSION AS OF 'first'")[0]["n"], 1);
    project.run();
    assert_eq!(
        project.query("SELECT count(*) AS n, sum(id) AS s FROM curated.t"),
        serde_json::json!([{ "n": 5, "s": 10 }])
    );
    // Version 2 had file 1, which is gone.
    let refused = project.call(&["rollback", "raw.t", "--to", "2", "--cascade"]).exits(1);
    assert!(refused.err.contains("error[C4008]") && refused.err.contains("VACUUM"), "{}", refused.err);
    assert!(!project.path().join("lake/_catchment/rollback.json").exists());
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t")[0]["n"], 5);
    let wrong = project.call(&["sql", "VACUUM raw.t RETAIN some HOURS"]).exits(1);
    assert!(wrong.err.contains("error[C2001]"), "{}", wrong.err);
}

#[test]
fn a_replay_that_was_staged_survives_that_its_quarantine_is_compacted() {
    let pipeline = |least: i64| {
        format!(
            "CREATE STREAMING TABLE raw.t (CONSTRAINT least EXPECT (id > {least}) ON VIOLATION QUARANTINE)
             AS SELECT id FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT');"
        )
    };
    let project = Project::new(&pipeline(10));
    for id in 1..4 {
        project.write(&format!("in/{id}.jsonl"), format!("{{\"id\":{id}}}\n"));
        project.call(&["run"]).exits(2);
    }
    project.write("pipelines/all.sql", pipeline(1));
    let mut command = project.command(&["replay", "raw.t"]);
    command.env("CATCHMENT_FAULT", "staged-written:1:abort");
    assert_eq!(command.output().unwrap().status.code(), None);
    let joined = project.call(&["sql", "--json", "OPTIMIZE raw.t__quarantine"]).exits(0).json();
    assert_eq!(joined[0]["files_removed"], 3);
    project.call(&["replay", "raw.t"]).exits(2);
    assert_eq!(
        project.query("SELECT id FROM raw.t ORDER BY id"),
        serde_json::json!([{ "id": 2 }, { "id": 3 }])
    );
    assert_eq!(project.query("SELECT count(*) AS n FROM raw.t__quarantine")[0]["n"], 1);
    project.call(&["run"]).exits(0);
}

#[test]
fn a_clustered_table_is_sorted_by_optimize_and_read_in_parts() {
    let project = Project::new(
        "CREATE STREAMING TABLE raw.t PARTITIONED BY (part) CLUSTER BY (id) AS
           SELECT id, id % 2 AS part, md5(CAST(id AS VARCHAR)) AS text
           FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT', maxFilesPerTrigger => 1);
         CREATE STREAMING TABLE curated.t AS SELECT id FROM STREAM raw.t;",
    );
    project.write("catchment.toml", "[maintenance]\ntarget_file_size = '20KB'\n");
    for file in 0..4 {
        // Numbers of each file lie all over the range.
        let lines: String =
            (0..10_000).map(|row| format!("{{\"id\":{}}}\n", row * 7_919 % 10_000 * 4 + file)).collect();
        project.write(&format!("in/{file}.jsonl"), lines);
    }
    project.run();
    let all = "SELECT count(*) AS n, sum(id) AS s, count(DISTINCT text) AS d FROM raw.t";
    let before = project.query(all);
    let read = |sql: &str| {
        let out = project.call(&["sql", &format!("EXPLAIN {sql}")]).exits(0).out;
        let line = out.lines().find(|line| line.starts_with("raw.t: ")).unwrap().to_owned();
        let mut words = line.split(' ').skip(1);
        (words.next().unwrap().parse::<usize>().unwrap(), words.nth(1).unwrap().parse::<usize>().unwrap())
    };
    let query = "SELECT text FROM raw.t WHERE id = 20001 AND part = 1";
    let (unsorted, _) = read(query);
    assert!(unsorted > 1);
    let optimize = || project.call(&["sql", "--json", "OPTIMIZE raw.t"]).exits(0).json()[0].clone();
    assert_ne!(optimize()["files_removed"], 0);
    let (sorted, files) = read(query);
    assert!(sorted == 1 && files > 4, "{sorted} of {files}");
    assert_eq!(project.query(all), before);
    assert_eq!(optimize()["files_removed"], 0, "all is sorted already");
    // Readers pass it by, and what comes later is sorted in by the next one.
    project.write("in/9.jsonl", "{\"id\":20001}\n");
    project.run();
    assert_eq!(project.query("SELECT count(*) AS n FROM curated.t")[0]["n"], 40_001);
    assert_ne!(optimize()["files_removed"], 0);
    assert_eq!(read(query).0, 1);
    let wrong = Project::new(
        "CREATE STREAMING TABLE raw.t CLUSTER BY (idd) AS SELECT id FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT');",
    );
    let refused = wrong.call(&["check"]).exits(1).err;
    assert!(
        refused.contains("no column \"idd\" to cluster by") && refused.contains("did you mean \"id\"?"),
        "{refused}"
    );
}

/// What EXPLAIN says of a table: files read and all, row groups, and the share of bytes that is read.
fn sizes(project: &Project, table: &str, sql: &str) -> (u64, u64, String, f64) {
    let out = project.call(&["sql", &format!("EXPLAIN {sql}")]).exits(0).out;
    let line = out.lines().find(|line| line.starts_with(&format!("{table}: "))).unwrap().to_owned();
    let words: Vec<&str> = line.split(' ').collect();
    let number = |word: &str| word.replace(',', "").parse::<f64>().unwrap();
    let bytes = |at: usize| {
        let unit = match words[at + 1] {
            "B" => 1.0,
            "KB" => 1e3,
            "MB" => 1e6,
            other => panic!("{other} in {line}"),
        };
        number(words[at]) * unit
    };
    let end = words.len();
    let groups = words[words.iter().position(|word| *word == "groups,").unwrap() - 4..].join(" ");
    (number(words[1]) as u64, number(words[3]) as u64, groups, bytes(end - 7) / bytes(end - 4))
}

#[test]
fn a_z_order_serves_filters_on_either_column() {
    let project = Project::new(
        "CREATE STREAMING TABLE t.points PARTITIONED BY (part) AS SELECT a, b, md5(CAST(a AS VARCHAR)) AS text, a % 2 AS part
         FROM STREAM read_files('in', format => 'json', schema => 'a BIGINT, b VARCHAR');",
    );
    project.write("catchment.toml", "[maintenance]\ntarget_file_size = '40KB'\n");
    let lines: String = (0..300_000_u64)
        .map(|row| format!("{{\"a\":{},\"b\":\"{:06}\"}}\n", row * 7_919 % 300_000, row * 104_729 % 300_000))
        .collect();
    project.write("in/a.jsonl", lines);
    project.run();
    let all = "SELECT count(*) AS n, sum(a) AS s, max(b) AS b, count(DISTINCT text) AS d FROM t.points";
    let before = project.query(all);
    let refused = project.call(&["sql", "OPTIMIZE t.points ZORDER BY (a, c)"]).exits(1).err;
    assert!(refused.contains("no column \"c\""), "{refused}");
    let optimize =
        |text: &str| project.call(&["sql", "--json", text]).exits(0).json()[0]["files_removed"].clone();
    // One partition alone, then the other one, too.
    assert_eq!(optimize("OPTIMIZE t.points WHERE part = 0 ZORDER BY (a, b)"), 2);
    assert_ne!(optimize("OPTIMIZE t.points ZORDER BY (a, b)"), 0);
    assert_eq!(optimize("OPTIMIZE t.points ZORDER BY (a, b)"), 0, "all is in that order already");
    assert_eq!(project.query(all), before);
    for filter in ["a BETWEEN 20000 AND 20500", "b BETWEEN '020000' AND '020500'"] {
        let (read, files, _, share) =
            sizes(&project, "t.points", &format!("SELECT * FROM t.points WHERE {filter}"));
        assert!(files >= 16 && read * 2 < files && share < 0.5, "{filter}: {read} of {files} files, {share}");
    }
}

#[test]
fn rows_of_a_clustered_table_are_sorted_as_they_are_written_and_pages_are_left_out() {
    let pipeline = |cluster: &str| {
        format!(
            "CREATE STREAMING TABLE t.events (CONSTRAINT once EXPECT UNIQUE (id) ON VIOLATION DROP ROW) {cluster} AS
             SELECT id, md5(CAST(id AS VARCHAR)) AS text FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT');"
        )
    };
    let lines: String =
        (0..200_000_u64).map(|row| format!("{{\"id\":{}}}\n", row * 7_919 % 200_000)).collect();
    let mut shares = Vec::new();
    for cluster in ["", "CLUSTER BY (id)"] {
        let project = Project::new(&pipeline(cluster));
        project.write("catchment.toml", "[engine]\nthreads = 1\n");
        project.write("in/a.jsonl", &lines);
        project.run();
        let query = "SELECT text FROM t.events WHERE id = 77777";
        let (_, _, groups, share) = sizes(&project, "t.events", query);
        assert_eq!(project.query(query).as_array().unwrap().len(), 1);
        assert!(groups.contains("row groups"), "{groups}");
        assert_eq!(
            project.query("SELECT count(DISTINCT id) AS n, count(*) AS m FROM t.events"),
            json!([{ "n": 200_000, "m": 200_000 }])
        );
        shares.push(share);
    }
    assert!(shares[0] > 0.9 && shares[1] < 0.35, "{shares:?}");
}

#[test]
fn statistics_are_kept_of_the_columns_that_are_chosen() {
    let project = Project::new(
        "CREATE STREAMING TABLE t.some TBLPROPERTIES ('delta.dataSkippingStatsColumns' = 'b') AS
           SELECT a, a + 1 AS b FROM STREAM read_files('in', format => 'json', schema => 'a BIGINT');
         CREATE STREAMING TABLE t.first TBLPROPERTIES ('delta.dataSkippingNumIndexedCols' = '1') AS
           SELECT a, a + 1 AS b FROM STREAM read_files('in', format => 'json', schema => 'a BIGINT');",
    );
    project.write("in/a.jsonl", "{\"a\":1}\n");
    project.run();
    let stats = |table: &str| {
        let log = project.path().join(format!("lake/t/{table}/_delta_log/00000000000000000001.json"));
        let log = std::fs::read_to_string(log).unwrap();
        log.lines().find(|line| line.contains("minValues")).unwrap().to_owned()
    };
    assert!(stats("some").contains("minValues\\\":{\\\"b\\\":2}"), "{}", stats("some"));
    assert!(stats("first").contains("minValues\\\":{\\\"a\\\":1}"), "{}", stats("first"));
}

#[test]
fn explain_tells_of_older_versions_and_of_what_is_left_out_altogether() {
    let project = Project::new(
        "CREATE STREAMING TABLE t.t AS SELECT id FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT', maxFilesPerTrigger => 1);",
    );
    for file in 0..4 {
        project.write(&format!("in/{file}.jsonl"), format!("{{\"id\":{file}}}\n"));
    }
    project.run();
    project.call(&["sql", "OPTIMIZE t.t"]).exits(0);
    let line = |sql: &str| {
        let out = project.call(&["sql", &format!("EXPLAIN {sql}")]).exits(0).out;
        out.lines().find(|line| line.starts_with("t.t: ")).unwrap_or_default().to_owned()
    };
    assert!(line("SELECT * FROM t.t VERSION AS OF 3").starts_with("t.t: 3 of 3 files, "));
    assert!(
        line("SELECT * FROM t.t WHERE id = 99").starts_with("t.t: 0 of 1 files, 0 of 0 row groups, 0 B of ")
    );
    let wrong = [("delta.dataSkippingStatsColumns", "idd"), ("delta.dataSkippingNumIndexedCols", "-2")];
    for (key, value) in wrong {
        project.write(
            "pipelines/all.sql",
            format!("CREATE STREAMING TABLE t.t TBLPROPERTIES ('{key}' = '{value}') AS SELECT id FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT');"),
        );
        let told = project.call(&["check"]).exits(1).err;
        assert!(told.contains(value), "{told}");
    }
}

#[test]
fn a_lake_whose_lease_was_removed_is_owned_by_a_later_generation() {
    let project = Project::new(
        "CREATE STREAMING TABLE t.t AS SELECT id FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT');",
    );
    for file in 0..4 {
        project.write(&format!("in/{file}.jsonl"), format!("{{\"id\":{file}}}\n"));
        project.run();
    }
    std::fs::remove_file(project.path().join("lake/_catchment/lease.json")).unwrap();
    project.write("in/9.jsonl", "{\"id\":9}\n");
    project.run();
    assert_eq!(project.query("SELECT count(*) AS n FROM t.t"), json!([{ "n": 5 }]));
}

#[test]
fn a_table_of_somebody_else_that_is_broken_keeps_nothing_from_being_looked_after() {
    let project = Project::new(
        "CREATE STREAMING TABLE t.t AS SELECT id FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT');",
    );
    project.write("in/a.jsonl", "{\"id\":1}\n");
    project.run();
    project.write("lake/foo/bar/_delta_log/00000000000000000000.json", "no log");
    for arguments in [&["sql", "VACUUM"][..], &["advise"], &["recover"], &["run"]] {
        project.call(arguments).exits(0);
    }
    // Who names it is told.
    assert!(project.call(&["sql", "VACUUM foo.bar"]).exits(1).err.contains("C4003"));
    // One of the project's own is an error.
    project.write("lake/t/t/_delta_log/00000000000000000001.json", "no log");
    project.call(&["sql", "VACUUM"]).exits(1);
}
