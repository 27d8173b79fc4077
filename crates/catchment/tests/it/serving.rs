//! Serving tables: each is what its query says of all rows together, whatever the batches and the crashes.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::crash::disk::Disk;
use crate::kinesis::Serving;
use crate::project::{Project, dataset};

/// Each query by its name: what stands before its source, what behind it, and its key.
const QUERIES: &[(&str, &str, &str, &str)] = &[
    (
        "counts",
        "SELECT k, count(*) AS n, count(v) AS some, sum(v) AS v, min(v) AS least, max(v) AS most, avg(v) AS mean FROM",
        "GROUP BY k",
        "k",
    ),
    (
        "distinct",
        "SELECT k, count(DISTINCT u) AS users, sum(DISTINCT v) AS v, bit_xor(DISTINCT u) AS bits, count(*) AS n FROM",
        "GROUP BY k",
        "k",
    ),
    (
        "spread",
        "SELECT k, round(stddev(v), 6) AS s, round(var_pop(v), 6) AS p, median(v) AS m, approx_distinct(u) AS a, bit_xor(u) AS x FROM",
        "GROUP BY k",
        "k",
    ),
    (
        "truths",
        "SELECT k, bool_and(v > 3) AS every, bool_or(v > 30) AS some, first_value(u ORDER BY n) AS first, last_value(u ORDER BY n) AS last FROM",
        "GROUP BY k",
        "k",
    ),
    (
        "chosen",
        "SELECT k, count(*) FILTER (WHERE v > 10) AS large, sum(CASE WHEN u % 2 = 0 THEN v ELSE 0 END) AS even FROM",
        "WHERE v IS NOT NULL GROUP BY k",
        "k",
    ),
    ("many", "SELECT k, count(*) AS n, sum(v) + 1 AS v FROM", "GROUP BY k HAVING sum(v) % 2 = 0", "k"),
    (
        "computed",
        "SELECT upper(k) || '!' AS name, u % 3 AS part, count(*) * 2 AS twice, coalesce(sum(v), -1) AS v FROM",
        "GROUP BY upper(k) || '!', u % 3",
        "part, name",
    ),
    ("prices", "SELECT u, sum(CAST(v AS DECIMAL(10, 2)) * 1.5) AS price FROM", "GROUP BY u", "u"),
    (
        "lists",
        "SELECT u, array_agg(DISTINCT v ORDER BY v) AS vs, string_agg(DISTINCT k, ',' ORDER BY k) AS ks, array_agg(n ORDER BY n DESC) AS ns FROM",
        "GROUP BY u",
        "u",
    ),
    (
        "minutes",
        "SELECT k, TUMBLE_START(ts, INTERVAL '1' MINUTE) AS minute, TUMBLE_END(ts, INTERVAL '1' MINUTE) AS until, count(*) AS n FROM",
        "GROUP BY k, TUMBLE(ts, INTERVAL '1' MINUTE)",
        "k SORT KEY (minute)",
    ),
    (
        "hops",
        "SELECT HOP_START(ts, INTERVAL '30' SECOND, INTERVAL '2' MINUTE) AS window_start, HOP_END(ts, INTERVAL '30' SECOND, INTERVAL '2' MINUTE) AS window_end, count(DISTINCT u) AS users FROM",
        "GROUP BY HOP(ts, INTERVAL '30' SECOND, INTERVAL '2' MINUTE)",
        "window_end",
    ),
    (
        "growing",
        "SELECT CUMULATE_START(ts, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE) AS window_start, CUMULATE_END(ts, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE) AS window_end, sum(v) AS v FROM",
        "GROUP BY CUMULATE(ts, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE)",
        "window_start, window_end",
    ),
];

