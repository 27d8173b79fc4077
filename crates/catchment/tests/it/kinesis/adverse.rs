//! A service whose disk is full, whose clock is wrong, and that is sent more than it can take.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Serving;
use super::flows::base64;
use crate::crash::disk::Disk;
use crate::foreign::kinesis::source;
use crate::project::Project;

const CONFIG: &str = "[engine]\nthreads = 2\nretries = 0\n[server]\nlisten = \"127.0.0.1:0\"\nopen_on_loopback = true\n[streams]\nbuffer_milliseconds = 50\n";

/// Serves a project on a disk.
fn serve(project: &Project, disk: &Disk) -> Serving {
    project.write("catchment.toml", CONFIG);
    let mut command = project.command(&["serve", "--json"]);
    disk.below(&mut command);
    Serving::start(command)
}

fn put(server: &Serving, numbers: std::ops::Range<i64>) -> (u16, Value) {
    let record =
        |n: i64| json!({ "PartitionKey": n.to_string(), "Data": base64(&format!("{{\"n\":{n},\"k\":1}}")) });
    let records: Vec<Value> = numbers.map(record).collect();
    server.call("PutRecords", &json!({ "StreamName": "clicks", "Records": records }))
}

/// Waits for a value of a metric.
fn wait_for_metric(server: &Serving, is_there: impl Fn(&str) -> bool) {
    let started = Instant::now();
    loop {
        let measures = String::from_utf8(server.send_to("GET", "/metrics", &[], b"").2).unwrap();
        if measures.lines().any(&is_there) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{measures}");
    }
}

