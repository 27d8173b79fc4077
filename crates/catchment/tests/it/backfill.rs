//! Partitions that are computed anew: exactly those asked for, with the rows a rebuild would give them.

use serde_json::{Value, json};

use crate::project::{Project, dataset};

fn pipeline(factor: i64) -> String {
    format!(
        "CREATE STREAMING TABLE curated.orders (
           CONSTRAINT once EXPECT UNIQUE (id) ON VIOLATION DROP ROW,
           CONSTRAINT positive EXPECT (amount > 0) ON VIOLATION QUARANTINE
         ) PARTITIONED BY (day) AS
         SELECT id, amount * {factor} AS amount, CAST(day AS DATE) AS day
         FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT, amount BIGINT, day STRING');
         CREATE MATERIALIZED VIEW enriched.days AS
         SELECT day, count(*) AS orders, sum(amount) AS amount FROM curated.orders GROUP BY day;"
    )
}

fn write_day(project: &Project, name: &str, rows: &[(i64, i64, &str)]) {
    let lines: String = rows
        .iter()
        .map(|(id, amount, day)| format!("{{\"id\":{id},\"amount\":{amount},\"day\":\"2024-01-{day}\"}}\n"))
        .collect();
    project.write(&format!("in/{name}.jsonl"), lines);
}

/// Three days; 21 is late, 12 is twice there, 13 is bad.
fn project() -> Project {
    let project = Project::new(&pipeline(1));
    write_day(&project, "a", &[(11, 1, "01"), (12, 2, "01"), (13, -3, "01")]);
    write_day(&project, "b", &[(12, 2, "02"), (22, 4, "02"), (14, 5, "01")]);
    write_day(&project, "c", &[(21, 6, "02"), (31, 7, "03")]);
    project.call(&["run", "--json"]).exits(2);
    project
}

fn rows(project: &Project) -> Value {
    let found = project.query("SELECT id, amount, day FROM curated.orders ORDER BY id");
    let rows = found.as_array().unwrap().iter();
    json!(
        rows.map(|row| json!([row["id"], row["amount"], row["day"].as_str().unwrap()[8..]]))
            .collect::<Vec<_>>()
    )
}

/// The data files of a partition.
fn files(project: &Project, day: &str) -> Vec<String> {
    let mut files: Vec<String> =
        std::fs::read_dir(project.path().join(format!("lake/curated/orders/day=2024-01-{day}")))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
    files.sort();
    files
}

#[test]
fn exactly_the_partitions_asked_for_are_computed_anew() {
    let project = project();
    project.write("pipelines/all.sql", pipeline(10));
    let others = (files(&project, "01"), files(&project, "03"));
    let told = project.call(&[
        "backfill",
        "curated.orders",
        "--from",
        "2024-01-02",
        "--to",
        "2024-01-03",
        "--dry-run",
        "--json",
    ]);
    let told = told.exits(0).json();
    assert_eq!(
        (&told["run"], &told["steps"][0]["partitions"], &told["steps"][0]["rows"]),
        (&json!(null), &json!(1), &json!(2))
    );
    let told =
        project.call(&["backfill", "curated.orders", "--from", "2024-01-02", "--to", "2024-01-03", "--json"]);
    assert_eq!(dataset(&told.exits(0).json()["run"], "curated.orders")["rows_out"], 2);
    let expected =
        json!([[11, 1, "01"], [12, 2, "01"], [14, 5, "01"], [21, 60, "02"], [22, 40, "02"], [31, 7, "03"]]);
    assert_eq!(rows(&project), expected);
    assert_eq!((files(&project, "01"), files(&project, "03")), others, "files of other days were touched");
    // What reads the dataset follows, and nothing is read again.
    let report = project.run();
    assert_eq!(dataset(&report, "curated.orders")["status"], "up to date");
    assert_eq!(
        project.query("SELECT amount FROM enriched.days ORDER BY day"),
        json!([{ "amount": 8 }, { "amount": 100 }, { "amount": 7 }])
    );
}

