//! Serving tables whose definition is changed: what goes on is as if it had always been so, against the same query over all
//! rows; what cannot go on is refused, and nothing is lost.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::project::Project;

/// A table's key, its query before, and its query then, with `{e}` for the stream.
type Change = (&'static str, &'static str, &'static str, &'static str);

const CHANGES: &[Change] = &[
    (
        "aggregates",
        "PRIMARY KEY (k)",
        "SELECT k, count(*) AS n, sum(v) AS s, min(v) AS least, avg(f) AS mean, count(DISTINCT v) AS d, median(v) AS middle FROM {e} GROUP BY k",
        "SELECT k, median(v) AS middle, sum(v) AS s, count(*) AS n, min(v) AS least, avg(f) AS mean, count(DISTINCT v) AS d,
           sum(w) AS w, max(w) AS top, count(w) AS ws, count(DISTINCT w) AS dw, count(*) * 2 AS twice FROM {e} GROUP BY k",
    ),
    (
        "fewer",
        "PRIMARY KEY (k) TTL INTERVAL '9000' DAYS",
        "SELECT k, stddev(v) AS spread, sum(v) AS s, count(*) AS n FROM {e} WHERE id % 3 <> 0 GROUP BY k",
        "SELECT k, count(*) AS n, avg(w) AS w FROM {e} WHERE id % 3 <> 0 GROUP BY k HAVING count(*) > 2",
    ),
    (
        "windows",
        "PRIMARY KEY (k SORT KEY (minute)) TTL INTERVAL '9000' DAYS",
        "SELECT k, TUMBLE_START(at, INTERVAL '1' MINUTE) AS minute, count(*) AS n FROM {e} GROUP BY k, TUMBLE(at, INTERVAL '1' MINUTE)",
        "SELECT k, TUMBLE_START(at, INTERVAL '1' MINUTE) AS minute, TUMBLE_END(at, INTERVAL '1' MINUTE) AS ends, count(*) AS n, min(w) AS least, sum(w) FILTER (WHERE v > 2) AS w
         FROM {e} GROUP BY k, TUMBLE(at, INTERVAL '1' MINUTE)",
    ),
    (
        "hopping",
        "PRIMARY KEY (starts) TTL INTERVAL '9000' DAYS",
        "SELECT HOP_START(at, INTERVAL '1' MINUTE, INTERVAL '2' MINUTES) AS starts, count(*) AS n FROM {e} GROUP BY HOP(at, INTERVAL '1' MINUTE, INTERVAL '2' MINUTES)",
        "SELECT HOP_START(at, INTERVAL '1' MINUTE, INTERVAL '2' MINUTES) AS starts, count(*) AS n, count(*) * 2 AS twice, sum(w) AS w FROM {e} GROUP BY HOP(at, INTERVAL '1' MINUTE, INTERVAL '2' MINUTES)",
    ),
    (
        "through_views",
        "PRIMARY KEY (loud)",
        "SELECT upper(k) AS loud, sum(id + 1) AS s FROM {e} GROUP BY upper(k)",
        "SELECT loud, sum(y) AS s, max(w) AS w FROM (SELECT upper(k) AS loud, id + 1 AS y, w FROM {e}) x GROUP BY loud",
    ),
    (
        "outer",
        "PRIMARY KEY (k)",
        "SELECT x.k, count(p.title) AS titled FROM {e} x LEFT JOIN raw.pages p ON p.k = x.k GROUP BY x.k",
        "SELECT x.k, count(p.title) AS titled, count(p.title) > 3 AS many, min(x.w) AS w FROM (SELECT * FROM {e}) x LEFT JOIN (SELECT title, k FROM raw.pages) p ON p.k = x.k GROUP BY x.k",
    ),
    (
        "swapped",
        "PRIMARY KEY (a, b)",
        "SELECT x.k AS a, y.title AS b, count(*) AS n FROM {e} x JOIN raw.pages y ON x.k = y.k GROUP BY x.k, y.title",
        "SELECT x.title AS a, y.k AS b, count(*) AS n FROM {e} y JOIN raw.pages x ON y.k = x.k GROUP BY y.k, x.title",
    ),
    (
        "wider_groups",
        "PRIMARY KEY (v)",
        "SELECT v, count(*) AS n, max(f) AS most FROM {e} GROUP BY v",
        "SELECT v, max(f) AS most, count(*) AS n FROM {e} GROUP BY v",
    ),
    (
        "joined",
        "PRIMARY KEY (title)",
        "SELECT p.title, count(*) AS n FROM {e} x JOIN raw.pages p ON p.k = x.k GROUP BY p.title",
        "SELECT p.title, count(*) AS n, sum(x.w) AS w FROM (SELECT k, w FROM {e}) x JOIN raw.pages p ON p.k = x.k GROUP BY p.title",
    ),
    (
        "rows",
        "PRIMARY KEY (id)",
        "SELECT id, k, v, upper(k) AS loud FROM {e} WHERE id % 2 = 0",
        "SELECT upper(k) AS loud, id, v, w, k AS name FROM {e} WHERE id % 2 = 0",
    ),
];