/// One file a batch: rows of one version of a table have no order among themselves, and "latest" goes by it.
fn pipeline() -> String {
    let mut text = "CREATE STREAMING TABLE raw.e AS SELECT n, k, v, u, ts FROM STREAM read_files('in', format => 'json',
        schema => 'n BIGINT, k VARCHAR, v BIGINT, u BIGINT, ts TIMESTAMPTZ', maxFilesPerTrigger => 1);
      CREATE MATERIALIZED VIEW raw.names AS SELECT * FROM (VALUES (0, 'zero'), (1, 'one'), (2, 'two')) AS t(id, name);
      CREATE SERVING TABLE live.latest PRIMARY KEY (u) AS SELECT u, n, k FROM STREAM raw.e WHERE v IS NOT NULL;
      CREATE MATERIALIZED VIEW whole.latest AS SELECT u, n, k FROM (SELECT *, row_number() OVER (PARTITION BY u ORDER BY n DESC) AS r FROM raw.e WHERE v IS NOT NULL) WHERE r = 1;
      CREATE SERVING TABLE live.joined PRIMARY KEY (name) AS SELECT t.name, count(*) AS n FROM STREAM raw.e e JOIN raw.names t ON e.u % 3 = t.id GROUP BY t.name;
      CREATE MATERIALIZED VIEW whole.joined AS SELECT t.name, count(*) AS n FROM raw.e e JOIN raw.names t ON e.u % 3 = t.id GROUP BY t.name;
      CREATE SERVING TABLE live.copy PRIMARY KEY (k) AS SELECT k, count(*) AS n FROM raw.e GROUP BY k;
      CREATE MATERIALIZED VIEW whole.copy AS SELECT k, count(*) AS n FROM raw.e GROUP BY k;\n"
        .to_owned();
    for (name, before, behind, key) in QUERIES {
        let ttl = if before.contains("window") || before.contains("TUMBLE") {
            "TTL INTERVAL '36500' DAY"
        } else {
            ""
        };
        text += &format!(
            "CREATE SERVING TABLE live.{name} PRIMARY KEY ({key}) {ttl} AS {before} STREAM raw.e {behind};\n"
        );
        text += &format!("CREATE MATERIALIZED VIEW whole.{name} AS {before} raw.e {behind};\n");
    }
    text
}

/// Lines of a file: some keys and values are null, keys come again and again, times go forth and back.
fn lines(file: u64) -> String {
    let line = |n: u64| {
        let mixed = (n ^ 0x9e37_79b9).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20;
        let k = if mixed.is_multiple_of(11) { Value::Null } else { json!(format!("key {}", mixed % 9)) };
        let v = if mixed.is_multiple_of(7) { Value::Null } else { json!(mixed % 80) };
        let seconds = (n * 3 + mixed % 200) % 3_600;
        let ts = format!("2026-11-25T10:{:02}:{:02}Z", seconds / 60, seconds % 60);
        json!({ "n": n, "k": k, "v": v, "u": mixed % 13, "ts": ts }).to_string() + "\n"
    };
    (file * 40..file * 40 + 40).map(line).collect()
}

#[track_caller]
fn agree(project: &Project, when: &str) {
    let names = QUERIES.iter().map(|(name, ..)| *name).chain(["latest", "joined", "copy"]);
    for name in names {
        let rows = |schema: &str| {
            let rows = project.query(&format!("SELECT * FROM {schema}.{name}"));
            let mut rows: Vec<String> = rows.as_array().unwrap().iter().map(Value::to_string).collect();
            rows.sort();
            rows
        };
        assert_eq!(rows("live"), rows("whole"), "{name} {when}");
        assert!(!rows("live").is_empty(), "{name} {when}");
    }
}

#[test]
fn every_query_goes_on_as_if_all_rows_came_at_once() {
    let project = Project::new(&pipeline());
    for file in 0..6 {
        project.write(&format!("in/{file}.json"), lines(file));
        project.call(&["run"]).exits(0);
        agree(&project, &format!("after file {file}"));
    }
    // Anew, from all at once: the same.
    project.call(&["run", "--full-refresh"]).exits(0);
    agree(&project, "anew");
    let up_to_date = project.run();
    assert_eq!(dataset(&up_to_date, "live.counts")["status"], "up to date");
}

#[test]
fn a_kill_anywhere_counts_each_row_once() {
    let project = Project::new(&pipeline());
    let mut kills = 0;
    for file in 0..20 {
        project.write(&format!("in/{file:02}.json"), lines(file));
        let mut command = project.command(&["run"]);
        let fault = ["before-plan", "staged-written", "published"][file as usize % 3];
        command.env("CATCHMENT_FAULT", format!("{fault}:{}:abort", 1 + file * 7 % 23));
        kills += usize::from(command.output().unwrap().status.code().is_none());
    }
    project.call(&["run"]).exits(0);
    agree(&project, "after kills");
    assert!(kills >= 12, "{kills} kills of 20");
}

