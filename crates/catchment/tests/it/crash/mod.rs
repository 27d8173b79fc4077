//! Kills at every step of the protocol, at random, and on a disk that forgets: all rows once, always.

pub(crate) mod disk;

use catchment_core::FaultPoint;
use serde_json::json;

use crate::crash::disk::Disk;
use crate::project::Project;

/// Streams, duplicates, quarantine of records and of rows, windows, a view, and upkeep after every few versions.
const PIPELINE: &str = "
CREATE STREAMING TABLE raw.events AS
  SELECT id, amount, _metadata.file_name AS file
  FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT, amount BIGINT', maxFilesPerTrigger => 2);
CREATE STREAMING TABLE curated.events (
  CONSTRAINT once EXPECT UNIQUE (id) ON VIOLATION DROP ROW,
  CONSTRAINT odd_amount EXPECT (amount % 5 <> 0) ON VIOLATION QUARANTINE
) PARTITIONED BY (odd) AS
  SELECT id, amount, id % 2 = 1 AS odd FROM STREAM raw.events;
CREATE STREAMING TABLE curated.windows AS
  SELECT TUMBLE_START(at, INTERVAL '6' SECONDS) AS begins, count(*) AS events, sum(id) AS ids
  FROM (SELECT id, to_timestamp(id) AS at FROM STREAM raw.events WATERMARK to_timestamp(id) DELAY OF INTERVAL '3' SECONDS)
  WHERE id <> 1 GROUP BY TUMBLE(at, INTERVAL '6' SECONDS);
CREATE MATERIALIZED VIEW enriched.totals AS
  SELECT odd, count(*) AS events, sum(amount) AS amount FROM curated.events GROUP BY odd;
";

/// A record that stands in every file; the first file has it twice.
const AGAIN: &str = "{\"id\":1,\"amount\":7}\n";

const CONFIG: &str = "
[engine]
threads = 1
retries = 0
[maintenance]
checkpoint_after = 3
minimum_files = 2
kept_plans = 5
";

/// A project that is killed over and over.
struct Victim {
    project: Project,
    disk: Option<Disk>,
    /// Files written so far; each holds three good records, one of file 0 again, and a malformed one.
    files: u64,
}

impl Victim {
    fn new(forgets: bool) -> Self {
        let project = Project::new(PIPELINE);
        project.write("catchment.toml", CONFIG);
        let disk = forgets.then(|| Disk::new(project.path()));
        Self { project, disk, files: 0 }
    }

    fn add_work(&mut self) {
        for _ in 0..3 {
            let first = self.files * 3;
            let records: String =
                (first..first + 3).map(|id| format!("{{\"id\":{id},\"amount\":{}}}\n", id * 7)).collect();
            self.project
                .write(&format!("in/{:05}.jsonl", self.files), format!("{records}{AGAIN}not a record\n"));
            self.files += 1;
        }
    }

    /// Runs with a fault and new work at hand until the fault has happened.
    fn kill_at(&mut self, fault: &str) {
        for _ in 0..8 {
            self.add_work();
            let mut command = match is_of_rollback(fault) {
                true => self.rollback(),
                false => self.project.command(&["run", "--json"]),
            };
            command.env("CATCHMENT_FAULT", fault);
            if let Some(disk) = &self.disk {
                disk.settle();
                disk.below(&mut command);
            }
            let output = command.output().unwrap();
            // A killed process has no exit code.
            if output.status.code().is_none() {
                if let Some(disk) = &self.disk {
                    disk.lose_power();
                }
                self.recover(fault);
                return;
            }
            assert_eq!(output.status.code(), Some(2), "{fault}: {}", String::from_utf8_lossy(&output.stderr));
        }
        panic!("{fault} never happened");
    }

    /// Takes the first table back to what it was, after the work at hand was done.
    fn rollback(&self) -> std::process::Command {
        let version = |project: &Project| {
            project.call(&["history", "raw.events", "--limit", "1", "--json"]).json()[0]["version"]
                .to_string()
        };
        let before = version(&self.project);
        assert_eq!(self.project.call(&["run", "--json"]).code, Some(2));
        self.project.command(&["rollback", "raw.events", "--to", &before, "--cascade", "--json"])
    }

    /// Runs on as if nothing had been; every record must then be there once.
    fn recover(&self, fault: &str) {
        let recovered = self.project.call(&["run", "--json"]);
        assert!(matches!(recovered.code, Some(0 | 2)), "after {fault}: {}\n{}", recovered.out, recovered.err);
        self.check(fault);
    }