fn pipeline(schema: &str, tables: &str) -> String {
    format!(
        "CREATE STREAMING TABLE raw.e AS SELECT * FROM STREAM read_files('in', format => 'json', schema => '{schema}', maxFilesPerTrigger => 1);
         CREATE MATERIALIZED VIEW raw.pages AS SELECT * FROM read_files('pages', format => 'json', schema => 'k STRING, title STRING');
         {tables}"
    )
}

const OLD: &str = "id BIGINT, at TIMESTAMP, k STRING, v INT, f REAL";
const NEW: &str = "id BIGINT, at TIMESTAMP, w BIGINT, k STRING, v BIGINT, f DOUBLE";

fn tables(query: impl Fn(&Change) -> &'static str) -> String {
    let mut text = String::new();
    for change in CHANGES {
        let streamed = query(change).replace("{e}", "STREAM raw.e");
        let _ = writeln!(text, "CREATE SERVING TABLE live.{} {} AS {streamed};", change.0, change.1);
        let _ = writeln!(
            text,
            "CREATE MATERIALIZED VIEW computed.{} AS {};",
            change.0,
            query(change).replace("{e}", "raw.e")
        );
    }
    text
}

fn lines(from: u64, count: u64, chance: &mut StdRng, more: bool) -> String {
    let mut lines = String::new();
    for id in from..from + count {
        let key = ["a", "b", "c", "d"][chance.random_range(0..4)];
        let mut row = json!({
            "id": id,
            "at": format!("2026-01-01T10:{:02}:{:02}", chance.random_range(0..4), chance.random_range(0..60)),
            "k": key,
            "v": chance.random_range(0..5),
            // Whole eighths: the same in few and in many bits, whatever the order of sums.
            "f": f64::from(chance.random_range(0..80)) / 8.0,
        });
        if more && chance.random_bool(0.7) {
            row["w"] = json!(chance.random_range(0..9));
        }
        let _ = writeln!(lines, "{row}");
    }
    lines
}

fn compare(project: &Project) {
    for (name, ..) in CHANGES {
        let rows = |schema: &str| {
            let rows = project.query(&format!("SELECT * FROM {schema}.{name}"));
            let mut rows: Vec<String> = rows.as_array().unwrap().iter().map(Value::to_string).collect();
            rows.sort();
            rows
        };
        let (live, computed) = (rows("live"), rows("computed"));
        assert!(computed.len() > 2, "{name}: {computed:?}");
        assert_eq!(live, computed, "{name}");
    }
}

#[test]
fn what_was_added_or_widened_is_as_if_it_had_always_been_so() {
    let mut chance = StdRng::seed_from_u64(7);
    let project = Project::new(&pipeline(OLD, &tables(|change| change.2)));
    for (k, title) in [("a", "first"), ("b", "second"), ("c", "third")] {
        project.write(&format!("pages/{k}.json"), json!({ "k": k, "title": title }).to_string());
    }
    for file in 0..3 {
        project.write(&format!("in/{file}.json"), lines(file * 20, 20, &mut chance, false));
    }
    project.run();
    compare(&project);
    project.write("pipelines/all.sql", pipeline(NEW, &tables(|change| change.3)));
    let told = project.call(&["check"]).exits(0);
    for (name, ..) in CHANGES {
        assert!(
            told.out.contains(&format!("live.{name}: changed, and goes on with its rows")),
            "{}",
            told.out
        );
    }
    for file in 3..6 {
        project.write(&format!("in/{file}.json"), lines(file * 20, 20, &mut chance, true));
    }
    for count in 1..7 {
        let fault = format!("staged-written:{count}:abort");
        project.command(&["run"]).env("CATCHMENT_FAULT", &fault).output().unwrap();
    }
    project.run();
    compare(&project);
    assert_eq!(project.call(&["check", "--json"]).exits(0).json()["serving"][0]["rows"], "same");
    project.write("in/6.json", lines(120, 40, &mut chance, true));
    project.run();
    compare(&project);
}