#[test]
fn no_power_cut_loses_or_repeats_a_row() {
    let project = Project::new(&pipeline());
    let disk = Disk::new(project.path());
    let mut cuts = 0;
    for file in 0..5 {
        project.write(&format!("in/{file:02}.json"), lines(file));
        let mut command = project.command(&["run"]);
        let fault = ["published", "staged-written", "before-plan"][file as usize % 3];
        command.env("CATCHMENT_FAULT", format!("{fault}:{}:abort", 3 + file * 7 % 23));
        disk.settle();
        disk.below(&mut command);
        let is_cut = command.output().unwrap().status.code().is_none();
        if is_cut {
            disk.lose_power();
        }
        cuts += usize::from(is_cut);
        project.call(&["run"]).exits(0);
        agree(&project, &format!("after {fault} of file {file}"));
    }
    assert!(cuts >= 3, "{cuts} cuts of 5");
}

#[test]
fn rows_end_with_their_time_and_begin_anew() {
    let table = |ttl: &str| {
        format!(
            "CREATE STREAMING TABLE raw.e AS SELECT k FROM STREAM read_files('in', format => 'json', schema => 'k BIGINT');
             CREATE SERVING TABLE live.n PRIMARY KEY (k) TTL INTERVAL {ttl} AS SELECT k, count(*) AS n FROM STREAM raw.e GROUP BY k;
             CREATE SERVING TABLE live.seen PRIMARY KEY (k) TTL INTERVAL {ttl} AS SELECT k, k * 2 AS twice FROM STREAM raw.e;"
        )
    };
    let project = Project::new(&table("'1 microsecond'"));
    for round in 0..3 {
        project.write(&format!("in/{round}.json"), "{\"k\":1}\n{\"k\":1}\n{\"k\":2}\n");
        project.call(&["run"]).exits(0);
        // What was written is over by now: nobody sees it, and the next batch goes on from nothing.
        assert_eq!(project.query("SELECT * FROM live.n"), json!([]));
        assert_eq!(project.query("SELECT * FROM live.seen"), json!([]));
    }
    project.write("pipelines/all.sql", table("'1 hour'"));
    let told = project.call(&["run"]).exits(1);
    assert!(
        told.err.contains("C7002") && told.err.contains("--full-refresh --select live.n"),
        "{}",
        told.err
    );
    project.call(&["run", "--full-refresh"]).exits(0);
    let counted = json!([{ "k": 1, "n": 6 }, { "k": 2, "n": 3 }]);
    assert_eq!(project.query("SELECT * FROM live.n ORDER BY k"), counted);
    // Words that lie elsewhere are the same definition.
    project.write("pipelines/all.sql", table("'1 hour'").replace(" AS SELECT", "\n  AS SELECT"));
    project.call(&["run"]).exits(0);
}

#[test]
fn another_definition_is_noticed_wherever_it_stands() {
    let text = |view: &str, literal: &str| {
        format!(
            "CREATE STREAMING TABLE raw.e AS SELECT k, v FROM STREAM read_files('in', format => 'json', schema => 'k VARCHAR, v BIGINT');
             CREATE TEMPORARY VIEW seen AS SELECT k, {view} AS v FROM STREAM raw.e;
             CREATE SERVING TABLE live.t PRIMARY KEY (k) AS SELECT CASE WHEN k = '{literal}' THEN 'that' ELSE k END AS k, sum(v) AS v FROM STREAM seen GROUP BY 1;"
        )
    };
    let project = Project::new(&text("CAST(v AS DECIMAL(10, 2))", "a b"));
    project.write("in/0.json", "{\"k\":\"a b\",\"v\":5}\n");
    project.call(&["run"]).exits(0);
    project.write("in/1.json", "{\"k\":\"a b\",\"v\":1}\n");
    for (view, literal) in
        [("CAST(v AS DECIMAL(12, 4))", "a b"), ("v * 100", "a b"), ("CAST(v AS DECIMAL(10, 2))", "a  b")]
    {
        project.write("pipelines/all.sql", text(view, literal));
        for command in ["check", "run"] {
            let told = project.call(&[command]).exits(1);
            assert!(
                told.err.contains("C7002") && told.err.contains("all that raw.e holds"),
                "{view} {literal}: {}",
                told.err
            );
        }
    }
    project.write("pipelines/all.sql", text("CAST(v AS DECIMAL(10, 2))", "a b") + " -- another word");
    project.call(&["run"]).exits(0);
    assert_eq!(
        project.query("SELECT k, CAST(v AS BIGINT) AS v FROM live.t"),
        json!([{ "k": "that", "v": 6 }])
    );
}