#[test]
fn a_corrected_file_is_read_as_it_is_now_and_counts_as_read() {
    let project = project();
    // The bad row is mended, one is gone, one is new.
    write_day(&project, "a", &[(11, 1, "01"), (13, 3, "01"), (15, 9, "01")]);
    let changed = |report: &Value| report["changed_files"].as_array().unwrap().len();
    assert_eq!(changed(&project.call(&["run", "--json"]).json()), 1);
    // Another day leaves it alone, whatever is said of it, and so does its own day while nothing is said: rows of its old
    // content might stand elsewhere.
    let fill = |arguments: &[&str]| {
        let all = [&["backfill", "curated.orders", "--json"], arguments].concat();
        changed(&project.call(&all).exits(0).json()["run"])
    };
    assert_eq!(fill(&["--where", "day = '2024-01-03'", "--settle"]), 1);
    assert_eq!(fill(&["--where", "day = '2024-01-01'"]), 1);
    assert_eq!(fill(&["--from", "2024-01-01", "--to", "2024-01-03", "--step", "1d", "--settle"]), 0);
    // 12 was dropped on the second day only while the first had it.
    let expected = json!([
        [11, 1, "01"],
        [12, 2, "02"],
        [13, 3, "01"],
        [14, 5, "01"],
        [15, 9, "01"],
        [21, 6, "02"],
        [22, 4, "02"],
        [31, 7, "03"]
    ]);
    assert_eq!(rows(&project), expected);
    assert_eq!(
        project.query("SELECT record FROM curated.orders__quarantine"),
        json!([]),
        "its record is not there any more"
    );
    assert_eq!(changed(&project.run()), 0);
    // All of it settles by itself.
    write_day(&project, "a", &[(11, 2, "03")]);
    assert_eq!(changed(&project.run()), 1);
    assert_eq!(fill(&["--all"]), 0);
    assert_eq!(rows(&project)[0], json!([11, 2, "03"]));
}

#[test]
fn records_in_quarantine_are_left_to_the_replay() {
    let project = project();
    project.write("pipelines/all.sql", pipeline(1).replace("amount > 0", "amount <> 0"));
    project.call(&["backfill", "curated.orders", "--all", "--json"]).exits(0);
    assert_eq!(rows(&project).as_array().unwrap().len(), 6);
    project.call(&["replay", "curated.orders", "--json"]).exits(0);
    assert_eq!(rows(&project)[2], json!([13, -3, "01"]));
    // A rule that takes more than before: what was published goes into quarantine, once.
    project.write("pipelines/all.sql", pipeline(1).replace("amount > 0", "amount > 4"));
    for _ in 0..2 {
        project.call(&["backfill", "curated.orders", "--all", "--json"]);
        let expected = json!([[14, 5, "01"], [21, 6, "02"], [31, 7, "03"]]);
        assert_eq!(rows(&project), expected);
        let apart = project.query("SELECT count(*) AS n FROM curated.orders__quarantine");
        assert_eq!(apart, json!([{ "n": 5 }]));
    }
}

#[test]
fn a_step_at_a_time_is_finished_by_whoever_runs_next() {
    for hits in 1..40 {
        let project = project();
        project.write("pipelines/all.sql", pipeline(10));
        let mut command = project.command(&[
            "backfill",
            "curated.orders",
            "--from",
            "2024-01-01",
            "--to",
            "2024-01-04",
            "--step",
            "1d",
        ]);
        command.env("CATCHMENT_FAULT", format!("any:{hits}:abort"));
        if command.output().unwrap().status.code().is_some() {
            assert!(hits > 12, "too few places to be killed at");
            return;
        }
        let begun = project.path().join("lake/_catchment/backfill.json").exists();
        project.call(&["run", "--json"]);
        let factor = if begun { 10 } else { 1 };
        let expected: Vec<Value> =
            [(11, 1, "01"), (12, 2, "01"), (14, 5, "01"), (21, 6, "02"), (22, 4, "02"), (31, 7, "03")]
                .iter()
                .map(|(id, amount, day)| json!([id, amount * factor, day]))
                .collect();
        assert!(begun || hits < 6, "killed at {hits}");
        assert_eq!(rows(&project), json!(expected), "killed at {hits}");
        assert_eq!(
            project.query("SELECT count(*) AS n FROM curated.orders__quarantine"),
            json!([{ "n": 1 }])
        );
    }
}

