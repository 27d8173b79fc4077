//! Windows over sharded streams: declared in SQL, resharded, idle.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::kinesis::Serving;
use crate::kinesis::flows::base64;
use crate::project::{Done, Project};

/// The statement of the brief's first scenario, as it stands there.
const BRIEF: &str = "
CREATE STREAM pageview_aggregates AS
SELECT STREAM
page_id,
TUMBLE_START(event_time, INTERVAL '1' MINUTE) as window_start,
COUNT(*) as views,
COUNT(DISTINCT user_id) as unique_users
FROM clickstream
GROUP BY page_id, TUMBLE(event_time, INTERVAL '1' MINUTE);
";

const DECLARATION: &str = "
CREATE STREAM clickstream (page_id STRING, user_id BIGINT, event_time TIMESTAMP,
  WATERMARK event_time DELAY OF INTERVAL '5' SECONDS IDLE AFTER INTERVAL '1' HOUR) SHARDS 2 RETENTION INTERVAL '2' DAYS;
";

fn put(project: &Project, lines: &[String]) {
    let mut command = project.command(&["stream", "put", "clickstream", "--key", "page_id"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let done: Done = child.wait_with_output().unwrap().into();
    done.exits(0);
}

fn event(page: u64, user: u64, seconds: i64) -> String {
    let time = chrono::DateTime::from_timestamp(1_767_225_600 + seconds, 0).unwrap();
    json!({ "page_id": format!("p{page}"), "user_id": user, "event_time": time.format("%Y-%m-%d %H:%M:%S").to_string() })
        .to_string()
}

/// Every page has an event at this second, so that every shard has one.
fn beat(seconds: i64) -> Vec<String> {
    (0..40).map(|page| event(page, 0, seconds)).collect()
}

#[test]
fn the_statement_of_the_brief_counts_through_reshards_and_kills() {
    let whole = BRIEF
        .replace("CREATE STREAM pageview_aggregates", "CREATE MATERIALIZED VIEW expected")
        .replace("SELECT STREAM", "SELECT");
    let project = Project::new(&format!("{DECLARATION}{BRIEF}{whole}"));
    project.write("catchment.toml", "[engine]\nthreads = 2\n[maintenance]\nkept_plans = 2\n");
    project.run();
    let described = project.call(&["stream", "describe", "clickstream", "--json"]).exits(0).json();
    assert_eq!(described["retention_hours"], 48, "{described}");
    let mut chance = StdRng::seed_from_u64(5);
    for step in 0..8_i64 {
        let mut lines = Vec::new();
        for second in step * 40..step * 40 + 40 {
            // Out of order by less than the delay.
            let late = chance.random_range(0..5);
            lines.extend(
                (0..10).map(|_| event(chance.random_range(0..40), chance.random_range(0..20), second - late)),
            );
        }
        lines.extend(beat(step * 40 + 39));
        put(&project, &lines);
        let fault = ["plan-written", "files-written", "staged-written", "commit-written"][step as usize % 4];
        let killed =
            project.command(&["run"]).env("CATCHMENT_FAULT", format!("{fault}:1:abort")).output().unwrap();
        assert_eq!(killed.status.code(), None, "{}", String::from_utf8_lossy(&killed.stderr));
        project.run();
        let shards = ["4", "3", "5", "1"][step as usize % 4];
        project.call(&["stream", "reshard", "clickstream", "--to", shards]).exits(0);
    }
    put(&project, &beat(8 * 40 + 200));
    project.run();
    let rows = |table: &str| {
        let until = "window_start < TIMESTAMP '2026-01-01 00:06:00'";
        project.query(&format!("SELECT page_id, CAST(window_start AS STRING) AS s, views, unique_users FROM {table} WHERE {until} ORDER BY 1, 2"))
    };
    let (streamed, expected) = (rows("pageview_aggregates"), rows("expected"));
    assert!(expected.as_array().unwrap().len() > 200, "{expected}");
    assert!(streamed == expected, "{streamed}\n{expected}");
    let late = project.query("SELECT DISTINCT late_rows FROM system.windows");
    assert_eq!(late, json!([{ "late_rows": 0 }]));
    // Generations of shards, read at once.
    project.call(&["run", "--full-refresh"]).exits(0);
    put(&project, &beat(8 * 40 + 260));
    project.run();
    assert!(rows("pageview_aggregates") == expected, "after a full refresh");
}

#[test]
fn a_silent_shard_holds_windows_open_until_it_is_idle_and_it_is_told() {
    let project =
        Project::new(&format!("{}{BRIEF}", DECLARATION.replace("INTERVAL '1' HOUR", "INTERVAL '3' SECONDS")));
    project.run();
    put(&project, &[event(0, 1, 10), event(0, 2, 20)]);
    put(&project, &[event(0, 1, 90)]);
    project.run();
    let counts = || project.query("SELECT views, unique_users FROM pageview_aggregates");
    if counts() == json!([]) {
        let told =
            project.query("SELECT reason FROM system.windows WHERE holds_back AND newest_event IS NULL");
        let reason = told[0]["reason"].as_str().unwrap_or_default();
        assert!(
            reason.starts_with("no event yet; it counts as idle after 3 s") || told == json!([]),
            "{told}"
        );
    }
    // Nothing more comes; only time passes.
    let begun = Instant::now();
    while counts() == json!([]) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the window never closed");
        project.run();
    }
    assert_eq!(counts(), json!([{ "views": 2, "unique_users": 2 }]));
}

#[test]
fn a_service_closes_windows_and_measures_them() {
    let project = Project::new(&format!("{DECLARATION}{BRIEF}"));
    let mut server =
        Serving::configured(&project, "open_on_loopback = true\n[streams]\nbuffer_milliseconds = 100");
    let put = |events: &[String]| {
        let record = |event: &String| json!({ "PartitionKey": event, "Data": base64(event) });
        let records: Vec<Value> = events.iter().map(record).collect();
        let (status, answer) =
            server.call("PutRecords", &json!({ "StreamName": "clickstream", "Records": records }));
        assert_eq!((status, answer["FailedRecordCount"].as_u64()), (200, Some(0)), "{answer}");
    };
    let begun = Instant::now();
    let until = |measure: &str| loop {
        let measures = String::from_utf8(server.send_to("GET", "/metrics", &[], b"").2).unwrap();
        if measures.contains(measure) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{measure} in {measures}");
    };
    put(&beat(10));
    until("catchment_flow_held_rows{flow=\"main.pageview_aggregates\"} 40\n");
    until("catchment_flow_open_windows{flow=\"main.pageview_aggregates\"} 1\n");
    put(&beat(90));
    until("catchment_flow_watermark_seconds{flow=\"main.pageview_aggregates\"} 1767225685\n");
    put(&[event(0, 0, 59)]);
    until("catchment_flow_late_rows_total{flow=\"main.pageview_aggregates\"} 1\n");
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(
        project.query("SELECT count(*) AS n, sum(views) AS v FROM pageview_aggregates"),
        json!([{ "n": 40, "v": 40 }])
    );
}

#[test]
fn declarations_that_cannot_be_are_refused() {
    for (declaration, why) in [
        ("CREATE STREAM s (id TIMESTAMP, WATERMARK id DELAY OF INTERVAL '1' SECOND);", ""),
        ("CREATE STREAM s (WATERMARK id DELAY OF INTERVAL '1' SECOND, id TIMESTAMP);", ""),
        (
            "CREATE STREAM s (id BIGINT, WATERMARK id DELAY OF INTERVAL '1' SECOND);",
            "which column \"id\" is not",
        ),
        ("CREATE STREAM s (id BIGINT) SHARDS 0;", "between 1 and 10000 shards"),
        ("CREATE STREAM s (id BIGINT) RETENTION INTERVAL '1' HOUR;", "between 24 hours and 365 days"),
        (
            "CREATE STREAM s (id BIGINT) FROM read_kafka(subscribe => 'x', bootstrapServers => 'h:1') SHARDS 2;",
            "without FROM",
        ),
        ("CREATE STREAM s (id BIGINT) FROM read_nothing('x');", "read_nothing"),
        ("CREATE STREAM s (id BIGINT) SCHEMA 'x.json' ON VIOLATION REJECT;", "not supported yet"),
        ("CREATE STREAM s (id BIGINT); CREATE STREAM s (id BIGINT);", "defined twice"),
        ("CREATE STREAM s (id NOTHING);", "no type"),
        ("CREATE STREAM s (id BIGINT, watermark BIGINT);", ""),
        (
            "CREATE STREAM s (id TIMESTAMP, WATERMARK nosuch DELAY OF INTERVAL '1' SECOND);",
            "pipelines/all.sql:1:42",
        ),
        (
            "CREATE STREAM s (id TIMESTAMP, WATERMARK id DELAY OF INTERVAL '1' MONTH);",
            "pipelines/all.sql:1:15",
        ),
        ("CREATE STREAM s (id BIGINT) SCHEMA 'missing.json';", "pipelines/all.sql:1:15"),
    ] {
        let project = Project::new(&format!("{declaration}\nCREATE MATERIALIZED VIEW v AS SELECT 1 AS one;"));
        let done = project.call(&["check"]);
        assert_eq!(done.code, Some(i32::from(!why.is_empty())), "{declaration}: {}", done.err);
        assert!(done.err.contains(why), "{declaration}: {}", done.err);
    }
}

#[test]
fn queries_that_windows_cannot_bound_are_refused() {
    let declared = "CREATE STREAM s (id BIGINT, ts TIMESTAMP, other TIMESTAMP, WATERMARK ts DELAY OF INTERVAL '1' SECOND);";
    let minutes = "SELECT TUMBLE_START(ts, '1 minute') AS w, count(*) AS n FROM STREAM s GROUP BY TUMBLE(ts, '1 minute')";
    let again = minutes.replace("STREAM s", "STREAM read_stream('other', schema => 'ts TIMESTAMP')");
    let five = again.replace("1 minute", "5 minutes");
    let steps = "TABLE(CUMULATE(STREAM s, DESCRIPTOR(ts), '1 minute', '5 minutes'))";
    let composed = [
        // Whose time is it?
        (
            "SELECT count(*) AS n FROM (SELECT ts FROM STREAM s UNION ALL SELECT ts FROM STREAM read_stream('other', schema => 'ts TIMESTAMP')) x GROUP BY TUMBLE(ts, '1 minute')".to_owned(),
            "cannot be followed",
        ),
        (
            "SELECT count(*) AS n FROM (SELECT coalesce(s.ts, v.at) AS t2 FROM STREAM s JOIN v ON v.one = s.id) x GROUP BY TUMBLE(t2, '1 minute')".to_owned(),
            "cannot be followed",
        ),
        (format!("SELECT TUMBLE_START(w, '1 hour') AS h, sum(n) AS n FROM ({minutes}) x GROUP BY TUMBLE(w, '1 hour')"), "into windows again"),
        ("SELECT count(*) AS n FROM STREAM s GROUP BY TUMBLE(now(), '1 minute')".to_owned(), "not fixed by the row"),
        ("SELECT count(*) AS n FROM STREAM s GROUP BY TUMBLE(ts + (now() - now()), '1 minute')".to_owned(), "not fixed by the row"),
        // Windows that begin together and do not end together.
        (format!("SELECT window_start, count(*) AS n FROM {steps} GROUP BY window_start"), "may end apart"),
        ("SELECT window_start, count(*) AS n FROM TABLE(SESSION(STREAM s PARTITION BY id, DESCRIPTOR(ts), '1 minute')) GROUP BY window_start".to_owned(), "group by the end of the window, too"),
        ("SELECT id, TUMBLE_START(ts, '1 minute') AS w, count(*) AS n FROM STREAM s GROUP BY GROUPING SETS ((id), (TUMBLE(ts, '1 minute')))".to_owned(), "in each of its grouping sets"),
        ("SELECT id, count(*) AS n FROM TABLE(TUMBLE(STREAM s, DESCRIPTOR(ts), '1 minute')) GROUP BY CUBE (id, window_end)".to_owned(), "in each of its grouping sets"),
        (format!("SELECT DISTINCT window_start, id FROM {steps}"), "without a bound"),
        (
            format!("SELECT a.w, a.n, b.n AS m FROM ({minutes}) a JOIN ({five}) b ON a.w = b.w"),
            "without their windows being equal",
        ),
        (format!("{minutes} UNION {five}"), "without a bound of the window"),
        // Nulls of an outer join are of no window.
        (
            format!("SELECT b.w, count(*) AS n FROM ({minutes}) a LEFT JOIN ({again}) b ON a.w = b.w GROUP BY b.w"),
            "without the window",
        ),
        // One source, read in two ways.
        (format!("{minutes} UNION ALL SELECT ts, 0 AS n FROM STREAM s"), "in windows and without"),
        ("SELECT s.id AS a, x.id AS b FROM STREAM s JOIN s x ON s.id = x.id".to_owned(), "as a stream and as a whole"),
        // Watermarks that would do nothing.
        ("SELECT count(*) AS n FROM (SELECT * FROM STREAM s) x WATERMARK ts DELAY OF INTERVAL '1' HOUR GROUP BY TUMBLE(ts, '1 minute')".to_owned(), "does not stand behind a stream"),
        ("WITH c AS (SELECT * FROM STREAM s) SELECT count(*) AS n FROM c WATERMARK ts DELAY OF INTERVAL '1' HOUR GROUP BY TUMBLE(ts, '1 minute')".to_owned(), "which is a query"),
        ("SELECT count(*) AS n FROM STREAM read_stream('o', schema => 'ts TIMESTAMP') WATERMARK nosuch DELAY OF INTERVAL '1' HOUR GROUP BY TUMBLE(ts, '1 minute')".to_owned(), "nosuch"),
        ("SELECT count(*) AS n FROM STREAM s GROUP BY HOP(ts, '100000000 days', '100000000 days')".to_owned(), "a hundred years"),
    ];
    for (query, why) in composed {
        let project = Project::new(&format!(
            "{declared}\nCREATE MATERIALIZED VIEW v AS SELECT 1 AS one, TIMESTAMP '2026-01-01' AS at;\nCREATE STREAMING TABLE t AS {query};"
        ));
        let done = project.call(&["check"]).exits(1);
        assert!(done.err.contains(why), "{query}: {}", done.err);
        assert!(done.err.contains("pipelines/all.sql:3:"), "{query}: {}", done.err);
    }
    for rule in ["EXPECT UNIQUE (n) ON VIOLATION DROP ROW", "EXPECT UNIQUE (n) ON VIOLATION QUARANTINE"] {
        let project = Project::new(&format!(
            "{declared}\nCREATE STREAMING TABLE t (CONSTRAINT once {rule}) AS {minutes};"
        ));
        let done = project.call(&["check"]).exits(1);
        assert!(done.err.contains("no order that tells the first"), "{}", done.err);
    }
    for (query, why) in [
        ("SELECT count(*) AS n FROM STREAM s", "would have to remember all of it"),
        (
            "SELECT id, count(*) AS n FROM TABLE(TUMBLE(STREAM s, DESCRIPTOR(ts), '1 minute')) GROUP BY id",
            "without the window",
        ),
        (
            "SELECT DISTINCT id FROM TABLE(TUMBLE(STREAM s, DESCRIPTOR(ts), '1 minute'))",
            "without a bound of the window",
        ),
        (
            "SELECT id, row_number() OVER (PARTITION BY id ORDER BY ts) AS n FROM TABLE(TUMBLE(STREAM s, DESCRIPTOR(ts), '1 minute'))",
            "PARTITION BY",
        ),
        ("SELECT count(*) AS n FROM STREAM s GROUP BY TUMBLE(other, '1 minute')", "the watermark is of ts"),
        (
            "SELECT id FROM STREAM read_stream('s', schema => 'id BIGINT') WATERMARK id DELAY OF INTERVAL '1' SECOND",
            "without windows",
        ),
        (
            "SELECT a.id FROM TABLE(TUMBLE(STREAM s, DESCRIPTOR(ts), '1 minute')) a JOIN TABLE(TUMBLE(STREAM s, DESCRIPTOR(ts), '1 minute')) b ON a.id = b.id",
            "without their windows being equal",
        ),
        (
            "SELECT count(*) AS n FROM STREAM s GROUP BY TUMBLE(ts, '1 minute') UNION ALL SELECT count(*) AS n FROM STREAM s GROUP BY TUMBLE(ts, '2 minutes')",
            "different windows",
        ),
        ("SELECT count(*) AS n FROM STREAM s GROUP BY TUMBLE(ts, '1 minute') ORDER BY n", "ORDER BY"),
        (
            "SELECT count(*) AS n FROM STREAM s GROUP BY TUMBLE(id, '1 minute')",
            "error[C2005]: a window needs a timestamp, and its first argument is Int64",
        ),
        (
            "SELECT count(*) AS n FROM STREAM s WATERMARK zz DELAY OF INTERVAL '1' SECOND GROUP BY TUMBLE(ts, '1 minute')",
            "no column \"zz\"",
        ),
        (
            "SELECT STREAM s.id FROM s JOIN read_stream('other', schema => 'id BIGINT') o ON o.id = s.id",
            "read as a whole, without what comes later",
        ),
        (
            "SELECT count(*) AS n FROM STREAM s GROUP BY TUMBLE(ts, '1 minute') EMIT EVERY INTERVAL '1' SECOND",
            "stands before AS",
        ),
    ] {
        let project = Project::new(&format!("{declared}\nCREATE STREAMING TABLE t AS {query};"));
        let done = project.call(&["check"]).exits(1);
        assert!(done.err.contains(why), "{query}: {}", done.err);
    }
    let fine = "SELECT a.id, b.id AS other FROM TABLE(TUMBLE(STREAM s, DESCRIPTOR(ts), '1 minute')) a
        JOIN TABLE(TUMBLE(STREAM s, DESCRIPTOR(ts), '1 minute')) b ON a.id = b.id + 1 AND a.window_start = b.window_start";
    // What a reader says counts more than what was declared.
    let later = "SELECT count(*) AS watermark FROM STREAM s WATERMARK ts DELAY OF INTERVAL '3' HOURS GROUP BY TUMBLE(ts, '1 minute')";
    let told =
        Project::new(&format!("{declared}\nCREATE STREAMING TABLE t AS {later};")).call(&["check"]).exits(0);
    assert!(told.out.contains("events may be 10800 s late"), "{}", told.out);
    for fine in [
        fine,
        "SELECT id FROM STREAM s",
        "SELECT STREAM id, ts FROM s",
        "SELECT STREAM * EXCLUDE (other) FROM s",
        "SELECT STREAM (id + 1) AS more, id IS DISTINCT FROM 3 AS d FROM s",
        "SELECT window_end, count(*) AS n FROM TABLE(CUMULATE(STREAM s, DESCRIPTOR(ts), '1 minute', '5 minutes')) GROUP BY window_end",
    ] {
        Project::new(&format!("{declared}\nCREATE STREAMING TABLE t AS {fine};")).call(&["check"]).exits(0);
    }
}

#[test]
fn duplicates_of_a_stream_are_found_within_its_watermark() {
    for unique in [
        "(CONSTRAINT once EXPECT UNIQUE (id) ON VIOLATION DROP ROW) AS SELECT id, ts FROM STREAM s",
        "AS SELECT DISTINCT ON (id) id, ts FROM STREAM s",
        "(CONSTRAINT once EXPECT UNIQUE (id) ON VIOLATION DROP ROW) AS SELECT id, ts FROM STREAM read_stream('s', schema => 'id BIGINT, ts TIMESTAMP') WATERMARK ts DELAY OF INTERVAL '10' SECONDS",
    ] {
        let project = Project::new(&format!(
            "CREATE STREAM s (id BIGINT, ts TIMESTAMP, WATERMARK ts DELAY OF INTERVAL '10' SECONDS);
             CREATE STREAMING TABLE t {unique};
             CREATE STREAMING TABLE ever (CONSTRAINT once EXPECT UNIQUE (id) ON VIOLATION DROP ROW) AS SELECT id, ts + INTERVAL '0' SECOND AS later FROM STREAM s;"
        ));
        project.run();
        let put = |lines: &str| {
            let mut put = project
                .command(&["stream", "put", "s"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            put.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
            assert!(put.wait().unwrap().success());
            project.run();
        };
        let line =
            |id: u64, second: u64| format!("{{\"id\":{id},\"ts\":\"2026-01-01 00:00:{second:02}\"}}\n");
        put(&(line(1, 0) + &line(2, 5) + &line(1, 9)));
        put(&(line(1, 10) + &line(2, 16) + &line(3, 16)));
        put(&line(1, 30));
        // A row is one of a key if none that stayed is within ten seconds of it.
        let rows = project.query("SELECT id, date_part('second', ts) AS second FROM t ORDER BY 2, 1");
        let wanted = [(1, 0), (2, 5), (2, 16), (3, 16), (1, 30)];
        let wanted: Vec<Value> =
            wanted.iter().map(|(id, second)| json!({ "id": id, "second": second })).collect();
        assert_eq!(rows, json!(wanted), "{unique}");
        // Without the watermark's column there is no time to go by, and it is told.
        let told = project.call(&["check"]).exits(0).out;
        assert!(told.contains("main.ever: UNIQUE (id) compares with all rows"), "{told}");
        assert!(!told.contains("main.t: UNIQUE"), "{told}");
        assert_eq!(project.query("SELECT count(*) AS n FROM ever"), json!([{ "n": 3 }]));
    }
}