    /// Every record of all files is there once, in every table and in the books.
    fn check(&self, fault: &str) {
        let ids = self.files * 3;
        let raw = ids + self.files;
        let kept: Vec<u64> = (0..ids).filter(|id| id % 5 != 0).collect();
        let (rows, sum) = (kept.len() as u64, kept.iter().sum::<u64>() * 7);
        // The newest event is of second `ids - 1`, and windows wait three seconds for it; number 1 is in none.
        let closed = ids.saturating_sub(4) / 6 * 6;
        let all = "SELECT
            (SELECT count(*) FROM curated.windows) AS windows,
            (SELECT CAST(coalesce(sum(events), 0) AS BIGINT) FROM curated.windows) AS in_windows,
            (SELECT CAST(coalesce(sum(ids), 0) AS BIGINT) FROM curated.windows) AS ids_in_windows,
            (SELECT count(*) FROM raw.events) AS raw, (SELECT count(DISTINCT id) FROM raw.events) AS ids,
            (SELECT count(*) FROM curated.events) AS curated, (SELECT sum(amount) FROM curated.events) AS amount,
            (SELECT CAST(sum(events) AS BIGINT) FROM enriched.totals) AS events,
            (SELECT count(*) FROM curated.events__quarantine) AS apart,
            (SELECT count(DISTINCT record) FROM curated.events__quarantine) AS apart_once,
            (SELECT CAST(sum(failed) AS BIGINT) FROM system.expectations WHERE expectation = 'once' AND NOT undone) AS again,
            (SELECT count(*) FROM raw.events__quarantine) AS bad,
            (SELECT count(DISTINCT file_path) FROM raw.events__quarantine) AS bad_files,
            (SELECT count(*) FROM system.files) AS files,
            (SELECT CAST(sum(rows_out) AS BIGINT) FROM system.flows WHERE flow = 'curated.events' AND NOT undone) AS books";
        let expected = json!([{
            "windows": closed / 6, "in_windows": closed.saturating_sub(1),
            "ids_in_windows": (2..closed).sum::<u64>(),
            "raw": raw, "ids": ids, "curated": rows, "amount": sum, "events": rows,
            "apart": ids - rows, "apart_once": ids - rows, "again": self.files,
            "bad": self.files, "bad_files": self.files, "files": self.files, "books": rows,
        }]);
        assert_eq!(self.project.query(all), expected, "after {fault}");
    }
}

/// Whether a fault can only happen in a rollback.
fn is_of_rollback(fault: &str) -> bool {
    [FaultPoint::RollbackWritten, FaultPoint::TableRestored]
        .iter()
        .any(|point| fault.starts_with(point.name()))
}

/// A kill at every point and a number of seeded ones at any point; at least fifty in all.
fn survive_all(forgets: bool, seeds: std::ops::Range<u64>) {
    let mut victim = Victim::new(forgets);
    // A table is created only once.
    victim.kill_at("table-created:1:abort");
    let of_a_run =
        |point: &&FaultPoint| **point != FaultPoint::TableCreated && !point.name().starts_with("log-");
    for point in FaultPoint::ALL.iter().filter(of_a_run) {
        victim.kill_at(&format!("{point}:1:abort"));
    }
    for seed in seeds {
        // SplitMix64 again: any seed gives a step somewhere in a run.
        let mixed = (seed ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        victim.kill_at(&format!("any:{}:abort", 1 + mixed % 60));
    }
}

#[test]
fn no_kill_at_any_step_loses_or_repeats_a_row() {
    survive_all(false, 0..34);
}

#[test]
fn no_power_cut_at_any_step_loses_or_repeats_a_row() {
    survive_all(true, 100..134);
}

#[test]
fn what_a_run_has_reported_survives_a_power_cut() {
    let mut victim = Victim::new(true);
    victim.add_work();
    let mut command = victim.project.command(&["run", "--json"]);
    if let Some(disk) = &victim.disk {
        disk.settle();
        disk.below(&mut command);
        assert_eq!(command.output().unwrap().status.code(), Some(2));
        disk.lose_power();
    }
    // Nothing runs in between that could compute it again.
    victim.check("a power cut after the end");
}

/// As many kills as `cargo xtask crash` asks for, every other one a power cut.
#[test]
#[ignore = "thousands of kills take hours: cargo xtask crash runs them"]
#[expect(clippy::disallowed_methods, reason = "the task tells how many kills it wants")]
fn many() {
    let kills: u64 = std::env::var("CATCHMENT_KILLS").unwrap().parse().unwrap();
    for round in 0..kills.div_ceil(100) {
        let seeds = round * 50 + 1_000..round * 50 + 1_036;
        std::thread::scope(|both| {
            both.spawn(|| survive_all(false, seeds.clone()));
            both.spawn(|| survive_all(true, seeds.clone()));
        });
        println!("{} kills survived", (round + 1) * 100);
    }
}

#[test]
fn a_step_that_fails_is_tried_again() {
    let of_a_run = |point: &&FaultPoint| !is_of_rollback(point.name()) && !point.name().starts_with("log-");
    for point in FaultPoint::ALL.iter().filter(of_a_run) {
        let project = Project::new(PIPELINE);
        project.write("catchment.toml", CONFIG.replace("retries = 0", "retries = 2"));
        let mut victim = Victim { project, disk: None, files: 0 };
        victim.add_work();
        let mut command = victim.project.command(&["run", "--json"]);
        // The first file renamed is the lease's, which comes before any dataset.
        let nth = if *point == FaultPoint::FileRenamed { 5 } else { 1 };
        command.env("CATCHMENT_FAULT", format!("{point}:{nth}:fail"));
        let code = command.output().unwrap().status.code();
        // Taking the lease comes before any dataset; all else is a step of one and is repeated.
        let expected = if *point == FaultPoint::LeaseTaken { 1 } else { 2 };
        assert_eq!(code, Some(expected), "{point}");
        victim.recover(point.name());
    }
}
