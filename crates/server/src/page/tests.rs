//! Scales, charts and the page, by their text.

use axum::http::{HeaderMap, HeaderValue};

use super::data::{AlertRow, Cell, Chart, DatasetRow, Page, Panel, PanelContent};
use super::scale::{number_text, number_ticks, short_time, time_ticks};
use super::{chart, html, is_of_this_machine};

const MINUTE: i64 = 60_000_000;

#[test]
fn numbers_and_times_are_written_as_people_read_them() {
    let texts: Vec<String> =
        [0.0, 1234567.0, -1234.5, 0.12345, 3.1, f64::NAN, -0.25].into_iter().map(number_text).collect();
    assert_eq!(texts, ["0", "1,234,567", "-1,234.5", "0.1235", "3.1", "NaN", "-0.25"]);
    let noon = 1_764_417_600_000_000;
    assert_eq!(short_time(noon, MINUTE), "12:00:00");
    assert_eq!(short_time(noon, 60 * MINUTE), "12:00");
    assert_eq!(short_time(noon, 24 * 60 * 30 * MINUTE), "11-29");
    assert_eq!(short_time(noon, 24 * 60 * 3_000 * MINUTE), "2025-11-29");
}

#[test]
fn ticks_are_round_and_enclose_what_is_shown() {
    assert_eq!(number_ticks(0.0, 87.0, 4), [0.0, 25.0, 50.0, 75.0, 100.0]);
    assert_eq!(number_ticks(0.0, 0.0, 4).first(), Some(&0.0));
    for (low, high) in [(0.0, 1e-9), (-5.0, 3.0), (0.0, 1e15), (7.0, 7.0), (0.0, 1000.0), (-3.0, -3.0)] {
        let ticks = number_ticks(low, high, 4);
        assert!(ticks[0] <= low && ticks[ticks.len() - 1] >= high, "{low} {high}: {ticks:?}");
        assert!((2..=8).contains(&ticks.len()), "{low} {high}: {ticks:?}");
    }
    assert_eq!(
        time_ticks(MINUTE + 1, 4 * MINUTE, 6),
        [
            2 * MINUTE - 30_000_000,
            2 * MINUTE,
            2 * MINUTE + 30_000_000,
            3 * MINUTE,
            3 * MINUTE + 30_000_000,
            4 * MINUTE
        ]
    );
    assert_eq!(time_ticks(5, 5, 6), [5]);
    assert!(time_ticks(i64::MIN, i64::MAX, 6).len() <= 7);
    assert!(time_ticks(i64::MIN, i64::MIN + 5, 6).len() <= 7);
}