#[test]
fn columns_that_a_table_does_not_look_at_change_nothing() {
    let of = |schema: &str, query: &str| {
        pipeline(
            schema,
            &format!(
                "CREATE SERVING TABLE live.t PRIMARY KEY (k) AS SELECT k, {query} FROM STREAM raw.e GROUP BY k;"
            ),
        )
    };
    let project = Project::new(&of(OLD, "count(*) AS n, sum(v) AS s"));
    project.write("in/0.json", "{\"k\":\"a\",\"v\":5}\n");
    project.write("pages/a.json", "{\"k\":\"a\",\"title\":\"first\"}\n");
    project.run();
    project.write("pipelines/all.sql", of(NEW, "count(*) AS n, sum(v) AS s"));
    project.write("in/1.json", "{\"k\":\"a\",\"v\":5000000000,\"w\":1}\n");
    project.run();
    assert_eq!(project.query("SELECT * FROM live.t"), json!([{ "k": "a", "n": 2, "s": 5_000_000_005_i64 }]));
    // Its rows had the column for a while: what was in it is not known any more.
    project.write("pipelines/all.sql", of(NEW, "count(*) AS n, sum(w) AS w"));
    let told = project.call(&["check"]).exits(1);
    assert!(told.err.contains("sum(w) was not kept"), "{}", told.err);
}

