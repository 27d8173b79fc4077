//! A lake in a bucket of a real S3 server (SeaweedFS), or of Azurite: the same as in a folder, whatever the way does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod azure;

use crate::project::{Done, Killed, Project, dataset, oracle, python};
use crate::proxy::{Proxy, Trouble};

/// An S3 server with one bucket.
struct Server {
    _process: Killed,
    port: u16,
    _folder: tempfile::TempDir,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The server's program lies beside the Python that brings the peers.
fn program() -> Option<PathBuf> {
    let program = python()?.with_file_name("weed");
    assert!(program.exists(), "no {program:?}: scripts/test installs it");
    Some(program)
}

impl Server {
    fn start(program: &PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let log = folder.path().join("log");
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["server", "-filer", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]).args([
            format!("-dir={path}"),
            format!("-s3.port={port}"),
            format!("-filer.localSocket={path}/f.sock"),
            format!("-s3.localSocket={path}/s.sock"),
        ]);
        for service in [
            "s3.port.grpc",
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
        ] {
            command.arg(format!("-{service}={}", free_port()));
        }
        // On a nearly full disk it would take no writes at all by default: it keeps a hundredth free.
        command.args(["-volume.minFreeSpace=1MiB", "-volume.max=100", "-master.volumeSizeLimitMB=64"]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]);
        command.env("AWS_ACCESS_KEY_ID", "tester").env("AWS_SECRET_ACCESS_KEY", "tester-secret");
        let told = std::fs::File::create(&log).unwrap();
        command.current_dir(folder.path()).stdout(Stdio::null()).stderr(told);
        let server = Self { _process: Killed(command.spawn().unwrap()), port, _folder: folder };
        server.require_that_it_takes_writes(&log);
        server
    }

    /// It listens before it takes writes: the first lease tells that it does.
    fn require_that_it_takes_writes(&self, log: &Path) {
        let started = Instant::now();
        let probe = Project::new("CREATE MATERIALIZED VIEW ready.t AS SELECT 1 AS n;");
        self.hold(&probe, self.port, "probe");
        loop {
            let mut run =
                signed(probe.command(&["run"])).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let ended = loop {
                if let Some(status) = run.try_wait().unwrap() {
                    break status;
                }
                if started.elapsed() > Duration::from_secs(60) {
                    run.kill().unwrap();
                    panic!("the server does not come up: {}", std::fs::read_to_string(log).unwrap());
                }
                std::thread::park_timeout(Duration::from_millis(5));
            };
            if ended.success() {
                return;
            }
        }
    }

    /// Lets a project keep its lake in the bucket, through `port`.
    fn hold(&self, project: &Project, port: u16, folder: &str) {
        project.write(
            "catchment.toml",
            format!(
                "[engine]\nthreads = 2\n[storage]\nlake = \"s3://bucket/{folder}\"\n[storage.options]\nendpoint = \"http://127.0.0.1:{port}\"\nregion = \"us-east-1\"\nallow_http = \"true\"\n"
            ),
        );
    }
}

fn call(project: &Project, arguments: &[&str], variables: &[(&str, &str)]) -> Done {
    signed(project.command(arguments)).envs(variables.iter().copied()).output().unwrap().into()
}

/// A command that knows the accounts of both servers.
fn signed(mut command: Command) -> Command {
    command.env("AWS_ACCESS_KEY_ID", "tester").env("AWS_SECRET_ACCESS_KEY", "tester-secret");
    command.env("AZURE_STORAGE_ACCOUNT_NAME", azure::ACCOUNT).env("AZURE_STORAGE_ACCOUNT_KEY", azure::KEY);
    command
}

fn query(project: &Project, sql: &str) -> Value {
    call(project, &["sql", "--json", sql], &[]).exits(0).json()
}

/// What all files come to in a folder, in one run.
fn undisturbed() -> Value {
    let whole = Project::new(PIPELINE);
    (0..6).for_each(|file| add(&whole, file));
    whole.call(&["run"]).exits(2);
    contents(&whole)
}

const PIPELINE: &str = "
CREATE STREAMING TABLE raw.t (CONSTRAINT once EXPECT UNIQUE (k) ON VIOLATION DROP ROW) PARTITIONED BY (p) AS
  SELECT k, v * 1 AS v, k % 3 AS p FROM STREAM read_files('in', format => 'json', schema => 'k BIGINT, v BIGINT', maxFilesPerTrigger => 2);