#[test]
fn charts_draw_every_row_and_nothing_of_it_is_markup() {
    let content = |chart, rows: Vec<Vec<Cell>>| PanelContent {
        chart,
        columns: ["at", "page", "n"].map(str::to_owned).to_vec(),
        rows,
        is_cut: false,
    };
    let row = |minute: i64, page: &str, n: f64| {
        vec![Cell::Time(minute * MINUTE), Cell::Text(page.to_owned()), Cell::Number(n, n.to_string())]
    };
    let rows = vec![row(2, "<b>home</b>", 30.0), row(1, "<b>home</b>", 10.0), row(1, "shoes", 5.0)];
    let drawn = chart::draw(&content(Chart::Line { series: Some(1) }, rows.clone()), false).into_string();
    assert!(!drawn.contains("<b>home"), "{drawn}");
    assert_eq!(drawn.matches("<path").count(), 2);
    assert_eq!(drawn.matches("<circle").count(), 3);
    // The line with the larger sum is first, and goes from left to right.
    assert!(
        drawn.contains("<path class=\"line s0\" d=\"M56.0 134.0L408.0 10.0\"><title>&lt;b&gt;home"),
        "{drawn}"
    );
    let drawn = chart::draw(&content(Chart::Table, rows.clone()), false).into_string();
    assert!(drawn.contains("<td>1970-01-01 00:02:00</td><td>&lt;b&gt;home"), "{drawn}");
    let nothing = chart::draw(&content(Chart::Line { series: None }, Vec::new()), false).into_string();
    assert_eq!(nothing, "<p class=\"none\">no rows yet</p>");
    // A row that is nowhere is not drawn, and what is told has all of its digits.
    let nowhere = vec![Cell::Null, Cell::Text("shoes".to_owned()), Cell::Number(7.0, "7".to_owned())];
    let rows: Vec<_> = rows.into_iter().chain([nowhere]).collect();
    let drawn = chart::draw(&content(Chart::Line { series: Some(1) }, rows), false).into_string();
    assert_eq!(drawn.matches("<circle").count(), 3);
    assert!(!drawn.contains("1970-01-01 00:00:00"), "{drawn}");
    let large = vec![vec![Cell::Number(9e15, "9007199254740993.10".to_owned())]];
    let drawn = chart::draw(&content(Chart::Number, large), false).into_string();
    assert_eq!(drawn, "<p class=\"number\">9,007,199,254,740,993.10</p>");
    // Negative bars go to the left.
    let bar = |value: f64| vec![Cell::Text("a".to_owned()), Cell::Number(value, value.to_string())];
    let drawn = chart::draw(&content(Chart::Bars, vec![bar(30.0), bar(-10.0)]), false).into_string();
    assert!(
        drawn.contains("x=\"25.00%\" width=\"75.00%\"") && drawn.contains("x=\"0.00%\" width=\"25.00%\""),
        "{drawn}"
    );
    // Values that no chart can show are left out.
    for odd in [
        Cell::Null,
        Cell::Number(f64::NAN, "NaN".to_owned()),
        Cell::Number(f64::MAX, "much".to_owned()),
        Cell::Text("x".to_owned()),
    ] {
        for chart in [Chart::Line { series: None }, Chart::Bars, Chart::Number] {
            let drawn =
                chart::draw(&content(chart, vec![vec![odd.clone(), odd.clone()]]), false).into_string();
            assert!(!drawn.contains("=\"NaN") && !drawn.contains("=\"inf"), "{drawn}");
        }
    }
}

#[test]
fn a_page_says_what_is_there_and_what_went_wrong() {
    let panel =
        Panel { title: "A & B".to_owned(), is_wide: false, content: Err("C2003: no table".to_owned()) };
    let mut page = Page {
        project: "shop".to_owned(),
        dashboards: vec![("a".to_owned(), "Clicks".to_owned()), ("b".to_owned(), "Sales".to_owned())],
        dashboard: Some("b".to_owned()),
        panels: vec![panel],
        alerts: Ok(vec![AlertRow {
            alert: "main.spike".to_owned(),
            severity: "critical".to_owned(),
            row: "n = 5".to_owned(),
            raised_at: 0,
        }]),
        datasets: vec![DatasetRow {
            name: "main.t".to_owned(),
            kind: "serving table".to_owned(),
            rows: None,
            waiting: Some(1234),
            failures: 0,
        }],
    };
    let text = html::page(&page).into_string();
    for part in [
        "<title>shop</title>",
        "data-live=\"/live/b\"",
        "<a href=\"/\">Clicks</a><a href=\"/dashboards/b\" aria-current=\"page\">Sales</a>",
        "A &amp; B",
        "<p class=\"error\">C2003: no table</p>",
        "main.spike",
        "1,234",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let alert = page.alerts.as_ref().unwrap()[0].clone();
    page.alerts = Ok(vec![alert; 51]);
    let text = html::page(&page).into_string();
    assert_eq!(text.matches("main.spike").count(), 50);
    assert!(text.contains("the newest 50; all are in system.alerts"), "{text}");
}

#[test]
fn a_name_of_somebody_else_is_not_this_machine() {
    for (host, ours) in [
        ("127.0.0.1:4566", true),
        ("localhost", true),
        ("[::1]:4566", true),
        ("127.0.0.1.evil.example", false),
        ("evil.example:4566", false),
        ("10.0.0.1", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static(host));
        assert_eq!(is_of_this_machine(&headers), ours, "{host}");
    }
    for (origin, ours) in [
        ("http://localhost:3000", true),
        ("http://127.0.0.1:4566", true),
        ("http://evil.example", false),
        ("https://127.0.0.1.evil.example", false),
        ("null", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("127.0.0.1:4566"));
        headers.insert("origin", HeaderValue::from_static(origin));
        assert_eq!(is_of_this_machine(&headers), ours, "{origin}");
    }
}
