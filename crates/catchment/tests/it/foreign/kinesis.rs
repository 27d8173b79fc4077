//! `read_kinesis` on this program's own endpoint, as another process serves it, and on kinesis-local.

use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{pipeline, survive};
use crate::kinesis::flows::base64;
use crate::kinesis::{Serving, call};
use crate::project::{Killed, Project, python};

pub(crate) fn source(port: u16, options: &str) -> String {
    format!(
        "read_kinesis('clicks', region => 'us-east-1', endpoint => 'http://127.0.0.1:{port}', schema => 'n BIGINT, k BIGINT'{options})"
    )
}

/// Puts numbers; those that a busy shard refuses are put again.
fn put(port: u16, numbers: Range<i64>) {
    let record = |n: i64| {
        let data = format!("{{\"n\":{n},\"k\":{}}}", n % 7);
        json!({ "PartitionKey": (n % 7).to_string(), "Data": base64(&data) })
    };
    let mut records: Vec<Value> = numbers.map(record).collect();
    while !records.is_empty() {
        let (status, answer) =
            call(port, "PutRecords", &json!({ "StreamName": "clicks", "Records": records }));
        assert_eq!(status, 200, "{answer}");
        let answers = answer["Records"].as_array().unwrap();
        let failed = |(record, answer): (Value, &Value)| {
            answer.get("ErrorCode").filter(|code| !code.is_null()).map(|_| record)
        };
        records = records.into_iter().zip(answers).filter_map(failed).collect();
    }
}

/// Waits until what was asked for is done.
fn settle(port: u16) -> Value {
    let started = Instant::now();
    loop {
        let (_, answer) = call(port, "DescribeStreamSummary", &json!({ "StreamName": "clicks" }));
        let summary = &answer["StreamDescriptionSummary"];
        if summary["StreamStatus"] == "ACTIVE" {
            return summary.clone();
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{answer}");
        std::thread::yield_now();
    }
}

fn follow(port: u16) {
    call(port, "CreateStream", &json!({ "StreamName": "clicks", "ShardCount": 2 }));
    settle(port);
    let project =
        Project::new(&pipeline(&source(port, ", maxBytesPerTrigger => '2KB'"), "_metadata.sequence_number"));
    survive(&project, 12, |round, numbers| {
        put(port, numbers);
        if round % 3 == 1 {
            let shards = [4, 3, 2][usize::try_from(round / 3).unwrap() % 3];
            let change = json!({ "StreamName": "clicks", "TargetShardCount": shards, "ScalingType": "UNIFORM_SCALING" });
            let (status, answer) = call(port, "UpdateShardCount", &change);
            assert_eq!(status, 200, "{answer}");
            settle(port);
        }
    });
}

/// This program serving a stream, as another project.
fn served() -> (Project, Serving) {
    let project = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
    let server = Serving::configured(&project, "open_on_loopback = true");
    (project, server)
}

#[test]
fn kills_and_reshards_lose_and_repeat_nothing_of_an_endpoint() {
    let (_project, server) = served();
    follow(server.port);
}

#[test]
fn flows_begin_where_they_are_told_to() {
    let (_project, server) = served();
    call(server.port, "CreateStream", &json!({ "StreamName": "clicks", "ShardCount": 2 }));
    let tables = [
        ("early", ""),
        ("late", ", initialPosition => 'latest'"),
        ("since", ", startingTimestamp => '2100-01-01'"),
    ];
    let statement = |(name, options): &(&str, &str)| {
        format!("CREATE STREAMING TABLE t.{name} AS SELECT n FROM STREAM {};\n", source(server.port, options))
    };
    let project = Project::new(&tables.iter().map(statement).collect::<String>());
    let counts = || {
        let mut command = project.command(&["run"]);
        command.env("AWS_ACCESS_KEY_ID", "tester").env("AWS_SECRET_ACCESS_KEY", "tester-secret");
        assert_eq!(command.output().unwrap().status.code(), Some(0));
        tables.map(|(name, _)| {
            let found = project.call(&["sql", "--json", &format!("SELECT count(*) AS n FROM t.{name}")]);
            if found.code == Some(0) { found.json()[0]["n"].as_i64().unwrap() } else { 0 }
        })
    };
    put(server.port, 0..20);
    assert_eq!(counts(), [20, 0, 0]);
    put(server.port, 20..50);
    assert_eq!(counts(), [50, 30, 0]);
    assert_eq!(counts(), [50, 30, 0]);
}

#[test]
fn what_cannot_be_read_says_why() {
    let (_project, server) = served();
    let told = |options: &str, signed: bool| {
        let project = Project::new(&pipeline(&source(server.port, options), "_metadata.sequence_number"));
        project.write("catchment.toml", "[engine]\nthreads = 2\nretries = 0\n");
        let mut command = project.command(&["run"]);
        command
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env_remove("AWS_PROFILE")
            .env("HOME", project.path());
        if signed {
            command.env("AWS_ACCESS_KEY_ID", "tester").env("AWS_SECRET_ACCESS_KEY", "tester-secret");
        } else {
            command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(told("", true).contains("C6001"), "{}", told("", true));
    assert!(told("", false).contains("C6009"), "{}", told("", false));
    let secret = told(", awsSecretKey => 'x'", true);
    assert!(secret.contains("C2011") && secret.contains("would put a secret into a file"), "{secret}");
    let region = told(", regoin => 'x'", true);
    assert!(region.contains("did you mean \"region\"?"), "{region}");
}

/// kinesis-local, on a port of its own.
struct KinesisLocal {
    _process: Killed,
    port: u16,
}

impl KinesisLocal {
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment what to compare with")]
    fn start() -> Option<Self> {
        python()?;
        let node = std::env::var_os("CATCHMENT_TEST_NODE").map(PathBuf::from).unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, tls) = (free(), free());
        let mut command = Command::new("node");
        command.arg("main.js").current_dir(node.join("node_modules/kinesis-local"));
        command
            .env("KINESIS_MOCK_PLAIN_PORT", port.to_string())
            .env("KINESIS_MOCK_TLS_PORT", tls.to_string());
        for (operation, takes) in [
            ("CREATE_STREAM", "10ms"),
            ("UPDATE_SHARD_COUNT", "10ms"),
            ("SPLIT_SHARD", "10ms"),
            ("MERGE_SHARDS", "10ms"),
        ] {
            command.env(format!("{operation}_DURATION"), takes);
        }
        command.env("LOG_LEVEL", "ERROR").env("SHARD_LIMIT", "100");
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { _process: Killed(process), port };
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "the server does not come up");
            std::thread::yield_now();
        }
        Some(server)
    }
}

#[test]
fn kills_and_reshards_lose_and_repeat_nothing_of_kinesis_local() {
    let Some(server) = KinesisLocal::start() else { return };
    follow(server.port);
}