/// Changes that look small, or as nothing, and give other rows: the table, its query before and then, and why not.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    (
        "PRIMARY KEY (k)",
        "k, count(*) AS n FROM STREAM raw.e GROUP BY k",
        "k, count(*) AS n FROM STREAM raw.f GROUP BY k",
        "it reads other relations",
    ),
    (
        "PRIMARY KEY (k)",
        "x.k, count(*) AS n FROM STREAM raw.e x JOIN raw.pages p ON p.k = x.k GROUP BY x.k",
        "x.k, count(*) AS n FROM STREAM raw.e x JOIN raw.others p ON p.k = x.k GROUP BY x.k",
        "it reads other relations",
    ),
    (
        "PRIMARY KEY (k)",
        "x.k, count(*) AS n FROM STREAM raw.e x JOIN raw.f y ON y.k = x.k GROUP BY x.k",
        "x.k, count(*) AS n FROM raw.e x JOIN STREAM raw.f y ON y.k = x.k GROUP BY x.k",
        "it reads other relations",
    ),
    (
        "PRIMARY KEY (k)",
        "k, count(*) AS n FROM raw.e GROUP BY k",
        "k, count(*) AS n, count(*) * 2 AS m FROM STREAM raw.e GROUP BY k",
        "it reads other relations",
    ),
    (
        "PRIMARY KEY (k)",
        "k, sum(y * 2) AS s FROM (SELECT k, v + 1 AS y FROM STREAM raw.e) x GROUP BY k",
        "k, sum(v + 1 * 2) AS s FROM STREAM raw.e GROUP BY k",
        "was not kept",
    ),
    (
        "PRIMARY KEY (k)",
        "k, count(*) AS n FROM (SELECT k, v - 1 AS y FROM STREAM raw.e) x WHERE 5 - y > 2 GROUP BY k",
        "k, count(*) AS n FROM STREAM raw.e WHERE 5 - v - 1 > 2 GROUP BY k",
        "chooses rows otherwise",
    ),
    (
        "PRIMARY KEY (k)",
        "x.k, count(*) AS n FROM STREAM raw.e x LEFT JOIN (SELECT k, title IS NULL AS untitled FROM raw.pages) p ON p.k = x.k WHERE p.untitled GROUP BY x.k",
        "x.k, count(*) AS n FROM STREAM raw.e x LEFT JOIN raw.pages p ON p.k = x.k WHERE p.title IS NULL GROUP BY x.k",
        "chooses rows otherwise",
    ),
    (
        "PRIMARY KEY (id)",
        "id, v, u FROM STREAM raw.e",
        "u AS id, v, id AS u FROM STREAM raw.e",
        "its key is made of something else",
    ),
    (
        "PRIMARY KEY (k)",
        "x.k, count(*) AS n FROM STREAM raw.e x JOIN raw.pages p ON p.k = x.k GROUP BY x.k",
        "x.k, count(*) AS n, sum(p.more) AS more FROM STREAM raw.e x JOIN raw.pages p ON p.k = x.k GROUP BY x.k",
        "sum(more) was not kept",
    ),
    (
        "PRIMARY KEY (k)",
        "k, sum(v * v) AS s FROM STREAM raw.e GROUP BY k",
        "k, sum(v * v) AS s, count(w) AS n FROM STREAM raw.e GROUP BY k",
        "column \"v\" of raw.e was Int32 and is Int64",
    ),
    (
        "PRIMARY KEY (k)",
        "k, count(*) AS n FROM STREAM raw.e WHERE k IN ('a', 'b') GROUP BY k",
        "k, count(*) AS n FROM STREAM raw.e WHERE k IN ('a\"), Utf8(\"b') GROUP BY k",
        "chooses rows otherwise",
    ),
    (
        "PRIMARY KEY (k)",
        "k, count(*) AS n FROM STREAM raw.e WHERE k IN (SELECT k FROM raw.pages) GROUP BY k",
        "k, count(*) AS n, count(*) + 1 AS m FROM STREAM raw.e WHERE k IN (SELECT k FROM raw.pages) GROUP BY k",
        "it is not known of such a query what can be kept of it",
    ),
    (
        "PRIMARY KEY (k)",
        "k, count(*) FILTER (WHERE v > (SELECT count(*) FROM raw.pages)) AS n FROM STREAM raw.e GROUP BY k",
        "k, count(*) FILTER (WHERE v > (SELECT count(*) + 1 FROM raw.pages)) AS n FROM STREAM raw.e GROUP BY k",
        "it is not known of such a query what can be kept of it",
    ),
    (
        "PRIMARY KEY (k)",
        "x.k, count(*) AS n FROM STREAM raw.e x LEFT SEMI JOIN (SELECT k, title AS t FROM raw.pages) p ON p.k = x.k AND p.t > 'B' GROUP BY x.k",
        "x.k, count(*) AS n FROM STREAM raw.e x LEFT SEMI JOIN (SELECT k, lower(title) AS t FROM raw.pages) p ON p.k = x.k AND p.t > 'B' GROUP BY x.k",
        "it is not known of such a query what can be kept of it",
    ),
    (
        "PRIMARY KEY (k)",
        "k, count(*) AS n FROM STREAM raw.e CROSS JOIN generate_series(1, 2) AS g GROUP BY k",
        "k, count(*) AS n FROM STREAM raw.e CROSS JOIN generate_series(1, 5) AS g GROUP BY k",
        "it is not known of such a query what can be kept of it",
    ),
    (
        "PRIMARY KEY (k)",
        "z.k, count(*) AS n FROM STREAM raw.e z WHERE z.k IN (SELECT q.k FROM raw.pages q) GROUP BY z.k",
        "z.k, count(*) AS n FROM STREAM raw.e z WHERE z.k IN (SELECT q.k FROM raw.others q) GROUP BY z.k",
        "it is not known of such a query what can be kept of it",
    ),
    (
        "PRIMARY KEY (id)",
        "x.id, p.k, p.title FROM STREAM raw.e x JOIN raw.pages p ON p.k = x.k",
        "x.id, p.title, p.k FROM STREAM raw.e x JOIN raw.pages p ON p.k = x.k",
        "a row may come to several by its join",
    ),
    (
        "PRIMARY KEY (k)",
        "k, string_agg(CAST(u AS STRING), ',') AS us, string_agg(v, ',') AS vs FROM STREAM raw.e GROUP BY k",
        "k, string_agg(v, ',') AS vs, count(w) AS ws FROM STREAM raw.e GROUP BY k",
        "column \"v\" of raw.e was Int32 and is Int64",
    ),
];

