//! Joins of two streams within a stretch of time: what is refused, and who holds the watermark. That they are what the same
//! query gives over all input is in `windows.rs`.

use serde_json::json;

use crate::project::{Project, dataset};

#[test]
fn joins_of_streams_that_would_remember_all_of_them_are_refused() {
    let streams = "CREATE STREAM a (k BIGINT, ts TIMESTAMP, ts2 TIMESTAMP, WATERMARK ts DELAY OF INTERVAL '1' SECOND);
        CREATE STREAM b (k BIGINT, ts TIMESTAMP, other TIMESTAMP, WATERMARK ts DELAY OF INTERVAL '1' SECOND);";
    let check = |join: &str| {
        let project = Project::new(&format!(
            "{streams} CREATE STREAMING TABLE t AS SELECT a.k, b.ts FROM STREAM a {join};"
        ));
        project.call(&["check"])
    };
    for (join, why) in [
        ("JOIN STREAM b ON a.k = b.k", "do not bound each other"),
        ("JOIN STREAM b ON a.k = b.k AND b.ts > a.ts", "do not bound each other"),
        ("JOIN STREAM b ON b.ts BETWEEN a.ts AND a.ts + INTERVAL '1' MONTH", "do not bound each other"),
        (
            "LEFT JOIN STREAM b ON b.ts BETWEEN a.ts AND a.ts + INTERVAL '1' SECOND",
            "a LEFT join of two streams",
        ),
        // What is rounded, or of another zone, or a time of day, says nothing of the times themselves.
        ("JOIN STREAM b ON CAST(a.ts AS DATE) = CAST(b.ts AS DATE)", "do not bound each other"),
        ("JOIN STREAM b ON CAST(a.ts AS TIME) = CAST(b.ts AS TIME)", "do not bound each other"),
        (
            "JOIN STREAM b ON CAST(a.ts AS TIMESTAMP(0)) = CAST(b.ts AS TIMESTAMP(0))",
            "do not bound each other",
        ),
        (
            "JOIN STREAM b ON CAST(b.ts AS TIMESTAMPTZ) BETWEEN a.ts AT TIME ZONE 'Europe/Berlin' AND a.ts AT TIME ZONE 'Europe/Berlin' + INTERVAL '1' HOUR",
            "do not bound each other",
        ),
        // Bounded by a time that is not the one of the watermark.
        ("JOIN STREAM b ON b.other BETWEEN a.ts AND a.ts + INTERVAL '1' SECOND", "the watermark is of ts"),
    ] {
        let told = check(join).exits(1);
        assert!(told.err.contains(why), "{join}: {}", told.err);
    }
    // Times that are equal are keys beside one that is bounded.
    check("JOIN STREAM b ON a.ts2 = b.other AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '1' HOUR").exits(0);
    let fine =
        check("JOIN STREAM b ON a.k = b.k AND b.ts > a.ts AND b.ts - INTERVAL '1' DAY < a.ts").exits(0);
    assert!(fine.out.contains("a join with rows up to 1 day later"), "{}", fine.out);
    assert!(fine.out.contains("a join with rows up to 0 seconds later"), "{}", fine.out);
    let project = Project::new(&format!(
        "{streams} CREATE STREAMING TABLE t AS SELECT a.k, count(*) AS n FROM STREAM a JOIN STREAM b ON b.ts BETWEEN a.ts AND a.ts + INTERVAL '1' SECOND GROUP BY a.k;"
    ));
    let told = project.call(&["check"]).exits(1);
    assert!(told.err.contains("without the window in its GROUP BY"), "{}", told.err);
}

#[test]
fn an_input_that_has_given_nothing_yet_holds_the_watermark() {
    let read = |folder: &str| {
        format!(
            "STREAM read_files('{folder}', format => 'json', schema => 'k BIGINT, ts TIMESTAMP') WATERMARK ts DELAY OF INTERVAL '10' SECONDS"
        )
    };
    let project = Project::new(&format!(
        "CREATE STREAMING TABLE joined AS SELECT a.k FROM {} a JOIN {} b ON a.k = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '1' MINUTE;",
        read("a"),
        read("b")
    ));
    let line = |k: u64, time: &str| json!({ "k": k, "ts": format!("2026-01-01T{time}") }).to_string() + "\n";
    project.write("a/1.json", line(1, "10:00:00") + &line(8, "10:01:40"));
    std::fs::create_dir(project.path().join("b")).unwrap();
    project.run();
    project.write("b/1.json", line(1, "10:00:30"));
    let report = project.run();
    assert_eq!(dataset(&report, "main.joined")["dropped"], 0);
    project.write("a/2.json", line(9, "11:00:00"));
    project.write("b/2.json", line(9, "12:00:00"));
    project.run();
    assert_eq!(project.query("SELECT k FROM joined"), json!([{ "k": 1 }]));
}