#[test]
fn several_flows_fill_their_table_together() {
    let project = Project::new(
        "CREATE STREAMING TABLE t.sums (CONSTRAINT once EXPECT UNIQUE (id) ON VIOLATION DROP ROW) PARTITIONED BY (part);
         CREATE FLOW old AS INSERT ONCE INTO t.sums BY NAME SELECT id, id * 1 AS value, id % 2 AS part FROM read_files('old', format => 'json', schema => 'id BIGINT');
         CREATE FLOW new AS INSERT INTO t.sums BY NAME SELECT id, id * 1 AS value, id % 2 AS part FROM STREAM read_files('new', format => 'json', schema => 'id BIGINT');",
    );
    project.write("old/a.json", "{\"id\":1}\n{\"id\":2}\n");
    project.write("new/a.json", "{\"id\":2}\n{\"id\":3}\n{\"id\":4}\n{\"id\":5}\n");
    project.run();
    let text = std::fs::read_to_string(project.path().join("pipelines/all.sql")).unwrap();
    project.write("pipelines/all.sql", text.replace("id * 1", "id * 100"));
    project.call(&["backfill", "t.sums", "--where", "part = 1", "--json"]).exits(0);
    let found = project.query("SELECT id, value FROM t.sums ORDER BY id");
    let value = |row: usize| found[row]["value"].as_i64().unwrap();
    assert_eq!([value(0), value(1), value(2), value(3), value(4)], [100, 2, 300, 4, 500]);
    // Both know what they have taken.
    project.write("new/b.json", "{\"id\":5}\n{\"id\":6}\n");
    assert_eq!(dataset(&project.run(), "t.sums")["rows_out"], 1);
    assert_eq!(project.query("SELECT count(*) AS n FROM t.sums"), json!([{ "n": 6 }]));
    project.call(&["backfill", "t.sums", "--all", "--json"]).exits(0);
    assert_eq!(project.query("SELECT sum(value) AS n FROM t.sums"), json!([{ "n": 2100 }]));
}

#[test]
fn files_that_are_gone_refuse_it_and_nothing_is_left_behind() {
    let project = project();
    std::fs::remove_file(project.path().join("in/b.jsonl")).unwrap();
    let before = rows(&project);
    let told =
        project.call(&["backfill", "curated.orders", "--where", "day = '2024-01-01'", "--json"]).exits(1);
    assert!(told.out.contains("in/b.jsonl") && told.out.contains("C4008"), "{}", told.out);
    assert_eq!(rows(&project), before);
    project.run();
    project.call(&["backfill", "--cancel"]).exits(0);
    assert_eq!(
        project
            .call(&["backfill", "curated.orders", "--where", "amount = 3"])
            .exits(1)
            .err
            .matches("partition columns are day")
            .count(),
        1
    );
}

