//! Windows over streams: whatever comes in whatever pieces, with whatever kills, gives what the same query gives over all
//! of the input at once.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::project::{Project, dataset};

/// Queries with `{clicks}` and `{views}` for what they read, and `{window}`s that end with the times of events.
const QUERIES: &[(&str, &str)] = &[
    (
        "tumble",
        "SELECT page, TUMBLE_START(ts, INTERVAL '1' MINUTE) AS window_start, TUMBLE_END(ts, INTERVAL '1' MINUTE) AS window_end,
           count(*) AS n, count(DISTINCT id % 7) AS users, sum(amount) AS total, min(id) AS first, max(amount) AS most,
           approx_distinct(id) AS about, median(amount) AS middle, array_agg(id ORDER BY id) AS ids
         FROM {clicks} GROUP BY page, TUMBLE(ts, INTERVAL '1' MINUTE)",
    ),
    (
        "hop",
        "SELECT HOP_START(ts, INTERVAL '20' SECONDS, INTERVAL '1' MINUTE) AS window_start,
           HOP_END(ts, INTERVAL '20' SECONDS, INTERVAL '1' MINUTE) AS window_end, page, count(*) AS n
         FROM {clicks} WHERE page <> 'b' GROUP BY page, HOP(ts, INTERVAL '20' SECONDS, INTERVAL '1' MINUTE) HAVING count(*) > 1",
    ),
    (
        "gaps",
        "SELECT HOP_START(ts, INTERVAL '1' MINUTE, INTERVAL '20' SECONDS) AS window_start,
           HOP_END(ts, INTERVAL '1' MINUTE, INTERVAL '20' SECONDS) AS window_end, count(*) AS n
         FROM {clicks} GROUP BY HOP(ts, INTERVAL '1' MINUTE, INTERVAL '20' SECONDS)",
    ),
    (
        "cumulate",
        "SELECT CUMULATE_START(ts, INTERVAL '30' SECONDS, INTERVAL '2' MINUTES) AS window_start,
           CUMULATE_END(ts, INTERVAL '30' SECONDS, INTERVAL '2' MINUTES) AS window_end, count(DISTINCT page) AS pages, bit_xor(DISTINCT id) AS bits
         FROM {clicks} GROUP BY CUMULATE(ts, INTERVAL '30' SECONDS, INTERVAL '2' MINUTES)",
    ),
    (
        "spark",
        "SELECT window.start AS window_start, window.end AS window_end, avg(amount) AS average
         FROM {clicks} GROUP BY window(ts, '1 minute', '30 seconds')",
    ),
    (
        "flink",
        "WITH c AS (SELECT * FROM {clicks})
         SELECT window_start, window_end, page, count(*) AS n FROM TABLE(TUMBLE(TABLE c, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
         GROUP BY window_start, window_end, page",
    ),
    (
        "grouping_sets",
        "SELECT page, window_start, window_end, count(*) AS n, sum(amount) AS total FROM TABLE(TUMBLE({table} clicks_again, DESCRIPTOR(ts), '1 minute'))
         GROUP BY GROUPING SETS ((page, window_start, window_end), (window_start, window_end))",
    ),
    (
        "rollup",
        "SELECT page, TUMBLE_START(ts, '1 minute') AS window_start, TUMBLE_END(ts, '1 minute') AS window_end, count(*) AS n
         FROM {clicks} GROUP BY ROLLUP (page), TUMBLE(ts, '1 minute')",
    ),
    (
        "sets_of_windows",
        "SELECT page, HOP_START(ts, '20 seconds', '1 minute') AS window_start, HOP_END(ts, '20 seconds', '1 minute') AS window_end, count(DISTINCT id) AS n
         FROM {clicks} GROUP BY GROUPING SETS ((page, HOP(ts, '20 seconds', '1 minute')), (HOP(ts, '20 seconds', '1 minute')))",
    ),
    (
        "top",
        "SELECT * FROM (
           SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY n DESC, page) AS place FROM (
             SELECT TUMBLE_START(ts, '1 minute') AS window_start, TUMBLE_END(ts, '1 minute') AS window_end, page, count(*) AS n
             FROM {clicks} GROUP BY page, TUMBLE(ts, '1 minute')))
         WHERE place <= 2",
    ),
    (
        "two_levels",
        "SELECT window_start, window_end, max(n) AS most, count(*) AS pages FROM (
           SELECT TUMBLE_START(ts, '1 minute') AS window_start, TUMBLE_END(ts, '1 minute') AS window_end, page, count(*) AS n
           FROM {clicks} GROUP BY page, TUMBLE(ts, '1 minute'))
         GROUP BY window_start, window_end",
    ),
    (
        "rows_of_windows",
        "SELECT DISTINCT window_start, window_end, page FROM TABLE(TUMBLE({table} clicks_again, DESCRIPTOR(ts), '1 minute'))",
    ),
    (
        "with_a_table",
        "SELECT p.title, TUMBLE_START(c.ts, '1 minute') AS window_start, TUMBLE_END(c.ts, '1 minute') AS window_end, count(*) AS n
         FROM {clicks} c JOIN raw.pages p ON p.page = c.page GROUP BY p.title, TUMBLE(c.ts, '1 minute')",
    ),
    (
        "sessions",
        "SELECT page, SESSION_START(ts, INTERVAL '4' SECONDS) AS window_start, SESSION_END(ts, INTERVAL '4' SECONDS) AS window_end,
           count(*) AS n, count(DISTINCT id) AS ids, sum(amount) AS total
         FROM {clicks} GROUP BY page, SESSION(ts, INTERVAL '4' SECONDS)",
    ),
    (
        "sessions_in_a_zone",
        "SELECT page, SESSION_START(ts AT TIME ZONE 'America/New_York', '4 seconds') AS begins, CAST(max(ts) AS TIMESTAMP) + INTERVAL '4' SECONDS AS window_end, count(*) AS n
         FROM {clicks} GROUP BY 1, SESSION(ts AT TIME ZONE 'America/New_York', '4 seconds')",
    ),
    (
        "spark_sessions",
        "SELECT session_window.start AS window_start, session_window.end AS window_end, min(id) AS first
         FROM {clicks} WHERE page = 'c' GROUP BY session_window(ts, '3 seconds')",
    ),
    (
        "sessions_as_a_relation",
        "SELECT window_start, window_end, page, count(*) AS n, max(amount) AS most
         FROM TABLE(SESSION({table} clicks_again PARTITION BY page, DESCRIPTOR(ts), INTERVAL '4' SECONDS)) GROUP BY window_start, window_end, page",
    ),
    (
        "staggered",
        "SELECT page, STAGGER_START(ts, INTERVAL '7' SECONDS) AS window_start, STAGGER_END(ts, INTERVAL '7' SECONDS) AS window_end,
           count(*) AS n, array_agg(id ORDER BY id) AS ids
         FROM {clicks} WHERE amount > 10 GROUP BY page, STAGGER(ts, INTERVAL '7' SECONDS)",
    ),
    (
        "staggered_rows",
        "SELECT id, page, window_start, window_end FROM TABLE(STAGGER({table} clicks_again PARTITION BY page, DESCRIPTOR(ts), INTERVAL '40' SECONDS))",
    ),
    (
        "two_streams",
        "SELECT c.window_start, c.window_end, c.n AS clicks, v.n AS views FROM (
           SELECT TUMBLE_START(ts, '1 minute') AS window_start, TUMBLE_END(ts, '1 minute') AS window_end, count(*) AS n
           FROM {clicks} GROUP BY TUMBLE(ts, '1 minute')) c
         LEFT JOIN (
           SELECT TUMBLE_START(ts, '1 minute') AS window_start, count(*) AS n FROM {views} GROUP BY TUMBLE(ts, '1 minute')) v
         ON v.window_start = c.window_start",
    ),
    (
        "joined",
        "SELECT c.id, v.id AS view, c.page, c.amount + v.amount AS amount, greatest(c.ts, v.ts) + INTERVAL '1 microsecond' AS window_end
         FROM {clicks} c JOIN {views} v ON c.page = v.page AND v.ts BETWEEN c.ts - INTERVAL '2' SECONDS AND c.ts + INTERVAL '30' SECONDS
         WHERE c.amount > 20",
    ),
    (
        "joined_by_where",
        "SELECT c.id, v.id AS view, greatest(c.ts, v.ts) + INTERVAL '1 microsecond' AS window_end
         FROM {clicks} c CROSS JOIN {views} v WHERE c.id % 5 = v.id % 5 AND c.ts < v.ts AND c.ts + INTERVAL '9' SECONDS >= v.ts",
    ),
    (
        "joined_with_a_table",
        "SELECT c.id, v.id AS view, p.title, greatest(c.ts, v.ts) + INTERVAL '1 microsecond' AS window_end
         FROM (SELECT id, page, ts FROM {clicks} WHERE amount < 80) c
         JOIN (SELECT id, page, ts AS seen, ts FROM {views}) v ON v.seen >= c.ts AND v.seen - INTERVAL '5' SECONDS < c.ts
         JOIN raw.pages p ON p.page = v.page",
    ),
];

