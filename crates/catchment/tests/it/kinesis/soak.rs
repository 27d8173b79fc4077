//! Steady load on a service that is killed and resharded meanwhile: what was acknowledged is in the table, once, in order.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Serving;
use crate::project::{PROGRAM, Project};

/// Records of one request, all or none of which are acknowledged.
const RECORDS: u64 = 50;

/// Requests of one writer in a second.
const RATE: u32 = 20;

/// Numbers of one writer begin at its own multiple of this.
const SPAN: u64 = 1_000_000_000_000;

const PIPELINE: &str = "
CREATE STREAMING TABLE raw.clicks (CONSTRAINT known EXPECT (k < 97) ON VIOLATION DROP ROW) AS
  SELECT n, k, _metadata.shard_id AS shard, _metadata.sequence_number AS sequence_number, _metadata.arrived_at AS arrived_at
  FROM STREAM read_stream('clicks', schema => 'n BIGINT, k BIGINT');
CREATE STREAMING TABLE curated.clicks AS SELECT n, k * 10 AS k FROM STREAM raw.clicks;
CREATE STREAMING TABLE curated.windows AS
  SELECT k % 5 AS part, TUMBLE_START(_metadata.arrived_at, INTERVAL '2' SECOND) AS begins, count(*) AS n, count(DISTINCT k) AS keys, max(n) AS newest
  FROM STREAM read_stream('clicks', schema => 'n BIGINT, k BIGINT') WATERMARK _metadata.arrived_at DELAY OF INTERVAL '1' SECOND IDLE AFTER INTERVAL '5' SECOND
  GROUP BY k % 5, TUMBLE(_metadata.arrived_at, INTERVAL '2' SECOND);
CREATE SERVING TABLE live.keys PRIMARY KEY (k) AS
  SELECT k, count(*) AS n, max(n) AS newest FROM STREAM read_stream('clicks', schema => 'n BIGINT, k BIGINT') GROUP BY k;
CREATE ALERT many ON (SELECT k, n FROM live.keys WHERE n > 100) NOTIFY feed KEY (k);";

const CONFIG: &str = "[engine]\nthreads = 2\n[server]\nlisten = \"127.0.0.1:0\"\nopen_on_loopback = true\n[streams]\nbuffer_milliseconds = 500\n[notify.feed]\nstream = \"alerts\"\n";

/// What is done to a service.
struct Load {
    lasts: Duration,
    kills: u32,
    reshards: u32,
}

/// A program that writes at a steady rate, whatever becomes of the service.
struct Writer {
    thread: JoinHandle<BTreeSet<u64>>,
    ends: mpsc::Sender<()>,
}

impl Writer {
    fn start(number: u64, port: Arc<AtomicU16>) -> Self {
        let (ends, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut acknowledged = BTreeSet::new();
            for request in 0.. {
                let first = number * SPAN + request * RECORDS;
                let lines: String =
                    (first..first + RECORDS).map(|n| format!("{{\"n\":{n},\"k\":{}}}\n", n % 97)).collect();
                // A request that got no answer is never sent again: it may have been kept.
                if post(port.load(Ordering::Acquire), &lines).is_some_and(|status| status == 202) {
                    acknowledged.insert(first / RECORDS);
                }
                if ended.recv_timeout(Duration::from_secs(1) / RATE) != Err(mpsc::RecvTimeoutError::Timeout) {
                    break;
                }
            }
            acknowledged
        });
        Self { thread, ends }
    }

    fn end(self) -> BTreeSet<u64> {
        self.ends.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

/// Sends lines to the stream; returns the status, `None` when there was no answer.
fn post(port: u16, lines: &str) -> Option<u16> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "POST /v1/streams/clicks?key=k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        lines.len()
    );
    connection.write_all(head.as_bytes()).ok()?;
    connection.write_all(lines.as_bytes()).ok()?;
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).ok()?;
    std::str::from_utf8(&answer[9..]).ok()?.parse().ok()
}

/// The program that is put under load: another build of it, when one is named.
#[expect(clippy::disallowed_methods, reason = "an hour of load is better spent on a release build")]
fn serve(project: &Project) -> Serving {
    let program = std::env::var("CATCHMENT_SOAK_PROGRAM").unwrap_or_else(|_| PROGRAM.to_owned());
    let mut command = Command::new(program);
    command.current_dir(project.path()).args(["serve", "--json"]).env_remove("CATCHMENT_FAULT");
    Serving::start(command)
}

