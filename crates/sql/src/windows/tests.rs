//! Windows in batch queries, and what is found of them in plans.

use catchment_core::Code;
use datafusion::arrow::util::display::array_value_to_string;
use proptest::prelude::*;

use super::{WindowShape, windowed_scans};
use crate::tests::{plan, planner, rows};
use crate::{SqlText, parse_single_query};

/// The rows of a query as text, columns parted by `|`, in order.
async fn lines(sql: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in rows(&planner(1), sql).await {
        for row in 0..batch.num_rows() {
            let cells: Vec<String> =
                batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap()).collect();
            lines.push(cells.join("|").replace("2024-01-01T", ""));
        }
    }
    lines.sort();
    lines
}

const EVENTS: &str = "(VALUES
    (TIMESTAMP '2024-01-01 10:00:10', 'a'), (TIMESTAMP '2024-01-01 10:00:50', 'b'), (TIMESTAMP '2024-01-01 10:01:00', 'a'),
    (TIMESTAMP '2024-01-01 10:03:59', 'a'), (CAST(NULL AS TIMESTAMP), 'a')) AS events(ts, kind)";

#[tokio::test]
async fn tumbling_windows_are_half_open_and_side_by_side() {
    let sql = format!(
        "SELECT TUMBLE_START(ts, INTERVAL '1' MINUTE), TUMBLE_END(ts, INTERVAL '1' MINUTE) AS closes, count(*) AS n
         FROM {EVENTS} GROUP BY TUMBLE(ts, INTERVAL '1' MINUTE) HAVING count(*) > 0 ORDER BY TUMBLE_START(ts, INTERVAL '1' MINUTE)"
    );
    assert_eq!(lines(&sql).await, ["10:00:00|10:01:00|2", "10:01:00|10:02:00|1", "10:03:00|10:04:00|1"]);
}

#[tokio::test]
async fn hopping_windows_hold_a_row_more_than_once() {
    let sql = format!(
        "SELECT HOP_START(ts, INTERVAL '1' MINUTE, INTERVAL '2' MINUTE) AS s, kind, count(*) AS n
         FROM {EVENTS} WHERE kind = 'a' GROUP BY kind, HOP(ts, INTERVAL '1' MINUTE, INTERVAL '2' MINUTE)"
    );
    assert_eq!(
        lines(&sql).await,
        ["09:59:00|a|1", "10:00:00|a|2", "10:01:00|a|1", "10:02:00|a|1", "10:03:00|a|1"]
    );
}

#[tokio::test]
async fn cumulating_windows_begin_together() {
    let sql = format!(
        "SELECT CUMULATE_START(ts, '1 minute', '3 minutes') AS s, CUMULATE_END(ts, '1 minute', '3 minutes') AS e, count(*) AS n
         FROM {EVENTS} GROUP BY CUMULATE(ts, '1 minute', '3 minutes')"
    );
    assert_eq!(
        lines(&sql).await,
        [
            "10:00:00|10:01:00|2",
            "10:00:00|10:02:00|3",
            "10:00:00|10:03:00|3",
            "10:03:00|10:04:00|1",
            "10:03:00|10:05:00|1",
            "10:03:00|10:06:00|1"
        ]
    );
}

#[tokio::test]
async fn a_relation_needs_no_name() {
    for window in [
        "TUMBLE(ts, '1 day')",
        "HOP(ts, '1 day', '1 day')",
        "CUMULATE(ts, '1 day', '1 day')",
        "SESSION(ts, '1 day')",
        "STAGGER(ts, '1 day')",
    ] {
        let sql = format!("SELECT count(*) AS n FROM (SELECT ts FROM {EVENTS}) GROUP BY {window}");
        assert_eq!(lines(&sql).await, ["4"], "{window}");
    }
}

