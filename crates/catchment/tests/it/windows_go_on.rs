//! What flows with windows go on from: times wherever they are declared, silence, edits of their queries.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::project::{Done, Project};

fn put(project: &Project, stream: &str, lines: &[&str]) {
    let mut command = project.command(&["stream", "put", stream, "--key", "k"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let done: Done = child.wait_with_output().unwrap().into();
    done.exits(0);
}

const MINUTES: &str = "CREATE STREAMING TABLE minutes AS
SELECT TUMBLE_START(at, INTERVAL '1' MINUTE) AS minute, count(*) AS n FROM STREAM ev GROUP BY TUMBLE(at, INTERVAL '1' MINUTE)";

#[test]
fn late_rows_are_told_by_the_time_wherever_its_column_stands() {
    for first in ["k VARCHAR", "k BIGINT", "k BIGINT, sent TIMESTAMP"] {
        let project = Project::new(&format!(
            "CREATE STREAM ev ({first}, at TIMESTAMP, WATERMARK at DELAY OF INTERVAL '10' SECONDS);
             {MINUTES} LATE ROWS INTO late;"
        ));
        project.run();
        let event = |sent: &str, at: &str| {
            let k = if first == "k VARCHAR" { "\"7\"" } else { "7" };
            format!(r#"{{"k": {k}, "sent": "2026-03-01 {sent}", "at": "2026-03-01 {at}"}}"#)
        };
        put(&project, "ev", &[&event("12:00:00", "10:00:05"), &event("12:00:01", "10:05:00")]);
        project.run();
        let minute = json!([{ "minute": "2026-03-01T10:00:00", "n": 1 }]);
        assert_eq!(project.query("SELECT * FROM minutes"), minute, "{first}");
        put(&project, "ev", &[&event("12:00:02", "10:00:50")]);
        project.run();
        assert_eq!(project.query("SELECT * FROM minutes"), minute, "{first}");
        let late = project.query("SELECT CAST(k AS VARCHAR) AS k, at FROM late");
        assert_eq!(late, json!([{ "k": "7", "at": "2026-03-01T10:00:50" }]), "{first}");
        assert_eq!(project.query("SELECT count(*) AS n FROM minutes__quarantine"), json!([{ "n": 0 }]));
    }
}

#[test]
fn when_all_shards_are_silent_the_newest_event_closes_windows() {
    let project = Project::new(&format!(
        "CREATE STREAM ev (k VARCHAR, at TIMESTAMP, WATERMARK at DELAY OF INTERVAL '5' SECONDS IDLE AFTER INTERVAL '1' SECOND) SHARDS 4;
         {MINUTES};"
    ));
    project.run();
    let lines: Vec<String> = (0..20)
        .map(|k| format!(r#"{{"k": "{k}", "at": "2026-03-01 10:00:40"}}"#))
        .chain([r#"{"k": "0", "at": "2026-03-01 10:05:10"}"#.to_owned()])
        .collect();
    put(&project, "ev", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    project.run();
    let begun = Instant::now();
    // Nothing more comes; only time passes.
    while project.query("SELECT n FROM minutes") != json!([{ "n": 20 }]) {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{}",
            project.query("SELECT * FROM system.windows")
        );
        project.run();
    }
    let reasons = project
        .query("SELECT DISTINCT holds_back, reason LIKE 'idle as all are%' AS told FROM system.windows");
    assert_eq!(reasons, json!([{ "holds_back": false, "told": true }]));
}

/// Rows wait, then the project is edited; what `check` says, and what the table has when all windows are closed.
fn edited(before: (&str, &str), after: (&str, &str)) -> Result<Value, String> {
    let write = |(columns, query): (&str, &str)| {
        format!(
            "CREATE STREAM ev ({columns}, WATERMARK at DELAY OF INTERVAL '5' SECONDS);\nCREATE STREAMING TABLE t AS {query};"
        )
    };
    let project = Project::new(&write(before));
    project.run();
    put(
        &project,
        "ev",
        &[
            r#"{"k": "a", "at": "2026-03-01 10:00:05", "u": 3}"#,
            r#"{"k": "a", "at": "2026-03-01 10:00:09", "u": 4}"#,
        ],
    );
    project.run();
    project.write("pipelines/all.sql", write(after));
    let checked = project.call(&["check"]);
    let (code, told) = (checked.code, checked.err);
    if code != Some(0) {
        assert_ne!(project.call(&["run"]).code, Some(0), "a run goes on where check refuses: {told}");
        return Err(told);
    }
    put(
        &project,
        "ev",
        &[
            r#"{"k": "a", "at": "2026-03-01 10:00:20", "u": 5000000000}"#,
            r#"{"k": "b", "at": "2026-03-01 11:30:00", "u": 1}"#,
        ],
    );
    project.run();
    Ok(project.query("SELECT * FROM t"))
}

#[test]
fn rows_that_wait_are_kept_when_columns_are_added_or_become_wider() {
    let tumble = "SELECT k, sum(u) AS u FROM STREAM ev GROUP BY k, TUMBLE(at, INTERVAL '1' MINUTE)";
    let session = "SELECT k, sum(u) AS u FROM STREAM ev GROUP BY k, SESSION(at, INTERVAL '1' MINUTE)";
    let (narrow, wide) = ("k VARCHAR, at TIMESTAMP, u INTEGER", "k VARCHAR, at TIMESTAMP, u BIGINT");
    let all = json!([{ "k": "a", "u": 5_000_000_007_i64 }]);
    for query in [tumble, session] {
        assert_eq!(edited((narrow, query), (wide, query)), Ok(all.clone()), "{query}");
        let added = "x VARCHAR, u BIGINT, at TIMESTAMP, k VARCHAR";
        assert_eq!(edited((wide, query), (added, query)), Ok(all.clone()), "{query}");
        // Narrower, or of another kind.
        let told = edited(
            (wide, query),
            ("k VARCHAR, at TIMESTAMP, u VARCHAR", &query.replace("sum(u)", "sum(CAST(u AS BIGINT))")),
        )
        .unwrap_err();
        assert!(told.contains("C2009") && told.contains("stream:ev holds now"), "{told}");
    }
    let told =
        edited((wide, session), (wide, &session.replace("GROUP BY", "WHERE u > 3 GROUP BY"))).unwrap_err();
    assert!(told.contains("by another condition or key") && !told.contains("TableScan"), "{told}");
    // Columns of the result that are gone are refused by check, as by run.
    let told = edited((wide, tumble), (wide, &tumble.replace("sum(u) AS u", "count(*) AS n"))).unwrap_err();
    assert!(told.contains("C2013") && told.contains("gone now"), "{told}");
}

#[test]
fn a_declared_stream_has_the_hidden_column_of_what_it_reads() {
    let project = Project::new(
        "CREATE STREAM clicks (k VARCHAR, n BIGINT, at TIMESTAMP, WATERMARK at DELAY OF INTERVAL '5' SECONDS);
         CREATE STREAM later (k VARCHAR, at TIMESTAMP, WATERMARK at + INTERVAL '1' HOUR AS moved DELAY OF INTERVAL '5' SECONDS);
         CREATE STREAMING TABLE t.all AS SELECT *, _metadata.shard_id AS shard FROM STREAM clicks;
         CREATE STREAMING TABLE t.of AS SELECT c.*, c._metadata.partition_key AS key FROM STREAM clicks c;
         CREATE STREAMING TABLE t.moved AS SELECT *, _metadata.stream AS stream FROM STREAM later;
         CREATE STREAMING TABLE t.arrived AS
           SELECT k, window_start, _metadata.shard_id AS shard, count(*) AS n
           FROM TABLE(TUMBLE(STREAM clicks, DESCRIPTOR(at), INTERVAL '1' MINUTE)) WHERE _metadata.arrived_at > TIMESTAMP '2026-01-01' GROUP BY ALL;",
    );
    project.run();
    put(&project, "clicks", &["{\"k\":\"a\",\"n\":1,\"at\":\"2024-01-01T00:00:00Z\"}"]);
    put(&project, "clicks", &["{\"k\":\"b\",\"n\":2,\"at\":\"2024-01-01T01:00:00Z\"}"]);
    put(&project, "later", &["{\"k\":\"a\",\"at\":\"2024-01-01T00:00:00Z\"}"]);
    project.run();
    assert_eq!(
        project.query("SELECT * FROM t.all ORDER BY n LIMIT 1"),
        json!([{ "k": "a", "n": 1, "at": "2024-01-01T00:00:00", "shard": "shardId-000000000000" }])
    );
    assert_eq!(
        project.query("SELECT * FROM t.of WHERE n = 2"),
        json!([{ "k": "b", "n": 2, "at": "2024-01-01T01:00:00", "key": "b" }])
    );
    assert_eq!(
        project.query("SELECT * FROM t.moved"),
        json!([{ "k": "a", "at": "2024-01-01T00:00:00", "moved": "2024-01-01T01:00:00", "stream": "later" }])
    );
    assert_eq!(
        project.query("SELECT * FROM t.arrived"),
        json!([{ "k": "a", "window_start": "2024-01-01T00:00:00", "shard": "shardId-000000000000", "n": 1 }])
    );
    assert_eq!(
        project.query("SELECT c.*, _metadata.stream AS stream FROM clicks AS c WHERE n = 1"),
        json!([{ "k": "a", "n": 1, "at": "2024-01-01T00:00:00", "stream": "clicks" }])
    );
    assert_eq!(
        project.query("SELECT count(*) AS n FROM (SELECT * FROM clicks) AS a JOIN clicks AS b USING (k)"),
        json!([{ "n": 2 }])
    );
}

#[test]
fn hidden_columns_that_nobody_names_are_nowhere() {
    let columns = "k VARCHAR, n BIGINT, at TIMESTAMP, WATERMARK at DELAY OF INTERVAL '5' SECONDS";
    let project = Project::new(&format!(
        "CREATE STREAM clicks ({columns});
         CREATE STREAM other ({});
         CREATE STREAMING TABLE t.base AS SELECT * FROM STREAM clicks;
         CREATE STREAMING TABLE t.joined AS SELECT k, n, m FROM STREAM clicks NATURAL JOIN STREAM other WHERE ts BETWEEN at AND at + INTERVAL '1' MINUTE;
         CREATE STREAMING TABLE t.windows AS SELECT w.k, w.window_start, w._metadata.shard_id AS shard FROM TABLE(TUMBLE(STREAM clicks, DESCRIPTOR(at), INTERVAL '1' MINUTE)) AS w;
         CREATE STREAMING TABLE t.listed AS SELECT a, count(*) AS n FROM STREAM clicks AS c(a, b, d) GROUP BY a, TUMBLE(d, INTERVAL '1' MINUTE);",
        columns.replace("n BIGINT", "m BIGINT").replace("at TIME", "ts TIME").replace("MARK at", "MARK ts"),
    ));
    project.run();
    for minute in ["00", "30"] {
        let line = format!(
            "{{\"k\":\"a{minute}\",\"n\":1,\"m\":2,\"at\":\"2024-01-01T00:{minute}:00Z\",\"ts\":\"2024-01-01T00:{minute}:00Z\"}}"
        );
        put(&project, "clicks", &[&line]);
        put(&project, "other", &[&line]);
        project.run();
    }
    assert_eq!(project.query("SELECT * FROM t.joined"), json!([{ "k": "a00", "n": 1, "m": 2 }]));
    let window =
        json!([{ "k": "a00", "window_start": "2024-01-01T00:00:00", "shard": "shardId-000000000000" }]);
    assert_eq!(project.query("SELECT * FROM t.windows"), window);
    assert_eq!(project.query("SELECT * FROM t.listed"), json!([{ "a": "a00", "n": 1 }]));
    let row =
        json!([{ "k": "a00", "n": 1, "at": "2024-01-01T00:00:00", "m": 2, "ts": "2024-01-01T00:00:00" }]);
    for query in [
        "SELECT * FROM clicks c JOIN other o USING (k) WHERE c.k = 'a00'",
        "SELECT * FROM clicks NATURAL JOIN other WHERE n = 1 AND clicks.k = 'a00'",
        "SELECT c.*, m, ts FROM (clicks c JOIN other o USING (k)) WHERE c.k = 'a00'",
    ] {
        assert_eq!(project.query(query), row, "{query}");
    }
    let excluded =
        project.query("SELECT * EXCLUDE (at, ts) FROM clicks c JOIN other o USING (k) WHERE c.k = 'a00'");
    assert_eq!(excluded, json!([{ "k": "a00", "n": 1, "m": 2 }]));
    assert_eq!(
        project.query(
            "SELECT *, c._metadata.stream AS s FROM clicks c JOIN other o USING (k) WHERE c.k = 'a00'"
        ),
        json!([{ "k": "a00", "n": 1, "at": "2024-01-01T00:00:00", "m": 2, "ts": "2024-01-01T00:00:00", "s": "clicks" }])
    );
    assert_eq!(
        project.query("SELECT a FROM clicks AS c(a, b, d) WHERE b = 1 ORDER BY a LIMIT 1"),
        json!([{ "a": "a00" }])
    );
    project.write("pipelines/odd.sql", "CREATE STREAM odd (_metadata VARCHAR);");
    assert!(project.call(&["check"]).exits(1).err.contains("give the column another name"));
}
