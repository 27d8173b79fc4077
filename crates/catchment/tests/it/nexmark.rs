//! Nexmark: the queries q0 to q22 kept up to date in pieces, with kills, against DuckDB over all events at once.

use std::collections::BTreeMap;

use catchment_nexmark::{Event, Generator};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value};

use crate::project::{Project, oracle, python};

/// Events, ten milliseconds from one to the next.
const EVENTS: usize = 20_000;
const APART: i64 = 10_000;

/// 2026-03-01 10:00:00 UTC, in microseconds.
const BEGINS: i64 = 1_772_359_200_000_000;

/// How far events come out of order, in microseconds.
const DISORDER: i64 = 3_000_000;

/// Files that all events come in.
const FILES: usize = 8;

const NAMES: [&str; 3] = ["bid", "auction", "person"];

fn time(micros: i64) -> String {
    chrono::DateTime::from_timestamp_micros(micros).unwrap().format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

/// A kind of event and its line, with its times as text.
fn line(event: &Event) -> (usize, i64, String) {
    let (kind, at, value) = match event {
        Event::Bid(bid) => (0, bid.date_time, serde_json::to_value(bid)),
        Event::Auction(auction) => (1, auction.date_time, serde_json::to_value(auction)),
        Event::Person(person) => (2, person.date_time, serde_json::to_value(person)),
    };
    let mut row: Map<String, Value> = serde_json::from_value(value.unwrap()).unwrap();
    for name in ["date_time", "expires"] {
        if let Some(value) = row.get_mut(name) {
            *value = time(value.as_i64().unwrap()).into();
        }
    }
    (kind, at, Value::from(row).to_string())
}

/// Writes all events in files, somewhat out of order, and behind them one of each kind that closes all windows.
fn events(chance: &mut StdRng) -> Vec<[String; 3]> {
    let all = Generator::new(5, BEGINS, APART).take(EVENTS);
    let mut all: Vec<_> = all
        .map(|event| line(&event))
        .map(|(kind, at, line)| (at + chance.random_range(0..DISORDER), kind, line))
        .collect();
    all.sort();
    let mut files: Vec<[String; 3]> = Vec::new();
    for part in all.chunks(EVENTS / FILES) {
        let mut file = [String::new(), String::new(), String::new()];
        part.iter().for_each(|(_, kind, line)| file[*kind] += &format!("{line}\n"));
        files.push(file);
    }
    let mut last = [String::new(), String::new(), String::new()];
    for event in Generator::new(9, BEGINS + 86_400_000_000, APART).take(5) {
        let (kind, _, line) = line(&event);
        last[kind] += &format!("{line}\n");
    }
    files.push(last);
    files
}

#[test]
fn every_query_is_what_duckdb_makes_of_all_events() {
    let Some(python) = python() else { return };
    let mut chance = StdRng::seed_from_u64(3);
    let project = Project::new(include_str!("../nexmark/sources.sql"));
    project.write("pipelines/queries.sql", include_str!("../nexmark/queries.sql"));
    let mut kills = 0;
    for (number, file) in events(&mut chance).iter().enumerate() {
        for (name, lines) in NAMES.iter().zip(file) {
            project.write(&format!("{name}/{number:02}.json"), lines);
        }
        let fault = ["before-plan", "staged-written", "published"][number % 3];
        let fault = format!("{fault}:{}:abort", chance.random_range(1..60));
        let killed = project.command(&["run", "--json"]).env("CATCHMENT_FAULT", &fault).output().unwrap();
        assert!(
            matches!(killed.status.code(), None | Some(0)),
            "{}",
            String::from_utf8_lossy(&killed.stderr)
        );
        kills += usize::from(killed.status.code().is_none());
        project.run();
    }
    assert!(kills >= 5, "{kills} kills");
    let until = time(BEGINS + EVENTS as i64 * APART + 60_000_000);
    let mut results: BTreeMap<String, Value> = BTreeMap::new();
    for number in 0..=22 {
        let sql = match number {
            5 | 7 | 8 | 11 => format!("SELECT * FROM q{number} WHERE window_end <= TIMESTAMP '{until}'"),
            // The newest window of processing time is open still: its bids wait.
            12 => "SELECT bidder, CAST(sum(bid_count) AS BIGINT) AS bid_count FROM (SELECT bidder, bid_count FROM q12 UNION ALL
                     SELECT bidder, count(*) FROM raw.bid WHERE arrived_at >= (SELECT coalesce(max(window_end), TIMESTAMP '1970-01-01') FROM q12) GROUP BY bidder) GROUP BY bidder"
                .to_owned(),
            _ => format!("SELECT * FROM q{number}"),
        };
        results.insert(format!("q{number}"), project.query(&sql));
    }
    project.write("results.json", serde_json::to_string(&results).unwrap());
    let path = |name: &str| project.path().join(name).to_str().unwrap().to_owned();
    let told = oracle(&python, "nexmark.py", &[&path(""), &until, &path("results.json")]);
    assert_eq!(told.lines().count(), 23, "{told}");
}