#[test]
fn batches_come_in_their_order_and_a_backfill_is_told() {
    let project = Project::new(
        "CREATE STREAMING TABLE raw.e PARTITIONED BY (p) AS SELECT n, 1 AS p FROM STREAM read_files('in', format => 'json', schema => 'n BIGINT');
         CREATE SERVING TABLE live.t PRIMARY KEY (p) AS SELECT p, first_value(n) AS first, last_value(n) AS last, string_agg(CAST(n AS VARCHAR), ',') AS every FROM STREAM raw.e GROUP BY p;",
    );
    for n in 1..4 {
        project.write(&format!("in/{n}.json"), format!("{{\"n\":{n}}}\n"));
        project.call(&["run"]).exits(0);
    }
    let expected = json!([{ "p": 1, "first": 1, "last": 3, "every": "1,2,3" }]);
    assert_eq!(project.query("SELECT * FROM live.t"), expected);
    // What was replaced has been counted: that is said, and building anew is the way out.
    project.call(&["backfill", "raw.e", "--all", "--cascade"]).exits(0);
    let told = project.call(&["run"]).exits(1);
    assert!(told.err.contains("--full-refresh --select live.t"), "{}", told.err);
    project.call(&["run", "--full-refresh", "--select", "live.t"]).exits(0);
    // The backfill has made one version of all rows, which have no order among themselves any more.
    let counted = project.query("SELECT p, length(every) AS length FROM live.t");
    assert_eq!(counted, json!([{ "p": 1, "length": 5 }]));
}