#[test]
fn a_full_disk_refuses_records_holds_tables_and_loses_nothing() {
    let project = Project::new(
        "CREATE STREAMING TABLE raw.t AS SELECT n FROM STREAM read_stream('clicks', schema => 'n BIGINT');",
    );
    project.call(&["stream", "create", "clicks"]).exits(0);
    let disk = Disk::new(project.path());
    let server = serve(&project, &disk);
    assert_eq!(put(&server, 0..100).0, 200);
    wait_for_metric(&server, |line| line == "catchment_dataset_rows_total{dataset=\"raw.t\"} 100");
    disk.fill(true);
    let (status, answer) = put(&server, 1_000..1_100);
    assert_eq!((status, &answer["__type"]), (500, &json!("InternalFailure")), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("C5002"), "{answer}");
    let (status, _, body) = server.send_to("POST", "/v1/streams/clicks", &[], b"{\"n\": 1100}");
    assert_eq!(status, 507, "{}", String::from_utf8_lossy(&body));
    assert_eq!(server.send_to("GET", "/health", &[], b"").0, 200);
    assert_eq!(server.call("ListStreams", &json!({})).1["StreamNames"], json!(["clicks"]));
    disk.fill(false);
    assert_eq!(put(&server, 100..200).0, 200);
    let numbers = || {
        let rows = project.query("SELECT n FROM raw.t ORDER BY n");
        rows.as_array().unwrap().iter().map(|row| row["n"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    let wait_for_rows = |count: i64| {
        let started = Instant::now();
        while numbers().len() < usize::try_from(count).unwrap() {
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", numbers());
        }
        assert_eq!(numbers(), (0..count).collect::<Vec<_>>());
    };
    wait_for_rows(200);
    // Records that are there when nothing can be written wait for it.
    assert_eq!(put(&server, 200..300).0, 200);
    disk.fill(true);
    wait_for_metric(&server, |line| {
        let failed =
            ["catchment_run_failures_total ", "catchment_dataset_failures_total{dataset=\"raw.t\"} "];
        let count = failed.iter().find_map(|name| line.strip_prefix(name));
        count.is_some_and(|count| count.parse::<u64>().unwrap() > 0)
    });
    disk.fill(false);
    wait_for_rows(300);
    drop(server);
    let kept = project.call(&["stream", "peek", "clicks", "--limit", "1000", "--json"]).exits(0).out;
    assert_eq!(kept.lines().count(), 300);
}

#[test]
fn a_clock_that_jumps_neither_reorders_records_nor_revives_iterators() {
    let project = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
    project.call(&["stream", "create", "clicks"]).exits(0);
    let disk = Disk::new(project.path());
    let server = serve(&project, &disk);
    let iterator = |kind: &str| {
        let asked =
            json!({ "StreamName": "clicks", "ShardId": "shardId-000000000000", "ShardIteratorType": kind });
        server.call("GetShardIterator", &asked).1["ShardIterator"].clone()
    };
    let read = |iterator: &Value| server.call("GetRecords", &json!({ "ShardIterator": iterator }));
    assert_eq!(put(&server, 0..10).0, 200);
    disk.set_clock(-7_200);
    assert_eq!(put(&server, 10..20).0, 200);
    let (_, answer) = read(&iterator("TRIM_HORIZON"));
    let records = answer["Records"].as_array().unwrap();
    let field = |name: &'static str| records.iter().map(move |record| &record[name]);
    let numbers: Vec<&Value> = field("PartitionKey").collect();
    assert_eq!(json!(numbers), json!((0..20).map(|n| n.to_string()).collect::<Vec<_>>()));
    let sequences: Vec<&str> = field("SequenceNumber").map(|text| text.as_str().unwrap()).collect();
    assert!(sequences.is_sorted_by(|a, b| (a.len(), a) < (b.len(), b)), "{sequences:?}");
    let times: Vec<f64> = field("ApproximateArrivalTimestamp").map(|time| time.as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    // An iterator holds five minutes, by a clock that goes on.
    disk.set_clock(0);
    let held = iterator("TRIM_HORIZON");
    disk.set_clock(290);
    assert_eq!(read(&held).0, 200);
    disk.set_clock(310);
    let (status, answer) = read(&held);
    assert_eq!((status, &answer["__type"]), (400, &json!("ExpiredIteratorException")), "{answer}");
    assert_eq!(read(&iterator("TRIM_HORIZON")).0, 200);
}

#[test]
fn records_that_a_service_of_kinesis_dropped_unread_are_missed() {
    let served = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
    served.call(&["stream", "create", "clicks"]).exits(0);
    let disk = Disk::new(served.path());
    let project = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
    let follow = |port: u16, options: &str| {
        let source = source(port, options);
        project.write(
            "pipelines/all.sql",
            format!("CREATE STREAMING TABLE raw.t AS SELECT n FROM STREAM {source};"),
        );
        let mut command = project.command(&["run"]);
        disk.below(&mut command);
        command.env("AWS_ACCESS_KEY_ID", "tester").env("AWS_SECRET_ACCESS_KEY", "tester-secret");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let count = || project.query("SELECT count(*) AS n FROM raw.t")[0]["n"].clone();
    let server = serve(&served, &disk);
    assert_eq!(put(&server, 0..50).0, 200);
    assert_eq!(follow(server.port, "").0, Some(0));
    // Nothing is missed of what was read before it was dropped.
    drop(server);
    disk.set_clock(25 * 3_600);
    let server = serve(&served, &disk);
    assert_eq!(put(&server, 50..100).0, 200);
    drop(server);
    // A segment goes when the one after it is as old as records may get.
    disk.set_clock(50 * 3_600);
    drop(serve(&served, &disk));
    disk.set_clock(75 * 3_600);
    let server = serve(&served, &disk);
    let started = Instant::now();
    let kept = || {
        served.call(&["stream", "describe", "clicks", "--json"]).exits(0).json()["shards"][0]["records"]
            .clone()
    };
    while kept() != 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "{}", kept());
    }
    assert_eq!(put(&server, 100..120).0, 200);
    let (code, told) = follow(server.port, "");
    assert!(code == Some(1) && told.contains("C4008") && told.contains("failOnDataLoss"), "{code:?} {told}");
    assert_eq!(count(), 50);
    assert_eq!(follow(server.port, ", failOnDataLoss => false").0, Some(0));
    assert_eq!(count(), 70);
}

#[test]
fn a_large_body_and_a_million_records_take_bounded_memory() {
    let project = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
    let server = Serving::configured(&project, "open_on_loopback = true");
    project.call(&["stream", "create", "clicks", "--shards", "4"]).exits(0);
    let body = vec![b' '; 100 << 20];
    for path in ["/", "/v1/streams/clicks"] {
        let (status, _, _) = server.send_to("POST", path, &[], &body);
        assert_eq!(status, 413, "{path}");
    }
    let before = server.peak_memory();
    assert!(before < 256 << 20, "{before} bytes for bodies that are refused");
    let lines = "{\"n\":1}\n".repeat(100_000);
    let taken = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..10)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        match server.send_to("POST", "/v1/streams/clicks", &[], lines.as_bytes()).0 {
                            202 => return 100_000,
                            429 => {}
                            other => panic!("{other}"),
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum::<u64>()
    });
    let described = project.call(&["stream", "describe", "clicks", "--json"]).exits(0).json();
    let kept = described["shards"].as_array().unwrap().iter().map(|shard| shard["records"].as_u64().unwrap());
    assert_eq!(kept.sum::<u64>(), taken);
    let peak = server.peak_memory();
    assert!(peak < 1 << 30, "{peak} bytes");
}

#[test]
fn a_shard_takes_and_gives_what_one_of_aws_does_when_it_is_told_to() {
    let project = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
    let server = Serving::configured(&project, "open_on_loopback = true\naws_limits = true");
    let started = Instant::now();
    project.call(&["stream", "create", "clicks"]).exits(0);
    let mut taken = 0;
    let mut refused = 0;
    for first in (0..2_000).step_by(500) {
        let (status, answer) = put(&server, first..first + 500);
        assert_eq!(status, 200, "{answer}");
        let all = answer["Records"].as_array().unwrap();
        let failed =
            all.iter().filter(|record| record["ErrorCode"] == "ProvisionedThroughputExceededException");
        let failed: Vec<_> = failed.collect();
        assert_eq!(answer["FailedRecordCount"], failed.len());
        assert!(failed.iter().all(|record| {
            record["SequenceNumber"].is_null()
                && record["ErrorMessage"]
                    .as_str()
                    .unwrap()
                    .starts_with("Rate exceeded for shard shardId-000000000000 in stream clicks")
        }));
        (taken, refused) = (taken + all.len() - failed.len(), refused + failed.len());
    }
    let most = 1_000 + usize::try_from(started.elapsed().as_millis()).unwrap() + 1;
    assert!((1_000..=most).contains(&taken) && taken + refused == 2_000, "{taken} of at most {most}");
    let asked = json!({ "StreamName": "clicks", "ShardId": "shardId-000000000000", "ShardIteratorType": "TRIM_HORIZON" });
    let iterator = server.call("GetShardIterator", &asked).1["ShardIterator"].clone();
    let begun = Instant::now();
    let answers: Vec<_> = (0..40)
        .map(|_| server.call("GetRecords", &json!({ "ShardIterator": iterator, "Limit": 1 })))
        .collect();
    let most = 5 + usize::try_from(begun.elapsed().as_millis() / 200).unwrap() + 1;
    let read = answers.iter().filter(|(status, _)| *status == 200);
    assert!(read.clone().all(|(_, answer)| answer["Records"].as_array().unwrap().len() == 1));
    assert!((5..=most).contains(&read.count()), "of at most {most}");
    assert!(answers.iter().any(|(_, answer)| answer["__type"] == "ProvisionedThroughputExceededException"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_has_one_subscription_to_a_shard_and_takes_it_over() {
    use aws_sdk_kinesis::config::{BehaviorVersion, Builder, Credentials, Region};
    use aws_sdk_kinesis::error::ProvideErrorMetadata;
    use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition};

    let project = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
    project.call(&["stream", "create", "clicks"]).exits(0);
    let disk = Disk::new(project.path());
    let server = serve(&project, &disk);
    let config = Builder::new().behavior_version(BehaviorVersion::latest()).region(Region::new("us-east-1"));
    let config = config.credentials_provider(Credentials::new("k", "s", None, None, "test"));
    let kinesis = aws_sdk_kinesis::Client::from_conf(config.endpoint_url(server.url()).build());
    let described = kinesis.describe_stream_summary().stream_name("clicks").send().await.unwrap();
    let arn = described.stream_description_summary.unwrap().stream_arn;
    let mut consumers = Vec::new();
    for name in ["a", "b"] {
        let made =
            kinesis.register_stream_consumer().stream_arn(&arn).consumer_name(name).send().await.unwrap();
        consumers.push(made.consumer.unwrap().consumer_arn);
    }
    let subscribe = |consumer: &str| {
        let start = StartingPosition::builder().r#type(ShardIteratorType::Latest).build().unwrap();
        let asking = kinesis.subscribe_to_shard().consumer_arn(consumer).shard_id("shardId-000000000000");
        asking.starting_position(start).send()
    };
    let mut first = subscribe(&consumers[0]).await.unwrap().event_stream;
    assert!(first.recv().await.unwrap().is_some());
    let refused = subscribe(&consumers[0]).await.unwrap_err();
    assert_eq!(refused.code(), Some("ResourceInUseException"), "{refused:?}");
    // Another consumer has its own.
    let mut other = subscribe(&consumers[1]).await.unwrap().event_stream;
    assert!(other.recv().await.unwrap().is_some());
    disk.set_clock(6);
    let mut second = subscribe(&consumers[0]).await.unwrap().event_stream;
    while first.recv().await.unwrap().is_some() {}
    // One that is gone is in nobody's way.
    assert!(second.recv().await.unwrap().is_some());
    drop((first, second));
    loop {
        match subscribe(&consumers[0]).await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.code(), Some("ResourceInUseException"), "{error:?}"),
        }
    }
    assert_eq!(put(&server, 0..1).0, 200);
    let pushed = loop {
        let event = other.recv().await.unwrap().unwrap();
        let records = event.as_subscribe_to_shard_event().unwrap().records.len();
        if records > 0 {
            break records;
        }
    };
    assert_eq!(pushed, 1);
}