CREATE STREAMING TABLE cur.t (CONSTRAINT positive EXPECT (v > 0) ON VIOLATION QUARANTINE) PARTITIONED BY (p) CLUSTER BY (k) AS
  SELECT k, v, p FROM STREAM raw.t;
CREATE MATERIALIZED VIEW sums.t AS SELECT count(*) AS n, sum(v) AS v FROM cur.t;";

fn add(project: &Project, file: i64) {
    let line = |k: i64| format!("{{\"k\":{k},\"v\":{}}}\n", if k % 7 == 3 { -k } else { k + 1 });
    // Each file brings the last key of the one before again.
    let lines: String = (file * 10 - 1..file * 10 + 10).filter(|k| *k >= 0).map(line).collect();
    project.write(&format!("in/{file:03}.jsonl"), lines);
}

fn contents(project: &Project) -> Value {
    let rows = |sql: &str| query(project, sql);
    json!([
        rows("SELECT k, v, p FROM cur.t ORDER BY k"),
        rows("SELECT record FROM cur.t__quarantine ORDER BY record"),
        rows("SELECT n, v FROM sums.t"),
    ])
}

/// What is done to a lake, one thing after the other.
fn history(project: &Project) {
    let run = |arguments: &[&str]| {
        let done = call(project, arguments, &[]);
        assert!(matches!(done.code, Some(0 | 2)), "{arguments:?}: {}{}", done.out, done.err);
    };
    (0..5).for_each(|file| add(project, file));
    run(&["run"]);
    run(&["release", "first"]);
    (5..7).for_each(|file| add(project, file));
    run(&["run"]);
    run(&["sql", "OPTIMIZE raw.t ZORDER BY (k, v)"]);
    run(&["sql", "OPTIMIZE cur.t"]);
    run(&["rollback", "--all", "--to", "first"]);
    project.write("pipelines/all.sql", PIPELINE.replace("v * 1", "v * 2"));
    run(&["run"]);
    run(&["backfill", "raw.t", "--where", "p = 1", "--cascade"]);
    run(&["replay", "cur.t"]);
    run(&["sql", "VACUUM RETAIN 0 HOURS"]);
    run(&["run"]);
    run(&["recover"]);
}

/// After the same history, a lake elsewhere is what one in a folder is; returns the rows of the last table.
fn require_same_as_in_a_folder(there: &Project) -> Value {
    let here = Project::new(PIPELINE);
    history(&here);
    history(there);
    assert_eq!(contents(there), contents(&here));
    assert!(!there.path().join("lake").exists());
    let earlier = "SELECT count(*) AS n FROM cur.t VERSION AS OF 'first'";
    assert_eq!(query(there, earlier), query(&here, earlier));
    let tables = |project: &Project| call(project, &["sql", "--json", "SHOW TABLES"], &[]).exits(0).json();
    assert_eq!(tables(there), tables(&here));
    query(&here, "SELECT n, v FROM sums.t")[0].clone()
}

#[test]
fn a_lake_in_a_bucket_is_the_same_as_one_in_a_folder() {
    let Some(program) = program() else { return };
    let server = Server::start(&program);
    let there = Project::new(PIPELINE);
    server.hold(&there, server.port, "some/lake");
    let sums = require_same_as_in_a_folder(&there);
    // Another reader sees the same rows.
    let url = "s3://bucket/some/lake/cur/t";
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let counted = oracle(&python().unwrap(), "bucket.py", &[url, &endpoint]);
    assert_eq!(counted.trim(), sums.to_string());
}