#[test]
fn rows_without_a_place_in_time_are_left_out_and_counted() {
    let project = Project::new(
        "CREATE STREAM e (k VARCHAR, at TIMESTAMP);
         CREATE SERVING TABLE minutes PRIMARY KEY (k SORT KEY (minute)) TTL INTERVAL '36500' DAY AS
         SELECT k, TUMBLE_START(at, INTERVAL '1' MINUTE) AS minute, count(*) AS n FROM STREAM e GROUP BY k, TUMBLE(at, INTERVAL '1' MINUTE);",
    );
    project.run();
    let mut put = project.command(&["stream", "put", "e"]).stdin(Stdio::piped()).spawn().unwrap();
    let rows = [
        r#"{"k": "a", "at": "2026-03-01 10:00:05"}"#,
        r#"{"k": "a"}"#,
        r#"{"k": "a", "at": "2999-01-01 00:00:00"}"#,
    ];
    put.stdin.take().unwrap().write_all(rows.join("\n").as_bytes()).unwrap();
    assert!(put.wait().unwrap().success());
    let told = project.call(&["run", "--json"]).exits(0);
    assert!(told.err.contains("one too far ahead") && told.err.contains("\"rejected\":2"), "{}", told.err);
    let minutes = project.query("SELECT * FROM minutes");
    assert_eq!(minutes, json!([{ "k": "a", "minute": "2026-03-01T10:00:00", "n": 1 }]));
    let dropped =
        project.query("SELECT sum(dropped) AS dropped FROM system.datasets WHERE dataset = 'main.minutes'");
    assert_eq!(dropped, json!([{ "dropped": 2 }]));
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason() {
    let source = "CREATE STREAMING TABLE raw.e AS SELECT k, v, ts FROM STREAM read_files('in', format => 'json', schema => 'k BIGINT, v BIGINT, ts TIMESTAMPTZ');\n";
    for (statement, why) in [
        (
            "PRIMARY KEY (k) AS SELECT v, count(*) AS n FROM STREAM raw.e GROUP BY v",
            "no column \"k\" for the key",
        ),
        (
            "PRIMARY KEY (n) AS SELECT v, count(*) AS n FROM STREAM raw.e GROUP BY v",
            "is not one that the query groups by",
        ),
        (
            "PRIMARY KEY (k) AS SELECT k, v, count(*) AS n FROM STREAM raw.e GROUP BY k, v",
            "leaves out what the query groups by: v",
        ),
        ("PRIMARY KEY (k, k) AS SELECT k FROM STREAM raw.e", "stands twice in the key"),
        (
            "PRIMARY KEY (window_start) AS SELECT TUMBLE_START(ts, INTERVAL '1' MINUTE) AS window_start, count(*) AS n FROM STREAM raw.e GROUP BY TUMBLE(ts, INTERVAL '1' MINUTE)",
            "TTL INTERVAL '1' DAY",
        ),
        (
            "PRIMARY KEY (window_start) TTL INTERVAL '1' DAY AS SELECT CUMULATE_START(ts, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE) AS window_start, count(*) AS n FROM STREAM raw.e GROUP BY CUMULATE(ts, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE)",
            "leaves out what the query groups by: window_end",
        ),
        (
            "PRIMARY KEY (window_start) TTL INTERVAL '1' DAY AS SELECT SESSION_START(ts, INTERVAL '1' MINUTE) AS window_start, count(*) AS n FROM STREAM raw.e GROUP BY SESSION(ts, INTERVAL '1' MINUTE)",
            "sessions and staggered windows in a serving table",
        ),
        (
            "PRIMARY KEY (k) AS SELECT k, max(n) AS n FROM (SELECT k, v, count(*) AS n FROM STREAM raw.e GROUP BY k, v) GROUP BY k",
            "an aggregate of an aggregate",
        ),
        ("PRIMARY KEY (k) AS SELECT DISTINCT k FROM STREAM raw.e", "DISTINCT"),
        (
            "PRIMARY KEY (k) AS SELECT k, nth_value(v, 2 ORDER BY v) AS v FROM STREAM raw.e GROUP BY k",
            "nth_value",
        ),
        (
            "PRIMARY KEY (k) AS SELECT k, count(*) AS n FROM STREAM raw.e GROUP BY k HAVING count(*) > (SELECT count(*) FROM STREAM raw.e)",
            "a query within HAVING",
        ),
        (
            "PRIMARY KEY (d) AS SELECT arrow_cast(k, 'Dictionary(Int32, Utf8)') AS d, count(*) AS n FROM STREAM raw.e GROUP BY d",
            "dictionaries in a serving table",
        ),
        (
            "PRIMARY KEY (t) AS SELECT arrow_cast(k, 'Timestamp(Nanosecond, None)') AS t, count(*) AS n FROM STREAM raw.e GROUP BY t",
            "finer than the microseconds",
        ),
        (
            "PRIMARY KEY (k) AS SELECT k FROM STREAM read_files('in', format => 'json', schema => 'k BIGINT')",
            "read_files in a serving table",
        ),
        ("AS SELECT k FROM STREAM raw.e", "PRIMARY KEY (columns)"),
        ("PRIMARY KEY (k) TTL INTERVAL '0' DAY AS SELECT k FROM STREAM raw.e", "more than nothing"),
        ("PRIMARY KEY (k) AS SELECT k FROM STREAM raw.e LATE ROWS INTO late", "has no late rows"),
    ] {
        let project = Project::new(&format!("{source}CREATE SERVING TABLE live.t {statement};"));
        let told = project.call(&["check"]).exits(1);
        assert!(told.err.contains(why), "{statement}: {}", told.err);
    }
    let reads = format!(
        "{source}CREATE SERVING TABLE live.t PRIMARY KEY (k) AS SELECT k FROM STREAM raw.e;\nCREATE MATERIALIZED VIEW raw.m AS SELECT * FROM live.t;"
    );
    let told = Project::new(&reads).call(&["check"]).exits(1);
    assert!(told.err.contains("reading serving table \"live.t\" in a pipeline"), "{}", told.err);
    // Two rows of one key are an error of the run, and the table stays as it was.
    let project = Project::new(&format!(
        "{source}CREATE SERVING TABLE live.t PRIMARY KEY (k) AS SELECT k, v FROM raw.e;"
    ));
    project.write("in/0.json", "{\"k\":1,\"v\":1}\n{\"k\":2,\"v\":2}\n");
    project.call(&["run"]).exits(0);
    project.write("in/1.json", "{\"k\":1,\"v\":3}\n");
    let told = project.call(&["run"]).exits(1);
    assert!(told.err.contains("two rows of one key"), "{}", told.err);
    assert_eq!(
        project.query("SELECT k, v FROM live.t ORDER BY k"),
        json!([{ "k": 1, "v": 1 }, { "k": 2, "v": 2 }])
    );
}

#[test]
fn a_service_counts_what_comes_and_answers_by_key() {
    let project = Project::new(
        "CREATE STREAM clicks (page VARCHAR, user_id BIGINT, ts TIMESTAMPTZ);
         CREATE SERVING TABLE pages PRIMARY KEY (page) AS SELECT page, count(*) AS clicks, count(DISTINCT user_id) AS users FROM STREAM clicks GROUP BY page;
         CREATE SERVING TABLE minutes PRIMARY KEY (page SORT KEY (minute)) TTL INTERVAL '36500' DAY EMIT EVERY INTERVAL '50 milliseconds' AS
           SELECT page, TUMBLE_START(ts, INTERVAL '1' MINUTE) AS minute, count(*) AS clicks FROM STREAM clicks GROUP BY page, TUMBLE(ts, INTERVAL '1' MINUTE);",
    );
    let mut service = Serving::configured(&project, "open_on_loopback = true");
    let records: Vec<Value> = (0..600)
        .map(|n| json!({ "page": format!("p/{} é", n % 3), "user_id": n % 7, "ts": format!("2026-11-25T10:{:02}:00Z", n % 5) }))
        .collect();
    let (status, ..) =
        service.send_to("POST", "/v1/streams/clicks", &[], json!(records).to_string().as_bytes());
    assert_eq!(status, 202);
    // A key that no store could hold is left out, and holds nothing up.
    let long =
        json!([{ "page": "L".repeat(70_000), "user_id": 1, "ts": "2026-11-25T10:00:00Z" }]).to_string();
    assert_eq!(service.send_to("POST", "/v1/streams/clicks", &[], long.as_bytes()).0, 202);
    let get = |path: &str| {
        let (status, _, body) = service.send_to("GET", path, &[], b"");
        (status, serde_json::from_slice::<Value>(&body).unwrap())
    };
    let started = std::time::Instant::now();
    let key = "p%2F1%20%C3%A9";
    loop {
        let (page, minutes) =
            (get(&format!("/v1/tables/pages/{key}")), get(&format!("/v1/tables/minutes/{key}")));
        let counted: u64 =
            minutes.1.as_array().into_iter().flatten().filter_map(|row| row["clicks"].as_u64()).sum();
        if page.1["clicks"] == 200 && counted == 200 {
            assert_eq!(page, (200, json!({ "page": "p/1 é", "clicks": 200, "users": 7 })));
            break;
        }
        assert!(started.elapsed().as_secs() < 60, "{page:?} {minutes:?}");
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    let row = |minute: u64| json!({ "page": "p/1 é", "minute": format!("2026-11-25T10:{minute:02}:00Z"), "clicks": 40 });
    assert_eq!(
        get(&format!("/v1/tables/minutes/{key}?from=2026-11-25T10:03:00Z")),
        (200, json!([row(3), row(4)]))
    );
    assert_eq!(
        get(&format!("/v1/tables/minutes/{key}?to=2026-11-25T10:03:00Z&order=desc&limit=2")),
        (200, json!([row(2), row(1)]))
    );
    assert_eq!(get(&format!("/v1/tables/minutes/{key}/2026-11-25T10:01:00Z")), (200, row(1)));
    assert_eq!(get("/v1/tables/pages/nobody").0, 404);
    assert_eq!(
        get("/v1/tables/pagse/x").1["error"],
        "no serving table \"pagse\"; did you mean \"main.pages\"?"
    );
    assert_eq!(get("/v1/tables/minutes/x/soon").0, 400);
    let body = json!({ "keys": ["p/0 é", "nobody", ["p/2 é"]] }).to_string();
    let (status, _, body) = service.send_to("POST", "/v1/tables/pages", &[], body.as_bytes());
    let clicks = |page: &str| json!({ "page": page, "clicks": 200, "users": 7 });
    assert_eq!(
        (status, serde_json::from_slice::<Value>(&body).unwrap()),
        (200, json!([clicks("p/0 é"), clicks("p/2 é")]))
    );
    let (_, _, metrics) = service.send_to("GET", "/metrics", &[], b"");
    let metrics = String::from_utf8(metrics).unwrap();
    let lags: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("catchment_flow_lag_records{")).collect();
    assert!(!lags.is_empty() && lags.iter().all(|line| line.ends_with(" 0")), "{lags:?}");
    let bytes =
        metrics.lines().find_map(|line| line.strip_prefix("catchment_serving_bytes{table=\"main.pages\"} "));
    assert!(bytes.is_some_and(|bytes| bytes.parse::<u64>().unwrap() > 1_000), "{metrics}");
    let sizes = project.query("SELECT rows >= 3 AND groups >= 3 AND bytes > 1000 AND batch IS NOT NULL AS held FROM system.serving_tables WHERE dataset = 'main.pages'");
    assert_eq!(sizes, json!([{ "held": true }]));
    let long = json!({ "keys": ["L".repeat(70_000)] }).to_string();
    let (status, _, body) = service.send_to("POST", "/v1/tables/pages", &[], long.as_bytes());
    assert_eq!((status, body.as_slice()), (200, &b"[]"[..]));
    // Another process asks the service, which has the rows; its errors are told as one's own.
    let rows = project.query(
        "SELECT page, clicks, users, [clicks] AS list FROM pages WHERE clicks = 200 ORDER BY page LIMIT 1",
    );
    assert_eq!(rows, json!([{ "page": "p/0 é", "clicks": 200, "users": 7, "list": [200] }]));
    let told = project.call(&["sql", "SELECT nope FROM pages"]).exits(1);
    assert!(told.err.contains("C2004") && told.err.contains("nope"), "{}", told.err);
    let columns = project.call(&["sql", "--json", "DESCRIBE pages"]).exits(0).json();
    assert_eq!(columns[0][0], "page", "{columns}");
    let status = project.call(&["status", "--json"]).exits(0).json();
    let pages =
        status["datasets"].as_array().unwrap().iter().find(|row| row["dataset"] == "main.pages").unwrap();
    assert!(pages["status"] == "updated" && pages["committed_at"].is_string(), "{status}");
    let plan = project.call(&["sql", "EXPLAIN SELECT page FROM pages WHERE clicks > 1"]).exits(0);
    assert!(plan.out.contains("FilterExec: clicks"), "{}", plan.out);
    let told = project.call(&["sql", "EXPLAIN ANALYZE SELECT nope FROM pages"]).exits(1);
    assert!(told.err.contains("1:24") && told.err.contains("nope"), "{}", told.err);
    let table = project.call(&["sql", "SELECT page FROM pages WHERE false"]).exits(0);
    assert_eq!(table.out.trim(), "page");
    let large = project.call(&["sql", "--csv", "SELECT repeat('x', 30000000) FROM pages"]).exits(1);
    assert!(large.err.contains("at most 20971520 bytes"), "{}", large.err);
    // What writes is told who has the rows.
    let told = project.call(&["run"]).exits(1);
    assert!(told.err.contains("C4001") || told.err.contains("C7001"), "{}", told.err);
    assert_eq!(service.terminate(), Some(0));
    assert_eq!(project.query("SELECT sum(clicks) AS n FROM pages"), json!([{ "n": 600 }]));
    // Without a key of its own, nobody reads.
    let closed = Serving::configured(&project, "");
    assert_eq!(closed.send_to("GET", &format!("/v1/tables/pages/{key}"), &[], b"").0, 401);
}