#[test]
fn what_would_give_other_rows_is_refused() {
    let of = |changed: Option<usize>| {
        let then = changed.map_or("", |index| REFUSED[index].2);
        // Only what a change is about has other columns.
        let (v, w) = if then.contains("(w)") { ("BIGINT", ", w INT") } else { ("INT", "") };
        let more = if then.contains("(p.more)") { ", more INT" } else { "" };
        let schema = format!("id BIGINT, k STRING, v {v}, u INT{w}");
        let of_pages = format!("k STRING, title STRING{more}");
        let mut text = format!(
            "CREATE STREAMING TABLE raw.e AS SELECT * FROM STREAM read_files('in', format => 'json', schema => '{schema}');
             CREATE STREAMING TABLE raw.f AS SELECT * FROM STREAM read_files('in', format => 'json', schema => 'k STRING, v INT');
             CREATE MATERIALIZED VIEW raw.pages AS SELECT * FROM read_files('pages', format => 'json', schema => '{of_pages}');
             CREATE MATERIALIZED VIEW raw.others AS SELECT * FROM read_files('pages', format => 'json', schema => 'k STRING, title STRING');\n"
        );
        for (index, (key, before, then, _)) in REFUSED.iter().enumerate() {
            let query = if changed == Some(index) { then } else { before };
            let _ = writeln!(text, "CREATE SERVING TABLE live.t{index} {key} AS SELECT {query};");
        }
        text
    };
    let project = Project::new(&of(None));
    project.write("in/0.json", "{\"id\":0,\"k\":\"a\",\"v\":5,\"u\":1}\n");
    project.write("pages/a.json", "{\"k\":\"a\",\"title\":\"first\",\"more\":4}\n");
    project.run();
    for (index, (_, _, then, why)) in REFUSED.iter().enumerate() {
        project.write("pipelines/all.sql", of(Some(index)));
        let told = project.call(&["check"]).exits(1);
        let table = format!("\"live.t{index}\"");
        let found = told.err.lines().any(|line| line.contains(&table) && line.contains(why));
        assert!(found, "{then}: {}", told.err);
    }
}

#[test]
fn columns_of_a_stream_may_have_come_before_they_were_declared() {
    let of = |column: &str, aggregate: &str| {
        format!(
            "CREATE STREAM clicks (page VARCHAR{column});
             CREATE SERVING TABLE live.pages PRIMARY KEY (page) AS SELECT page, count(*) AS n{aggregate} FROM STREAM clicks GROUP BY page;"
        )
    };
    let project = Project::new(&of("", ""));
    project.run();
    project.write("records.json", "{\"page\":\"home\",\"amount\":5}\n");
    let records = std::fs::File::open(project.path().join("records.json")).unwrap();
    assert!(project.command(&["stream", "put", "clicks"]).stdin(records).status().unwrap().success());
    project.run();
    project.write("pipelines/all.sql", of(", amount BIGINT", ", sum(amount) AS s"));
    let told = project.call(&["check"]).exits(1);
    assert!(told.err.contains("sum(amount) was not kept"), "{}", told.err);
    // When a rebuild is asked for, it says from where.
    let told = project.call(&["check", "--full-refresh", "--select", "live.pages"]).exits(0);
    assert!(
        told.out.contains("live.pages: a full refresh builds it from stream:clicks from its record of 20"),
        "{}",
        told.out
    );
    let told = project.call(&["check", "--full-refresh", "--json"]).exits(0).json();
    assert!(told["rebuilt"][0]["from"][0].as_str().unwrap().starts_with("stream:clicks from"), "{told}");
    assert!(!told["rebuilt"].as_array().unwrap().is_empty());
    project.call(&["check", "--select", "live.pages"]).exits(2);
    project.call(&["check", "--full-refresh", "--select", "live.page"]).exits(1);
    // Without it, the declaration may say what it wants.
    project.write("pipelines/all.sql", of(", amount BIGINT", ", count(*) * 2 AS twice"));
    project.run();
    assert_eq!(project.query("SELECT * FROM live.pages"), json!([{ "page": "home", "n": 1, "twice": 2 }]));
}