const SCHEMA: &str = "ts TIMESTAMP, id BIGINT, page STRING, amount DOUBLE";

/// The first event, in seconds.
const BEGINS: i64 = 1_767_225_600;

/// How far events come out of order, in seconds.
const DISORDER: i64 = 20;

fn pipeline(files: usize) -> String {
    let read = |folder: &str, files: usize| {
        format!(
            "read_files('{folder}', format => 'json', schema => '{SCHEMA}', maxFilesPerTrigger => {files})"
        )
    };
    let delay = format!("DELAY OF INTERVAL '{DISORDER}' SECONDS");
    let watermark = format!("WATERMARK ts {delay}");
    let mut text = format!(
        "CREATE MATERIALIZED VIEW raw.pages AS SELECT * FROM read_files('pages', format => 'json', schema => 'page STRING, title STRING');
         CREATE TEMPORARY VIEW clicks_again AS SELECT * FROM STREAM {} {watermark};
         CREATE TEMPORARY VIEW all_clicks AS SELECT * FROM {};\n",
        read("clicks", files),
        read("clicks", files)
    );
    for (name, query) in QUERIES {
        let streaming = query
            .replace("{clicks}", &format!("STREAM {} {watermark}", read("clicks", files)))
            .replace("{views}", &format!("STREAM {} {watermark}", read("views", files)))
            .replace("{table}", "TABLE");
        let streaming = match *name {
            "sessions_in_a_zone" => streaming
                .replace(&watermark, &format!("WATERMARK ts AT TIME ZONE 'America/New_York' {delay}")),
            _ => streaming,
        };
        let batch = query
            .replace("{clicks}", &read("clicks", files))
            .replace("{views}", &read("views", files))
            .replace("{table} clicks_again", "TABLE all_clicks");
        let _ = writeln!(text, "CREATE STREAMING TABLE streamed.{name} AS {streaming};");
        let _ = writeln!(text, "CREATE MATERIALIZED VIEW computed.{name} AS {batch};");
    }
    text
}