#[test]
fn what_reads_the_partitions_as_a_stream_follows_in_the_same_partitions() {
    let project = Project::new(
        "CREATE STREAMING TABLE raw.o PARTITIONED BY (day) AS
           SELECT id, v * 1 AS v, CAST(day AS DATE) AS day FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT, v BIGINT, day STRING');
         CREATE STREAMING TABLE s.same (CONSTRAINT positive EXPECT (v > 0) ON VIOLATION QUARANTINE) PARTITIONED BY (day) AS
           SELECT id, v, day FROM STREAM raw.o;
         CREATE STREAMING TABLE s.other PARTITIONED BY (day) AS SELECT id, v, day + INTERVAL '1 day' AS day FROM STREAM raw.o;
         CREATE MATERIALIZED VIEW m.a AS SELECT sum(v) AS v FROM s.same;",
    );
    project.write("in/a.json", "{\"id\":1,\"v\":1,\"day\":\"2024-01-01\"}\n{\"id\":2,\"v\":2,\"day\":\"2024-01-02\"}\n{\"id\":3,\"v\":-2,\"day\":\"2024-01-02\"}\n");
    project.call(&["run"]).exits(2);
    let text = std::fs::read_to_string(project.path().join("pipelines/all.sql")).unwrap();
    project.write("pipelines/all.sql", text.replace("v * 1", "v * 10"));
    let arguments = ["backfill", "raw.o", "--from", "2024-01-02", "--to", "2024-01-03", "--json"];
    let refused = project.call(&arguments).exits(1);
    assert!(refused.err.contains("C4011") || refused.out.contains("C4011"), "{}{}", refused.out, refused.err);
    let told = project.call(&[&arguments[..], &["--cascade"]].concat()).exits(2).json();
    let within = |row: usize| told["steps"][row]["where"].as_str().unwrap();
    assert_eq!(within(1), "TRUE");
    assert_eq!(within(2), within(0));
    // The record in quarantine moved with the file that it stood in, and is not taken for another one.
    let sums = "SELECT (SELECT sum(v) FROM s.same) AS same, (SELECT sum(v) FROM s.other) AS other, (SELECT count(*) FROM s.same__quarantine) AS apart";
    assert_eq!(project.query(sums), json!([{ "same": 21, "other": 1, "apart": 1 }]));
    project.run();
    assert_eq!(project.query("SELECT v FROM m.a"), json!([{ "v": 21 }]));
    // Given up in between, the reader says what it has missed.
    project.write("pipelines/all.sql", text.replace("v * 1", "v * 100"));
    let mut command = project.command(&[&arguments[..], &["--cascade"]].concat());
    command.env("CATCHMENT_FAULT", "published:1:abort").output().unwrap();
    let left = project.call(&["backfill", "--cancel", "--json"]).exits(0).json();
    assert_eq!(left["left"].as_array().unwrap().len(), 3);
    let told = project.call(&["run"]).exits(1);
    assert!(told.err.contains("catchment backfill s.same --all"), "{}", told.err);
    project.call(&["backfill", "s.same", "s.other", "--all"]).exits(2);
    assert_eq!(project.query(sums), json!([{ "same": 201, "other": 1, "apart": 1 }]));
}

#[test]
fn a_flow_replaces_the_partitions_of_its_condition_and_no_others() {
    let project = Project::new(
        "CREATE MATERIALIZED VIEW raw.o AS SELECT id, amount AS v, CAST(day AS DATE) AS day FROM read_files('in', format => 'json', schema => 'id BIGINT, amount BIGINT, day STRING');
         CREATE STREAMING TABLE t.days (CONSTRAINT positive EXPECT (total > 0) ON VIOLATION QUARANTINE) PARTITIONED BY (day);
         CREATE FLOW old AS INSERT ONCE INTO t.days BY NAME SELECT CAST('2023-12-31' AS DATE) AS day, 1 AS n, 5 AS total;
         CREATE FLOW recent AS INSERT INTO t.days BY NAME REPLACE WHERE day >= DATE '2024-01-02' AND day IS NOT NULL
           SELECT day, count(*) AS n, sum(v) AS total FROM raw.o GROUP BY day;",
    );
    let days = || {
        let rows = project.query("SELECT day, n, total FROM t.days ORDER BY day");
        let rows = rows.as_array().unwrap().iter();
        json!(
            rows.map(|row| json!([row["day"].as_str().unwrap()[5..], row["n"], row["total"]]))
                .collect::<Vec<_>>()
        )
    };
    write_day(&project, "a", &[(1, 5, "01"), (2, 6, "02"), (3, 7, "03"), (4, -9, "04")]);
    project.call(&["run"]).exits(2);
    // The first day is not in the condition, so it is left out.
    assert_eq!(days(), json!([["12-31", 1, 5], ["01-02", 1, 6], ["01-03", 1, 7]]));
    // What it reads is computed again as a whole, corrected and late rows with it.
    write_day(&project, "a", &[(1, 5, "01"), (2, 60, "02"), (4, -9, "04")]);
    write_day(&project, "b", &[(5, 1, "02"), (6, 2, "05")]);
    project.call(&["run", "--json"]);
    assert_eq!(days(), json!([["12-31", 1, 5], ["01-02", 2, 61], ["01-05", 1, 2]]));
    let apart = project.query("SELECT count(*) AS n FROM t.days__quarantine");
    assert_eq!(apart, json!([{ "n": 1 }]), "the same bad row is there once");
    assert_eq!(dataset(&project.run(), "t.days")["status"], "up to date");
    // A kill anywhere leaves either what was or what is.
    for hits in (1..30).step_by(3) {
        write_day(&project, "b", &[(5, hits, "02")]);
        project.command(&["run"]).env("CATCHMENT_FAULT", format!("any:{hits}:abort")).output().unwrap();
        project.call(&["run"]);
        assert_eq!(days(), json!([["12-31", 1, 5], ["01-02", 2, 60 + hits]]), "killed at {hits}");
    }
    let text = std::fs::read_to_string(project.path().join("pipelines/all.sql")).unwrap();
    project
        .write("pipelines/all.sql", text.replace("REPLACE WHERE day >=", "REPLACE WHERE n > 1 AND day >="));
    let told = project.call(&["check"]).exits(1).err;
    assert!(told.contains("partition columns are day") && told.contains("all.sql:4:"), "{told}");
}