#[test]
fn a_column_that_was_not_declared_for_a_while_was_there() {
    let of = |schema: &str, more: &str| {
        pipeline(
            schema,
            &format!(
                "CREATE SERVING TABLE live.t PRIMARY KEY (k) AS SELECT k, count(*) AS n{more} FROM STREAM raw.e GROUP BY k;"
            ),
        )
    };
    let project = Project::new(&of(NEW, ""));
    project.write("in/0.json", "{\"k\":\"a\",\"w\":9}\n");
    project.write("pages/a.json", "{\"k\":\"a\",\"title\":\"first\"}\n");
    project.run();
    project.write("pipelines/all.sql", of(&NEW.replace(" w BIGINT,", ""), ""));
    project.call(&["run", "--select", "live.t"]).exits(0);
    project.write("pipelines/all.sql", of(NEW, ", sum(w) AS w"));
    let told = project.call(&["check"]).exits(1);
    assert!(told.err.contains("sum(w) was not kept"), "{}", told.err);
}

#[test]
fn a_refresh_forgets_what_the_rows_were_made_of() {
    let of = |least: u32| {
        pipeline(
            OLD,
            &format!(
                "CREATE SERVING TABLE live.t PRIMARY KEY (k) AS SELECT k, count(*) AS n FROM STREAM raw.e WHERE id > {least} GROUP BY k;"
            ),
        )
    };
    let project = Project::new(&of(1));
    let lines = (1..6).map(|id| format!("{{\"k\":\"a\",\"id\":{id}}}")).collect::<Vec<_>>().join("\n");
    project.write("in/0.json", lines);
    project.write("pages/a.json", "{\"k\":\"a\",\"title\":\"first\"}\n");
    project.run();
    for (least, n) in [(3, 2), (1, 4)] {
        project.write("pipelines/all.sql", of(least));
        project.call(&["check"]).exits(1);
        project.call(&["run", "--full-refresh", "--select", "live.t"]).exits(0);
        assert_eq!(project.query("SELECT n FROM live.t"), json!([{ "n": n }]));
    }
}

#[test]
fn what_cannot_be_kept_is_refused_with_the_reason() {
    let of = |query: &str| {
        pipeline(OLD, &format!("CREATE SERVING TABLE live.t PRIMARY KEY (k) AS SELECT {query} GROUP BY k;"))
    };
    let project = Project::new(&of("k, count(*) AS n FROM STREAM raw.e"));
    project.write("in/0.json", "{\"k\":\"a\",\"v\":5}\n");
    project.write("pages/a.json", "{\"k\":\"a\",\"title\":\"first\"}\n");
    project.run();
    for (query, why) in [
        ("k, count(*) AS n, sum(v) AS s FROM STREAM raw.e", "sum(v) was not kept"),
        ("k, count(*) AS n FROM STREAM raw.e WHERE v > 1", "joins or chooses rows otherwise"),
    ] {
        project.write("pipelines/all.sql", of(query));
        let told = project.call(&["check"]).exits(1);
        assert!(told.err.contains("C7002") && told.err.contains(why), "{}", told.err);
        assert!(told.err.contains("all that raw.e holds now"), "{}", told.err);
        project.call(&["run"]).exits(1);
    }
    project.call(&["run", "--full-refresh"]).exits(0);
    assert_eq!(project.query("SELECT * FROM live.t"), json!([{ "k": "a", "n": 1 }]));
}

#[test]
fn a_table_that_is_computed_as_a_whole_takes_any_change() {
    let of =
        |query: &str| pipeline(OLD, &format!("CREATE SERVING TABLE live.t {query} FROM raw.e GROUP BY 1;"));
    let project = Project::new(&of("PRIMARY KEY (k) AS SELECT k, count(*) AS n"));
    project.write("in/0.json", "{\"k\":\"a\",\"v\":5}\n{\"k\":\"b\",\"v\":5}\n");
    project.write("pages/a.json", "{\"k\":\"a\",\"title\":\"first\"}\n");
    project.run();
    for (query, rows) in [
        ("PRIMARY KEY (v) AS SELECT v, count(*) AS n", json!([{ "v": 5, "n": 2 }])),
        (
            "PRIMARY KEY (k) AS SELECT upper(k) AS k, sum(v) AS v",
            json!([{ "k": "A", "v": 5 }, { "k": "B", "v": 5 }]),
        ),
    ] {
        project.write("pipelines/all.sql", of(query));
        let told = project.call(&["check"]).exits(0);
        assert!(told.out.contains("live.t: changed, and is computed anew as a whole"), "{}", told.out);
        project.command(&["run"]).env("CATCHMENT_FAULT", "staged-written:1:abort").output().unwrap();
        project.run();
        assert_eq!(project.query("SELECT * FROM live.t ORDER BY 1"), rows);
    }
}