#[tokio::test]
async fn sessions_end_when_a_key_is_silent_for_the_gap() {
    let sql = format!(
        "SELECT kind, SESSION_START(ts, INTERVAL '50' SECONDS) AS s, SESSION_END(ts, INTERVAL '50' SECONDS) AS e, count(*) AS n
         FROM {EVENTS} GROUP BY kind, SESSION(ts, INTERVAL '50' SECONDS)"
    );
    // 10:00:10 + 50 s is 10:01:00: at the very end of a session a new one begins.
    assert_eq!(
        lines(&sql).await,
        ["a|10:00:10|10:01:00|1", "a|10:01:00|10:01:50|1", "a|10:03:59|10:04:49|1", "b|10:00:50|10:01:40|1"]
    );
    let all = format!(
        "SELECT session_window.start, session_window.end AS e, count(*) AS n FROM {EVENTS} GROUP BY session_window(ts, '50 seconds')"
    );
    assert_eq!(lines(&all).await, ["10:00:10|10:01:50|3", "10:03:59|10:04:49|1"]);
}

#[tokio::test]
async fn staggered_windows_begin_with_an_event() {
    let sql = format!(
        "SELECT kind, STAGGER_START(ts, INTERVAL '50' SECONDS) AS s, STAGGER_END(ts, INTERVAL '50' SECONDS) AS e, count(*) AS n
         FROM {EVENTS} GROUP BY kind, STAGGER(ts, INTERVAL '50' SECONDS)"
    );
    assert_eq!(
        lines(&sql).await,
        ["a|10:00:10|10:01:00|1", "a|10:01:00|10:01:50|1", "a|10:03:59|10:04:49|1", "b|10:00:50|10:01:40|1"]
    );
    let all = format!(
        "SELECT STAGGER_START(ts, '3 minutes') AS s, count(*) AS n FROM {EVENTS} GROUP BY STAGGER(ts, '3 minutes')"
    );
    assert_eq!(lines(&all).await, ["10:00:10|3", "10:03:59|1"]);
}

#[tokio::test]
async fn the_table_functions_of_sessions_name_their_keys() {
    let of = |function: &str| {
        format!(
            "WITH e AS (SELECT * FROM {EVENTS}) SELECT window_start, window_end, x.kind, x.ts FROM TABLE({function}) AS x"
        )
    };
    let sessions =
        lines(&of("SESSION(TABLE e PARTITION BY kind, DESCRIPTOR(ts), INTERVAL '51' SECONDS)")).await;
    assert_eq!(sessions[0], "10:00:10|10:01:51|a|10:00:10");
    assert_eq!(sessions[1], "10:00:10|10:01:51|a|10:01:00");
    assert_eq!(sessions.len(), 4);
    let none = lines(&of("SESSION(TABLE e, DESCRIPTOR(ts), INTERVAL '41' SECONDS)")).await;
    assert_eq!(none[2], "10:00:10|10:01:41|b|10:00:50");
    let staggered =
        lines(&of("STAGGER(TABLE e PARTITION BY upper(kind), e.kind, DESCRIPTOR(ts), '1 minute')")).await;
    assert_eq!(staggered[1], "10:00:10|10:01:10|a|10:01:00");
    let columns = of("SESSION(TABLE e PARTITION BY kind, DESCRIPTOR(ts), '1 minute')")
        .replace("window_start, window_end, x.kind, x.ts", "*");
    let found = rows(&planner(1), &columns).await;
    let names: Vec<String> = found[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["ts", "kind", "window_start", "window_end", "window_time"]);
}

proptest! {
    /// Against one event after the other.
    #[test]
    fn staggered_windows_are_those_of_one_event_after_the_other(
        events in proptest::collection::vec((0..300_i64, 0..3_i64), 1..60), size in 1..40_i64
    ) {
        let values: Vec<String> =
            events.iter().map(|(at, key)| format!("(to_timestamp({at}), {key})")).collect();
        let sql = format!(
            "SELECT k, CAST(to_unixtime(STAGGER_START(ts, '{size} seconds')) AS BIGINT) AS s, count(*) AS n
             FROM (VALUES {}) AS e(ts, k) GROUP BY k, STAGGER(ts, '{size} seconds')",
            values.join(", ")
        );
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let found = runtime.block_on(lines(&sql));
        let mut sorted = events;
        sorted.sort_unstable();
        let mut open = std::collections::BTreeMap::<i64, (i64, i64)>::new();
        let mut wanted = Vec::new();
        for (at, key) in sorted {
            match open.get_mut(&key) {
                Some((start, count)) if at < *start + size => *count += 1,
                _ => wanted.extend(open.insert(key, (at, 1)).map(|(start, count)| (key, start, count))),
            }
        }
        wanted.extend(open.into_iter().map(|(key, (start, count))| (key, start, count)));
        let mut wanted: Vec<String> =
            wanted.into_iter().map(|(key, start, count)| format!("{key}|{start}|{count}")).collect();
        wanted.sort();
        prop_assert_eq!(found, wanted);
    }
}