fn soak(load: &Load) {
    let project = Project::new(PIPELINE);
    project.write("catchment.toml", CONFIG);
    project.call(&["stream", "create", "clicks", "--shards", "2"]).exits(0);
    project.call(&["stream", "create", "alerts"]).exits(0);
    let mut service = serve(&project);
    let port = Arc::new(AtomicU16::new(service.port));
    let writers: Vec<Writer> = (0..2).map(|number| Writer::start(number, Arc::clone(&port))).collect();
    let started = Instant::now();
    let events = load.kills + load.reshards;
    let (_never, wait) = mpsc::channel::<()>();
    let (mut kills, mut reshards, mut shards, mut peak) = (0, 0, 2_u32, 0);
    for event in 1..=events {
        let at = started + load.lasts * event / (events + 1);
        let _ = wait.recv_timeout(at.saturating_duration_since(Instant::now()));
        // Reshards are spread evenly among the kills.
        if reshards * events < event * load.reshards && event % 3 == 0
            || events - event < load.reshards - reshards
        {
            shards = if shards == 2 { 4 } else { shards - 1 };
            let change = json!({ "StreamName": "clicks", "TargetShardCount": shards, "ScalingType": "UNIFORM_SCALING" });
            let (status, answer) = service.call("UpdateShardCount", &change);
            assert_eq!(status, 200, "{answer}");
            reshards += 1;
        } else {
            peak = peak.max(service.peak_memory() >> 20);
            drop(service);
            service = serve(&project);
            port.store(service.port, Ordering::Release);
            kills += 1;
        }
    }
    let _ = wait.recv_timeout((started + load.lasts).saturating_duration_since(Instant::now()));
    let acknowledged: Vec<BTreeSet<u64>> = writers.into_iter().map(Writer::end).collect();
    peak = peak.max(service.peak_memory() >> 20);
    assert_eq!(service.terminate(), Some(0));
    assert_eq!((kills, reshards), (load.kills, load.reshards));
    let acknowledged: BTreeSet<u64> = acknowledged.into_iter().flatten().collect();
    let rows = check(&project, &acknowledged);
    eprintln!(
        "{} s of load, {kills} kills, {reshards} reshards: {} records acknowledged, {rows} in the table, peak {peak} MB",
        started.elapsed().as_secs(),
        acknowledged.len() as u64 * RECORDS,
    );
}

/// The tables hold every request that was acknowledged, nothing twice, and each writer's records in order per shard.
fn check(project: &Project, acknowledged: &BTreeSet<u64>) -> u64 {
    let mut rows = 0;
    for table in ["raw.clicks", "curated.clicks"] {
        let sql = format!(
            "SELECT n / {RECORDS} AS request, count(*) AS n, count(DISTINCT n) AS d FROM {table} GROUP BY 1"
        );
        let found = project.query(&sql);
        let mut whole = BTreeSet::new();
        for request in found.as_array().unwrap() {
            assert_eq!(request["n"], request["d"], "{table}: doubled: {request}");
            if request["n"] == RECORDS {
                whole.insert(request["request"].as_u64().unwrap());
            }
        }
        let lost: Vec<&u64> = acknowledged.difference(&whole).take(5).collect();
        assert!(lost.is_empty(), "{table}: not there in full: {lost:?}");
        rows = whole.len() as u64 * RECORDS;
    }
    // Live, in windows and as alerts: what the table says, and every window that is over.
    let alone = "SELECT count(*) AS n FROM (SELECT k, n, newest FROM live.keys EXCEPT SELECT k, count(*), max(n) FROM raw.clicks GROUP BY k)";
    assert_eq!(project.query(alone)[0]["n"], 0, "live");
    assert_eq!(project.query("SELECT count(*) AS n FROM live.keys")[0]["n"], 97);
    let windows = "SELECT k % 5 AS part, date_bin(INTERVAL '2' SECOND, arrived_at) AS begins, count(*) AS n, count(DISTINCT k) AS keys, max(n) AS newest FROM raw.clicks GROUP BY 1, 2";
    let alone = format!(
        "SELECT count(*) AS n FROM (SELECT part, begins, n, keys, newest FROM curated.windows EXCEPT ({windows}))"
    );
    assert_eq!(project.query(&alone)[0]["n"], 0, "windows that hold what no table has");
    let doubled = "SELECT count(*) AS n FROM (SELECT part, begins FROM curated.windows GROUP BY part, begins HAVING count(*) > 1)";
    assert_eq!(project.query(doubled)[0]["n"], 0, "windows that were published twice");
    let missing = format!(
        "SELECT count(*) AS n FROM ({windows} EXCEPT SELECT part, begins, n, keys, newest FROM curated.windows) WHERE begins < (SELECT max(arrived_at) - INTERVAL '10' SECOND FROM raw.clicks)"
    );
    assert_eq!(project.query(&missing)[0]["n"], 0, "windows that are missing");
    let late = project.query("SELECT max(late_rows) AS n FROM system.windows");
    assert_eq!(late[0]["n"], 0, "late rows");
    let alerts =
        "SELECT count(*) AS n, count(DISTINCT \"key\") AS keys FROM system.alerts WHERE alert = 'main.many'";
    let raised = project.query("SELECT count(*) AS n, count(*) AS keys FROM live.keys WHERE n > 100");
    assert_eq!(project.query(alerts), raised, "alerts");
    let disordered = format!(
        "SELECT count(*) AS n FROM (SELECT n, lag(n) OVER (PARTITION BY shard, n / {SPAN} ORDER BY sequence_number) AS before FROM raw.clicks) WHERE before > n"
    );
    assert_eq!(project.query(&disordered)[0]["n"], 0);
    rows
}

#[test]
fn load_with_kills_and_reshards_loses_and_doubles_nothing() {
    soak(&Load { lasts: Duration::from_secs(16), kills: 5, reshards: 3 });
}

#[test]
#[ignore = "takes an hour: cargo nextest run --run-ignored only -E 'test(an_hour_of_load)' --no-capture"]
fn an_hour_of_load_with_kills_and_reshards_loses_and_doubles_nothing() {
    soak(&Load { lasts: Duration::from_secs(3_600), kills: 30, reshards: 15 });
}