fn event(seconds: i64, id: u64, chance: &mut StdRng) -> String {
    let time = chrono::DateTime::from_timestamp(seconds, chance.random_range(0..1_000) * 1_000_000).unwrap();
    let page = ["a", "b", "c", "d"].choose(chance).unwrap();
    let amount = chance.random_range(0..400_u32);
    json!({ "ts": time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string(), "id": id, "page": page, "amount": f64::from(amount) / 4.0 })
        .to_string()
}

/// Events of some minutes in files: in order but for what the watermark allows.
fn files(count: usize, chance: &mut StdRng) -> Vec<String> {
    let mut events: Vec<(i64, String)> = (0..count as u64 * 30)
        .map(|id| {
            let seconds = BEGINS + id as i64;
            (seconds + chance.random_range(0..DISORDER), event(seconds, id, chance))
        })
        .collect();
    events.sort_by_key(|(arrives, _)| *arrives);
    events
        .chunks(30)
        .map(|chunk| chunk.iter().map(|(_, event)| event.as_str()).collect::<Vec<_>>().join("\n"))
        .collect()
}

/// Every row of the tables of a query, in the same order.
fn rows(project: &Project, schema: &str, name: &str, until: i64) -> Vec<String> {
    let until = chrono::DateTime::from_timestamp(until, 0).unwrap().format("%Y-%m-%dT%H:%M:%S");
    let sql = format!("SELECT * FROM {schema}.{name} WHERE window_end <= TIMESTAMP '{until}'");
    let mut rows: Vec<String> =
        project.query(&sql).as_array().unwrap().iter().map(ToString::to_string).collect();
    rows.sort();
    rows
}