#[test]
fn a_kill_anywhere_loses_and_repeats_nothing_in_a_bucket() {
    let Some(program) = program() else { return };
    let server = Server::start(&program);
    let expected = undisturbed();
    let mut kills = 0;
    for hits in (1..60).step_by(4) {
        let project = Project::new(PIPELINE);
        server.hold(&project, server.port, &format!("kill-{hits}"));
        (0..3).for_each(|file| add(&project, file));
        let first = call(&project, &["run"], &[("CATCHMENT_FAULT", &format!("any:{hits}:abort"))]);
        (3..6).for_each(|file| add(&project, file));
        let second = call(&project, &["run"], &[("CATCHMENT_FAULT", &format!("any:{}:abort", 61 - hits))]);
        // A process that was killed has no exit code.
        kills += [first, second].iter().filter(|done| done.code.is_none()).count();
        // A lease of a process of this machine that is gone is free at once.
        call(&project, &["run"], &[]).exits(2);
        assert_eq!(contents(&project), expected, "killed at {hits}");
    }
    assert!(kills >= 20, "{kills} kills of 30");
}

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    let Some(program) = program() else { return };
    let server = Server::start(&program);
    for header in ["if-none-match", "if-match"] {
        let proxy = Proxy::start(server.port, Trouble::Pretends(header));
        let project = Project::new(PIPELINE);
        server.hold(&project, proxy.port(), header);
        add(&project, 0);
        let told = call(&project, &["run"], &[]).exits(1);
        assert!(told.err.contains("C4012"), "{}", told.err);
    }
    // Secrets and options that mean nothing are refused in the file.
    for (option, why) in [
        ("secret_access_key = \"x\"", "holds a secret"),
        ("regoin = \"x\"", "is no option"),
        ("endpoint = \"127.0.0.1:9000\"", "is no URL"),
        ("endpoint = \"http://u:topsecret@127.0.0.1:9000\"", "holds a name or a password"),
    ] {
        let project = Project::new(PIPELINE);
        project.write(
            "catchment.toml",
            format!("[storage]\nlake = \"s3://bucket/x\"\n[storage.options]\n{option}\n"),
        );
        let told = project.call(&["check"]).exits(1);
        assert!(told.err.contains(why), "{}", told.err);
    }
}

#[test]
fn throttled_slow_and_torn_answers_change_nothing() {
    let Some(program) = program() else { return };
    let server = Server::start(&program);
    let expected = undisturbed();
    for trouble in [Trouble::Throttled, Trouble::Slow, Trouble::Torn, Trouble::AnswerLost] {
        let proxy = Proxy::start(server.port, trouble);
        let project = Project::new(PIPELINE);
        server.hold(&project, proxy.port(), &format!("{trouble:?}"));
        for half in [0..3, 3..6] {
            half.for_each(|file| add(&project, file));
            let done = call(&project, &["run"], &[]);
            assert!(matches!(done.code, Some(0 | 2)), "{trouble:?}: {}{}", done.out, done.err);
        }
        assert!(proxy.troubled() > 5, "{trouble:?} {}", proxy.troubled());
        assert_eq!(contents(&project), expected, "{trouble:?}");
    }
}

#[test]
fn requests_for_a_batch_and_a_query_are_few() {
    let Some(program) = program() else { return };
    let server = Server::start(&program);
    let proxy = Proxy::start(server.port, Trouble::None);
    let project = Project::new(
        "CREATE STREAMING TABLE raw.t AS SELECT k, v FROM STREAM read_files('in', format => 'json', schema => 'k BIGINT, v BIGINT');",
    );
    server.hold(&project, proxy.port(), "counted");
    let mut counted = BTreeMap::new();
    let mut count = |what: &'static str, arguments: &[&str]| {
        let before = proxy.requests();
        call(&project, arguments, &[]).exits(0);
        let done: BTreeMap<String, usize> = proxy
            .requests()
            .into_iter()
            .map(|(kind, count)| (kind.clone(), count - before.get(&kind).copied().unwrap_or(0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        counted.insert(what, done);
    };
    add(&project, 0);
    count("first run", &["run"]);
    add(&project, 1);
    count("run with a new file", &["run"]);
    count("run with nothing new", &["run"]);
    count("query", &["sql", "SELECT count(*), sum(v) FROM raw.t WHERE k > 3"]);
    let total = |what: &str| counted[what].values().sum::<usize>();
    let put = |what: &str| counted[what].get("PUT").copied().unwrap_or(0);
    // A batch writes its plan, a data file, what is staged and the commit; the lease is taken, proved and given up.
    assert!(put("run with a new file") <= 8, "{counted:#?}");
    assert!(total("run with a new file") <= 34, "{counted:#?}");
    assert!(total("run with nothing new") <= 28, "{counted:#?}");
    // Two lists and three entries of the log, what is newer, and each of the two data files once.
    assert!(total("query") <= 9 && put("query") == 0, "{counted:#?}");
    assert_eq!(dataset(&call(&project, &["run", "--json"], &[]).json(), "raw.t")["status"], "up to date");
}