#[tokio::test]
async fn the_window_of_spark_is_a_column_with_a_start_and_an_end() {
    let sql = format!(
        "SELECT window.start, window.end AS e, window['start'] AS again, count(*) AS n FROM {EVENTS} GROUP BY window(ts, '1 minute')"
    );
    assert_eq!(lines(&sql).await[0], "10:00:00|10:01:00|10:00:00|2");
    let hop = format!(
        "SELECT window.start AS s, count(*) AS n FROM {EVENTS} GROUP BY window(ts, '2 minutes', '1 minute')"
    );
    assert_eq!(lines(&hop).await.len(), 5);
}

#[tokio::test]
async fn the_windows_of_flink_are_relations() {
    let sql = format!(
        "WITH e AS (SELECT * FROM {EVENTS}) SELECT window_start, window_end, window_time, count(*) AS n
         FROM TABLE(TUMBLE(TABLE e, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, window_time"
    );
    assert_eq!(lines(&sql).await[0], "10:00:00|10:01:00|10:00:59.999|2");
    let all = format!(
        "WITH e AS (SELECT * FROM {EVENTS}) SELECT * FROM TABLE(HOP(TABLE e, DESCRIPTOR(ts), '1 minute', '2 minutes')) x"
    );
    assert_eq!(lines(&all).await.len(), 8);
    let beside = format!(
        "WITH e AS (SELECT * FROM {EVENTS}) SELECT n, window_start FROM (VALUES (1), (2)) v(n), TABLE(TUMBLE(TABLE e, DESCRIPTOR(ts), '1 minute'))"
    );
    assert_eq!(lines(&beside).await.len(), 8);
}

#[tokio::test]
async fn windows_that_cannot_be_are_refused() {
    for (sql, code) in [
        ("SELECT TUMBLE_START(ts, '1 minute') AS s FROM t", Code::SQL_SYNTAX),
        ("SELECT TUMBLE_END(ts, '2 minutes') AS s FROM t GROUP BY TUMBLE(ts, '1 minute')", Code::SQL_SYNTAX),
        ("SELECT count(*) FROM t GROUP BY TUMBLE(ts, INTERVAL '1' MONTH)", Code::SQL_SYNTAX),
        ("SELECT count(*) FROM t GROUP BY TUMBLE(ts, INTERVAL '0' DAY)", Code::SQL_SYNTAX),
        ("SELECT count(*) FROM t GROUP BY HOP(ts, '1 second', '1 hour')", Code::NOT_SUPPORTED),
        ("SELECT count(*) FROM t GROUP BY STAGGER(ts, '1 minute', '1 second')", Code::SQL_SYNTAX),
        ("SELECT count(*) FROM t JOIN u ON true GROUP BY STAGGER(t.ts, '1 minute')", Code::NOT_SUPPORTED),
        ("SELECT count(*) FROM t GROUP BY ROLLUP (a, b), STAGGER(ts, '1 minute')", Code::NOT_SUPPORTED),
        ("SELECT count(*) FROM t JOIN u ON true GROUP BY SESSION(t.ts, '1 minute')", Code::NOT_SUPPORTED),
        ("SELECT * FROM TABLE(SESSION(TABLE t PARTITION BY a, '1 minute'))", Code::SQL_SYNTAX),
        ("SELECT upper(a) AS a, count(*) FROM t GROUP BY a, SESSION(ts, '1 minute')", Code::SQL_SYNTAX),
        ("SELECT a AS \"__window_end\" FROM t", Code::NAME_INVALID),
        ("SELECT count(*) FROM t LATE ROWS INTO l GROUP BY TUMBLE(ts, '1 minute')", Code::SQL_SYNTAX),
        (
            "SELECT count(*) FROM t GROUP BY TUMBLE(ts, '1 minute'), HOP(ts, '1 minute', '2 minutes')",
            Code::NOT_SUPPORTED,
        ),
        ("SELECT count(*) FROM t JOIN u ON true GROUP BY TUMBLE(ts, '1 minute')", Code::SQL_SYNTAX),
        ("SELECT count(*) FROM STREAM t WATERMARK ts DELAY OF INTERVAL '-1' MINUTE", Code::SQL_SYNTAX),
    ] {
        let text = SqlText::new("q.sql", sql);
        let error = parse_single_query(&text).unwrap_err();
        assert_eq!(error.code(), code, "{sql}: {error:?}");
        assert!(error.place().is_some(), "{sql}: {error:?}");
    }
    // Types are known only once it is planned.
    let error =
        plan(&planner(1), "SELECT count(*) FROM t GROUP BY TUMBLE(name, '1 minute')").await.unwrap_err();
    assert!(format!("{error:?}").contains("cast it to TIMESTAMP"), "{error:?}");
}

#[tokio::test]
async fn a_plan_tells_whose_rows_are_in_which_windows() {
    let sql = "SELECT kind, TUMBLE_START(at, '1 minute') AS s, count(*) AS n
        FROM (SELECT upper(c.name) AS kind, to_timestamp(c.amount) AS at FROM STREAM clicks c WATERMARK to_timestamp(amount) DELAY OF INTERVAL 5 SECONDS IDLE AFTER '1 minute'
              JOIN t ON t.id = c.id WHERE c.id > 3) x GROUP BY kind, TUMBLE(at, '1 minute')";
    let text = SqlText::new("q.sql", sql);
    let query = parse_single_query(&text).unwrap().bind(&text, &|_| None).unwrap();
    let watermark = query.relations[0].watermark.clone().unwrap();
    assert_eq!((watermark.delay, watermark.idle), (5_000_000, Some(60_000_000)));
    assert!(query.relations[0].streaming && query.relations[1].watermark.is_none());
    let found = windowed_scans(&plan(&planner(1), sql).await.unwrap());
    let (key, scans) = found.iter().next().unwrap();
    assert_eq!((key.as_str(), scans.len(), found.len()), ("$0", 1, 1));
    assert_eq!(scans[0].time.to_string(), "to_timestamp(amount)");
    assert_eq!(scans[0].shape, WindowShape::Tumble { size: 60_000_000, offset: 0 });
}

fn shapes() -> impl Strategy<Value = WindowShape> {
    (1_i64..40, 1_i64..200, -50_i64..50, 0..3).prop_map(|(step, size, offset, kind)| match kind {
        0 => WindowShape::Tumble { size, offset },
        1 => WindowShape::Hop { slide: step, size, offset },
        _ => WindowShape::Cumulate { step, size: step * (size % 20 + 1), offset },
    })
}

proptest! {
    /// Against all windows that there are, looked through one by one.
    #[test]
    fn a_row_belongs_to_the_windows_that_its_time_lies_in(shape in shapes(), time in -1_000_i64..1_000) {
        let mut all = Vec::new();
        for k in -2_500_i64..2_500 {
            match shape {
                WindowShape::Tumble { size, offset } => all.push((k * size + offset, (k + 1) * size + offset)),
                WindowShape::Hop { slide, size, offset } => all.push((k * slide + offset, k * slide + offset + size)),
                WindowShape::Session { .. } | WindowShape::Stagger { .. } | WindowShape::Meeting { .. } => {}
                WindowShape::Cumulate { step, size, offset } => {
                    let begin = k * size + offset;
                    all.extend((1..=size / step).map(|n| (begin, begin + n * step)));
                }
            }
        }
        let mut wanted: Vec<_> = all.into_iter().filter(|(start, end)| *start <= time && time < *end).collect();
        wanted.sort_unstable();
        let found: Vec<_> = shape.windows(time).collect();
        prop_assert_eq!(&found, &wanted);
        if let (Some(first), Some(last)) = (found.first(), found.last()) {
            prop_assert_eq!(shape.ends(time), (first.1, last.1));
        }
    }
}