/// Feeds a project files in pieces, its runs killed now and then, and compares streams with batches.
fn feed(seed: u64, files_at_once: usize, faults: &[&str]) {
    let mut chance = StdRng::seed_from_u64(seed);
    let project = Project::new(&pipeline(files_at_once));
    project.write("catchment.toml", "[engine]\nthreads = 2\n[maintenance]\nkept_plans = 2\n");
    for (page, title) in [("a", "first"), ("b", "second"), ("c", "third")] {
        project.write(&format!("pages/{page}.json"), json!({ "page": page, "title": title }).to_string());
    }
    let (clicks, views) = (files(16, &mut chance), files(16, &mut chance));
    let last = BEGINS + 16 * 30;
    let mut next = 0;
    while next < clicks.len() {
        let more = chance.random_range(1..5).min(clicks.len() - next);
        // Files that come together have names in no order, and none of their rows is late.
        let mut names: Vec<usize> = (next..next + more).collect();
        names.shuffle(&mut chance);
        for (offset, name) in names.iter().enumerate() {
            project.write(&format!("clicks/{name:03}.json"), &clicks[next + offset]);
            project.write(&format!("views/{name:03}.json"), &views[next + offset]);
        }
        next += more;
        if let Some(fault) = faults.choose(&mut chance) {
            let fault = format!("{fault}:{}:abort", chance.random_range(1..12));
            let output = project.command(&["run", "--json"]).env("CATCHMENT_FAULT", &fault).output().unwrap();
            assert!(
                matches!(output.status.code(), None | Some(0)),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        project.run();
    }
    let report = project.run();
    for (name, _) in QUERIES {
        assert_eq!(dataset(&report, &format!("streamed.{name}"))["status"], "up to date");
        let until = last - 1 - DISORDER - 60;
        let (streamed, computed) =
            (rows(&project, "streamed", name, until), rows(&project, "computed", name, until));
        assert!(computed.len() > 2, "{name}: {computed:?}");
        assert_eq!(streamed, computed, "{name} with seed {seed}");
        // What is not closed is not there.
        let all = rows(&project, "streamed", name, last + 3_600);
        let open =
            format!("SELECT * FROM streamed.{name} WHERE window_end > TIMESTAMP '2026-01-01T00:07:40'");
        assert_eq!(project.query(&open), json!([]), "{name}: {all:?}");
    }
}

#[test]
fn streams_in_pieces_are_batches() {
    feed(1, 1_000, &[]);
}

#[test]
fn a_backlog_read_a_file_at_a_time_loses_no_row() {
    feed(2, 1, &[]);
}

#[test]
fn kills_change_no_window() {
    feed(
        3,
        2,
        &[
            "plan-written",
            "files-written",
            "staged-written",
            "commit-written",
            "published",
            "bookmark-run",
            "file-renamed",
        ],
    );
}

fn one(pipeline: &str) -> Project {
    Project::new(
        &pipeline.replace("{in}", &format!("read_files('in', format => 'json', schema => '{SCHEMA}')")),
    )
}

fn line(time: &str, id: u64) -> String {
    format!("{{\"ts\":\"2026-01-01T{time}\",\"id\":{id}}}\n")
}

const COUNTS: &str =
    "CREATE STREAMING TABLE counts AS SELECT TUMBLE_START(ts, '1 minute') AS s, count(*) AS n
    FROM STREAM {in} WATERMARK ts DELAY OF INTERVAL '10' SECONDS GROUP BY TUMBLE(ts, '1 minute');";

fn counts(project: &Project) -> Value {
    project.query("SELECT CAST(s AS STRING) AS s, n FROM counts ORDER BY s")
}

#[test]
fn a_row_is_late_when_all_its_windows_are_closed() {
    let project = one(COUNTS);
    project.write("in/1.json", line("10:00:30", 1) + &line("10:01:09.999", 2));
    project.run();
    assert_eq!(counts(&project), json!([]), "the watermark is at 10:00:59.999");
    // Not late, though it is older than what came before: its window is open still.
    project.write("in/2.json", line("10:00:00", 3) + &line("10:01:10", 4));
    project.run();
    assert_eq!(counts(&project), json!([{ "s": "2026-01-01T10:00:00", "n": 2 }]));
    project.write("in/3.json", line("10:00:59", 5) + &line("10:01:00", 6) + &line("10:02:10", 7));
    assert_eq!(dataset(&project.run(), "main.counts")["dropped"], 1);
    assert_eq!(counts(&project)[1], json!({ "s": "2026-01-01T10:01:00", "n": 3 }));
    let told = "SELECT late_rows, CAST(watermark AS STRING) AS watermark, held_rows FROM system.windows";
    assert_eq!(
        project.query(told),
        json!([{ "late_rows": 1, "watermark": "2026-01-01T10:02:00Z", "held_rows": 1 }])
    );
}

#[test]
fn rows_without_a_usable_time_are_in_quarantine() {
    let project = one(COUNTS);
    project.write(
        "in/1.json",
        "{\"id\":1}\n".to_owned() + &line("10:00:00", 2) + "{\"ts\":\"2199-01-01T00:00:00\",\"id\":3}\n",
    );
    let report = project.call(&["run", "--json"]).exits(2).json();
    assert_eq!(dataset(&report, "main.counts")["quarantined"], 2, "{report}");
    let apart = project.query("SELECT record FROM main.counts__quarantine ORDER BY byte_offset");
    assert!(apart[0]["record"].as_str().unwrap().contains("\"id\":1"), "{apart}");
    assert!(apart[1]["record"].as_str().unwrap().contains("2199"), "{apart}");
    project.write("in/2.json", line("10:02:00", 4));
    project.run();
    assert_eq!(counts(&project)[0]["n"], 1);
}

#[test]
fn a_changed_query_goes_on_when_what_waits_is_enough_for_it() {
    let project = one(COUNTS);
    project.write("in/1.json", line("10:00:30", 1) + &line("10:00:40", 2));
    project.run();
    let change = |from: &str, to: &str| {
        let text = COUNTS
            .replace(from, to)
            .replace("{in}", &format!("read_files('in', format => 'json', schema => '{SCHEMA}')"));
        project.write("pipelines/all.sql", text);
    };
    change("count(*) AS n", "count(*) * 10 AS n");
    let told = project.call(&["check"]).exits(0).out;
    assert!(told.contains("main.counts: 2 rows wait for their windows, and are kept"), "{told}");
    project.write("in/2.json", line("10:01:40", 3));
    project.run();
    assert_eq!(counts(&project), json!([{ "s": "2026-01-01T10:00:00", "n": 20 }]));
    for (from, to, why) in [
        ("count(*) AS n", "sum(id) AS n", "lack column"),
        ("'1 minute'", "'2 minutes'", "wait for other windows"),
    ] {
        change(from, to);
        for command in ["check", "run"] {
            let refused = project.call(&[command]).exits(1);
            assert!(refused.err.contains(why) && refused.err.contains("--full-refresh"), "{}", refused.err);
        }
    }
    change("count(*) AS n", "sum(id) AS n");
    project.call(&["run", "--full-refresh"]).exits(0);
    assert_eq!(counts(&project), json!([{ "s": "2026-01-01T10:00:00", "n": 3 }]));
}

#[test]
fn a_rollback_takes_what_waits_back_as_well() {
    let project = one(COUNTS);
    project.write("in/1.json", line("10:00:30", 1));
    project.run();
    let version =
        project.call(&["history", "main.counts", "--limit", "1", "--json"]).json()[0]["version"].to_string();
    project.write("in/2.json", line("10:00:40", 2) + &line("10:01:30", 3));
    project.run();
    assert_eq!(counts(&project)[0]["n"], 2);
    project.call(&["rollback", "main.counts", "--to", &version]).exits(0);
    assert_eq!(counts(&project), json!([]));
    project.run();
    assert_eq!(counts(&project), json!([{ "s": "2026-01-01T10:00:00", "n": 2 }]));
    project.write("in/3.json", line("10:01:40", 4) + &line("10:02:30", 5));
    project.run();
    assert_eq!(counts(&project)[1]["n"], 2);
}

#[test]
fn what_decides_about_sessions_stays_as_it_was_while_rows_wait() {
    let sessions = "CREATE STREAMING TABLE counts AS SELECT SESSION_START(ts, '1 minute') AS s, count(*) AS n
        FROM STREAM {in} c WATERMARK c.ts DELAY OF INTERVAL '10' SECONDS WHERE id < 5 GROUP BY id, SESSION(ts, '1 minute');";
    let project = one(sessions);
    project.write("in/1.json", line("10:00:30", 1) + &line("10:00:40", 2));
    project.run();
    for (from, to) in [
        ("GROUP BY id, ", "GROUP BY "),
        ("id < 5", "id < 9"),
        ("id < 5", "random() < 0.5"),
        ("id < 5", "id IN (SELECT 1)"),
        ("id < 5", "ts < now()"),
    ] {
        let text = sessions
            .replace(from, to)
            .replace("{in}", &format!("read_files('in', format => 'json', schema => '{SCHEMA}')"));
        project.write("pipelines/all.sql", text);
        let refused = project.call(&["run"]).exits(1);
        assert!(
            refused.err.contains("by another condition or key")
                || refused.err.contains("finding sessions among"),
            "{to}: {}",
            refused.err
        );
    }
}

#[test]
fn a_session_waits_until_its_key_is_silent() {
    let project =
        one("CREATE STREAMING TABLE counts AS SELECT id, SESSION_START(ts, '1 minute') AS s, count(*) AS n
        FROM STREAM {in} WATERMARK ts DELAY OF INTERVAL '10' SECONDS GROUP BY id, SESSION(ts, '1 minute');");
    project.write("in/1.json", line("10:00:00", 1) + &line("10:00:30", 2));
    project.run();
    for minute in 1..6 {
        // Key 1 goes on, a step at a time; key 2 has ended long since.
        project.write(
            &format!("in/{minute}1.json"),
            line(&format!("10:0{minute}:00"), 1) + &line(&format!("10:0{}:50", minute - 1), 1),
        );
        project.run();
    }
    assert_eq!(counts(&project), json!([{ "s": "2026-01-01T10:00:30", "n": 1 }]));
    // Behind the watermark a row could belong to a session that is closed.
    project.write("in/7.json", line("10:04:49", 3) + &line("10:20:00", 4));
    project.run();
    let rows = project.query("SELECT id, CAST(s AS STRING) AS s, n FROM counts ORDER BY s, id");
    assert_eq!(
        rows,
        json!([{ "id": 1, "s": "2026-01-01T10:00:00", "n": 11 }, { "id": 2, "s": "2026-01-01T10:00:30", "n": 1 }])
    );
    assert_eq!(
        project.query("SELECT late_rows, held_rows FROM system.windows"),
        json!([{ "late_rows": 1, "held_rows": 1 }])
    );
}

#[test]
fn late_rows_go_to_a_table_of_their_own_and_back_with_a_rollback() {
    let project = one(&format!(
        "{} CREATE STREAMING TABLE seen AS SELECT id FROM STREAM audit.late;",
        COUNTS.replace(";", " LATE ROWS INTO audit.late;")
    ));
    project.write("in/1.json", line("10:00:30", 1) + &line("10:01:30", 2));
    project.run();
    assert_eq!(project.query("SELECT count(*) AS n FROM seen")[0]["n"], 0);
    let version =
        project.call(&["history", "main.counts", "--limit", "1", "--json"]).json()[0]["version"].to_string();
    project.write("in/2.json", line("10:00:59", 3) + &line("10:01:10", 4) + &line("10:00:00", 5));
    let mut command = project.command(&["run"]);
    let died = command.env("CATCHMENT_FAULT", "between-outputs:1:abort").output().unwrap();
    assert_eq!(died.status.code(), None);
    project.run();
    let late = || project.query("SELECT id, CAST(ts AS STRING) AS ts FROM audit.late ORDER BY id");
    let two = json!([{ "id": 3, "ts": "2026-01-01T10:00:59" }, { "id": 5, "ts": "2026-01-01T10:00:00" }]);
    assert_eq!(late(), two);
    assert_eq!(project.query("SELECT id FROM seen ORDER BY id"), json!([{ "id": 3 }, { "id": 5 }]));
    project.call(&["rollback", "main.counts", "--to", &version, "--cascade"]).exits(0);
    assert_eq!(late(), json!([]));
    project.run();
    assert_eq!((late(), counts(&project)), (two, json!([{ "s": "2026-01-01T10:00:00", "n": 1 }])));
    // Read at once, no row is late to another.
    project.call(&["run", "--full-refresh"]).exits(0);
    assert_eq!((late(), counts(&project)), (json!([]), json!([{ "s": "2026-01-01T10:00:00", "n": 3 }])));
}

#[test]
fn tables_of_late_rows_that_cannot_be_are_refused() {
    for (pipeline, why) in [
        (COUNTS.replace(";", " LATE ROWS INTO counts;"), "is defined in the project"),
        (COUNTS.replace(";", " LATE ROWS INTO a.b.c;"), "at most two parts"),
        (COUNTS.replace(";", " LATE ROWS INTO system.late;"), "cannot have the name"),
        (COUNTS.replace(";", " LATE ROWS INTO l__quarantine;"), "cannot have the name"),
        (COUNTS.replace(";", " LATE ROWS NOWHERE;"), "C2001"),
        (
            format!(
                "{}{}",
                COUNTS.replace(";", " LATE ROWS INTO l;"),
                COUNTS.replace(";", " LATE ROWS INTO l;").replace("counts", "more")
            ),
            "takes late rows of 2 flows",
        ),
        (
            "CREATE STREAMING TABLE t AS SELECT id FROM STREAM {in} LATE ROWS INTO l;".to_owned(),
            "put into windows",
        ),
        ("CREATE VIEW v AS SELECT 1 AS one LATE ROWS INTO l;".to_owned(), "no late rows"),
    ] {
        let project = one(&pipeline);
        project.write("in/1.json", line("10:00:30", 1));
        let refused = project.call(&["check"]).exits(1);
        assert!(refused.err.contains(why), "{pipeline}: {}", refused.err);
    }
    let fine = one(&COUNTS.replace(";", " LATE ROWS DROP;"));
    fine.write("in/1.json", line("10:00:30", 1));
    fine.call(&["check"]).exits(0);
}

#[test]
fn rows_that_waited_for_another_query_keep_their_columns() {
    let pipeline = |schema: &str, sum: &str| {
        format!(
            "CREATE STREAMING TABLE counts AS SELECT TUMBLE_START(ts, '1 hour') AS s, {sum} AS n
             FROM STREAM read_files('in', format => 'json', schema => '{schema}') WATERMARK ts DELAY OF INTERVAL '10' SECONDS
             GROUP BY TUMBLE(ts, '1 hour');"
        )
    };
    let files = |project: &Project, from: u64, to: u64| {
        for minute in from..to {
            project.write(
                &format!("in/{minute:02}.json"),
                format!("{{\"ts\":\"2026-01-01T10:{minute:02}:00\",\"a\":1000,\"b\":1,\"c\":5}}"),
            );
            project.run();
        }
    };
    // Narrowed, and in another order: files of both kinds are merged before the window closes.
    for (before, after, sum) in [
        ("ts TIMESTAMP, a BIGINT, b BIGINT", "ts TIMESTAMP, a BIGINT, b BIGINT", "sum(b)"),
        ("a BIGINT, b BIGINT, ts TIMESTAMP", "a BIGINT, b BIGINT, ts TIMESTAMP", "sum(b)"),
        ("ts TIMESTAMP, a BIGINT, b BIGINT", "ts TIMESTAMP, b BIGINT, a BIGINT", "sum(b) + 0 * sum(a)"),
    ] {
        let project = Project::new(&pipeline(before, "sum(a) + sum(b)"));
        files(&project, 0, 4);
        project.write("pipelines/all.sql", pipeline(after, sum));
        files(&project, 4, 10);
        project.write("in/99.json", "{\"ts\":\"2026-01-01T11:30:00\",\"a\":0,\"b\":0}");
        project.run();
        assert_eq!(counts(&project), json!([{ "s": "2026-01-01T10:00:00", "n": 10 }]), "{after}: {sum}");
    }
    // A column that the input gains is null in rows that came before.
    let project = Project::new(&pipeline("ts TIMESTAMP, a BIGINT", "sum(a)"));
    files(&project, 0, 2);
    project.write("pipelines/all.sql", pipeline("ts TIMESTAMP, a BIGINT, c BIGINT", "sum(a) + sum(c)"));
    files(&project, 2, 10);
    project.write("in/99.json", "{\"ts\":\"2026-01-01T11:30:00\",\"a\":0}");
    project.run();
    assert_eq!(counts(&project), json!([{ "s": "2026-01-01T10:00:00", "n": 10_040 }]));
}

#[test]
fn a_failed_batch_of_windows_names_no_row_that_is_innocent() {
    let project = Project::new(&format!(
        "CREATE STREAMING TABLE counts (CONSTRAINT few EXPECT (n < 2) ON VIOLATION FAIL UPDATE) AS
         SELECT TUMBLE_START(ts, '1 minute') AS s, count(*) AS n FROM STREAM read_files('in', format => 'json', schema => '{SCHEMA}')
         GROUP BY TUMBLE(ts, '1 minute');"
    ));
    project.write("in/1.json", line("10:00:30", 1) + &line("10:00:31", 2));
    project.run();
    project.write("in/2.json", line("10:05:00", 3));
    let failed = project.call(&["run"]).exits(1);
    assert!(failed.err.contains("few") && !failed.err.contains("10:05:00"), "{}", failed.err);
}