#[test]
fn a_flow_that_replaces_partitions_is_no_stream_and_fills_nothing() {
    let pipeline = |flow: &str, rule: &str| {
        format!(
            "CREATE MATERIALIZED VIEW raw.o AS SELECT id, amount FROM read_files('in', format => 'json', schema => 'id BIGINT, amount BIGINT');
             CREATE STREAMING TABLE t.t (CONSTRAINT r EXPECT ({rule}) ON VIOLATION DROP ROW) PARTITIONED BY (p);
             {flow}"
        )
    };
    let replaces = "CREATE FLOW f AS INSERT INTO t.t BY NAME REPLACE WHERE p = 1 SELECT id, amount, id % 2 AS p FROM raw.o;";
    let project = Project::new(&pipeline(replaces, "id <> 3"));
    write_day(&project, "a", &[(1, 1, "01"), (2, 2, "01"), (3, 3, "01")]);
    project.run();
    let ids = || project.query("SELECT id FROM t.t ORDER BY id");
    assert_eq!(ids(), json!([{ "id": 1 }]));
    for arguments in [&["backfill", "t.t", "--all"][..], &["backfill", "t.t", "--where", "p = 0"]] {
        let told = project.call(arguments).exits(1).err;
        assert!(told.contains("replaces partitions by itself"), "{told}");
    }
    assert_eq!(ids(), json!([{ "id": 1 }]));
    // Its rules are part of it, and it stays what it is.
    project.write("pipelines/all.sql", pipeline(replaces, "id <> 4"));
    project.run();
    assert_eq!(ids(), json!([{ "id": 1 }, { "id": 3 }]));
    let adds = "CREATE FLOW f AS INSERT INTO t.t BY NAME SELECT id, amount, id % 2 AS p FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT, amount BIGINT');";
    project.write("pipelines/all.sql", pipeline(adds, "id <> 4"));
    let told = project.call(&["run"]).exits(1).err;
    assert!(told.contains("replaced partitions before, and adds rows"), "{told}");
    project.call(&["run", "--full-refresh"]).exits(0);
    assert_eq!(ids(), json!([{ "id": 1 }, { "id": 2 }, { "id": 3 }]));
    let reader = "CREATE STREAMING TABLE d.t AS SELECT id FROM STREAM t.t;";
    project.write("pipelines/all.sql", pipeline(&format!("{replaces}{reader}"), "id <> 4"));
    let told = project.call(&["check"]).exits(1).err;
    assert!(told.contains("has a flow with REPLACE WHERE"), "{told}");
}
