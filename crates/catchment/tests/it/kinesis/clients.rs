//! AWS's own clients against the endpoint: boto3, the command line, the one for JavaScript; and moto's tests.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::Serving;
use crate::project::{Done, Project, oracle, python};

/// A project that serves, with an access key and its secret.
fn with_a_key() -> (Project, Serving, String, String) {
    let project = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
    let made = project.call(&["key", "create", "--json"]).exits(0).json();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    let server = Serving::configured(&project, "");
    (project, server, text("access_key_id"), text("secret_access_key"))
}

/// Where `npm` put the clients.
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment what to compare with")]
fn node_modules() -> Option<PathBuf> {
    python()?;
    let node = std::env::var_os("CATCHMENT_TEST_NODE");
    assert!(node.is_some(), "scripts/test sets CATCHMENT_TEST_NODE");
    node.map(PathBuf::from)
}

#[test]
fn boto3_writes_and_reads_through_reshards() {
    let Some(python) = python() else { return };
    let (project, server, key, secret) = with_a_key();
    assert_eq!(oracle(&python, "kinesis_boto3.py", &[&server.url(), &key, &secret]), "ok\n");
    // A key that was deleted is good no more, at once.
    project.call(&["key", "delete", &key]).exits(0);
    let mut command = Command::new(python.with_file_name("aws"));
    let refused = aws(&mut command, &server, &key, &secret, &["kinesis", "list-streams"]).exits(255);
    assert!(refused.err.contains("UnrecognizedClientException"), "{}", refused.err);
}

fn aws(command: &mut Command, server: &Serving, key: &str, secret: &str, arguments: &[&str]) -> Done {
    command.args(arguments).args([
        "--endpoint-url",
        &server.url(),
        "--region",
        "us-east-1",
        "--output",
        "json",
    ]);
    command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret).env("AWS_MAX_ATTEMPTS", "1");
    command.output().unwrap().into()
}

#[test]
fn the_aws_command_line_works_by_its_endpoint_option() {
    let Some(python) = python() else { return };
    let (_project, server, key, secret) = with_a_key();
    let program = python.with_file_name("aws");
    let call = |arguments: &[&str]| {
        let arguments = [&["kinesis"], arguments].concat();
        let done = aws(&mut Command::new(&program), &server, &key, &secret, &arguments).exits(0);
        if done.out.is_empty() { Value::Null } else { done.json() }
    };
    call(&["create-stream", "--stream-name", "s", "--shard-count", "2"]);
    let put = call(&["put-record", "--stream-name", "s", "--partition-key", "k", "--data", "hello"]);
    let shard = put["ShardId"].as_str().unwrap();
    let iterator = call(&[
        "get-shard-iterator",
        "--stream-name",
        "s",
        "--shard-id",
        shard,
        "--shard-iterator-type",
        "TRIM_HORIZON",
    ]);
    let read = call(&["get-records", "--shard-iterator", iterator["ShardIterator"].as_str().unwrap()]);
    assert_eq!(
        (&read["Records"][0]["Data"], &read["Records"][0]["PartitionKey"]),
        (&json!("aGVsbG8="), &json!("k"))
    );
    assert_eq!(read["Records"][0]["SequenceNumber"], put["SequenceNumber"]);
    assert_eq!(call(&["list-streams"])["StreamNames"], json!(["s"]));
}

#[test]
fn the_javascript_client_subscribes_by_http_2() {
    let Some(node) = node_modules() else { return };
    let (_project, server, key, secret) = with_a_key();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/kinesis_npm.mjs");
    let mut command = Command::new("node");
    command.args([script, &server.url(), &key, &secret]).env("CATCHMENT_TEST_NODE", node);
    let done: Done = command.output().unwrap().into();
    assert_eq!(done.exits(0).out, "one two three\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_writes_reads_and_subscribes() {
    use aws_sdk_kinesis::config::{BehaviorVersion, Builder, Credentials, Region};
    use aws_sdk_kinesis::error::ProvideErrorMetadata;
    use aws_sdk_kinesis::primitives::Blob;
    use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition, SubscribeToShardEventStream};

    let (_project, server, key, secret) = with_a_key();
    let client = |secret: &str| {
        let credentials = Credentials::new(&key, secret, None, None, "test");
        let config =
            Builder::new().behavior_version(BehaviorVersion::latest()).region(Region::new("us-east-1"));
        aws_sdk_kinesis::Client::from_conf(
            config.endpoint_url(server.url()).credentials_provider(credentials).build(),
        )
    };
    let refused = client("wrong").list_streams().send().await.unwrap_err();
    assert_eq!(refused.code(), Some("InvalidSignatureException"));
    let kinesis = client(&secret);
    kinesis.create_stream().stream_name("rust").shard_count(1).send().await.unwrap();
    for text in ["one", "two"] {
        kinesis
            .put_record()
            .stream_name("rust")
            .partition_key("k")
            .data(Blob::new(text))
            .send()
            .await
            .unwrap();
    }
    let shard = "shardId-000000000000";
    let iterator = kinesis.get_shard_iterator().stream_name("rust").shard_id(shard);
    let iterator = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
    let read = kinesis.get_records().set_shard_iterator(iterator.shard_iterator).send().await.unwrap();
    let texts: Vec<&[u8]> = read.records.iter().map(|record| record.data.as_ref()).collect();
    assert_eq!(texts, [b"one", b"two"]);
    let described = kinesis.describe_stream_summary().stream_name("rust").send().await.unwrap();
    let arn = described.stream_description_summary.unwrap().stream_arn;
    let registered =
        kinesis.register_stream_consumer().stream_arn(arn).consumer_name("c").send().await.unwrap();
    let start = StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon).build().unwrap();
    let pushed =
        kinesis.subscribe_to_shard().consumer_arn(registered.consumer.unwrap().consumer_arn).shard_id(shard);
    let mut events = pushed.starting_position(start).send().await.unwrap().event_stream;
    let mut found = Vec::new();
    while found.len() < 2 {
        if let Some(SubscribeToShardEventStream::SubscribeToShardEvent(event)) = events.recv().await.unwrap()
        {
            found.extend(event.records.into_iter().map(|record| record.data.into_inner()));
        }
    }
    assert_eq!(found, [b"one", b"two"]);
}

/// Tests of moto whose expectation is not ours, each with the reason.
const DEVIATIONS: &[(&str, &str)] = &[
    ("test_list_many_streams", "AWS's documentation says 100 names by default, moto gives 10"),
    (
        "test_get_invalid_shard_iterator",
        "AWS tells the whole number of the shard, as moto's comment says too",
    ),
    ("test_put_records", "sequence numbers are like AWS's, not 1"),
    ("test_get_records_after_sequence_number", "sequence numbers are like AWS's, not 3"),
    ("test_get_records_latest", "AWS was recorded to refuse LATEST with a StartingSequenceNumber"),
    ("test_get_records_at_very_new_timestamp", "AWS was recorded to refuse a time of the future"),
    ("test_invalid_shard_iterator_type", "AWS was recorded to tell the values of the enumeration"),
    ("test_merge_shards_invalid_arg", "the error says what is wrong with the shard, not its name alone"),
    ("test_list_shards_paging", "AWS was recorded to refuse NextToken with StreamName"),
    ("test_split_shard_hashkey_out_of_bounds", "the last hash is 2^128 - 1, as AWS was recorded"),
    ("test_enable_enhanced_monitoring_all", "ALL stands for its seven measures, as in AWS's documentation"),
    ("test_put_record_sends_basic_stream_metrics", "asks CloudWatch, which this is not"),
    ("test_put_records_sends_aggregated_stream_metrics", "asks CloudWatch, which this is not"),
    ("test_put_resource_policy", "asks STS, which this is not"),
    ("test_delete_resource_policy", "asks STS, which this is not"),
    ("test_get_resource_policy_from_unknown_resource", "asks STS, which this is not"),
    ("test_delete_resource_policy_from_unknown_resource", "asks STS, which this is not"),
    ("test_register_stream_consumer", "the ARN of a consumer ends in its time, as the service's model says"),
    ("test_describe_stream_consumer_unknown", "the ARN does not have the form of the service's model"),
];

#[test]
fn motos_own_tests_pass_but_for_what_is_listed() {
    let Some(python) = python() else { return };
    let tests = python.parent().unwrap().parent().unwrap().join("moto");
    assert!(tests.exists(), "scripts/test unpacks moto's tests to {tests:?}");
    let project = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
    let server = Serving::configured(
        &project,
        "open_on_loopback = true\nallow_reset = true\naccount = \"123456789012\"",
    );
    let mut command = Command::new(python);
    command.args([
        "-m",
        "pytest",
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "--color=no",
        "-rA",
        "tests/test_kinesis",
    ]);
    // The first starts stacks of CloudFormation, the second moto's own server.
    for other in ["test_kinesis_cloudformation.py", "test_server.py"] {
        command.arg(format!("--ignore=tests/test_kinesis/{other}"));
    }
    command.current_dir(tests).env("TEST_SERVER_MODE", "true").env("TEST_SERVER_MODE_ENDPOINT", server.url());
    let done: Done = command.env("AWS_MAX_ATTEMPTS", "1").output().unwrap().into();
    let named = |outcome: &str| -> Vec<String> {
        let lines = done.out.lines().filter_map(|line| line.strip_prefix(outcome));
        let names = lines.filter_map(|line| line.trim().split("::").nth(1)?.split([' ', '[']).next());
        names.map(str::to_owned).collect()
    };
    let failed = named("FAILED");
    let unexpected: Vec<&String> =
        failed.iter().filter(|name| !DEVIATIONS.iter().any(|(known, _)| known == name)).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}\n{}", done.out);
    let (passed, errors) = (named("PASSED"), named("ERROR"));
    assert!(errors.is_empty(), "{errors:?}");
    assert!(passed.len() >= 60, "{} of moto's tests passed\n{}\n{}", passed.len(), done.out, done.err);
    let healed: Vec<&str> = DEVIATIONS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !failed.iter().any(|failed| failed == name))
        .collect();
    assert!(healed.is_empty(), "these pass and need not be listed: {healed:?}");
}

#[test]
fn firehose_puts_and_plain_http_deliver_to_a_stream() {
    let Some(python) = python() else { return };
    let (project, server, key, secret) = with_a_key();
    assert_eq!(oracle(&python, "firehose_boto3.py", &[&server.url(), &key, &secret]), "ok\n");
    let bearer = format!("Bearer {key}:{secret}");
    let post = |authorization: &str, headers: &[(&str, &str)], body: &[u8]| {
        let headers = [&[("Authorization", authorization)], headers].concat();
        let (status, head, answer) = server.send_to("POST", "/v1/streams/events?key=id", &headers, body);
        (status, head, serde_json::from_slice::<Value>(&answer).unwrap_or(Value::Null))
    };
    let (status, _, answer) = post(&bearer, &[], b"{\"id\":1}\n{\"id\":2}");
    assert_eq!((status, &answer["records"]), (202, &json!(2)), "{answer}");
    assert_eq!(post(&bearer, &[], b"[{\"id\":3},{\"id\":4}]").0, 202);
    let zipped = |level: &str| {
        let script =
            format!("import sys,{level},base64;sys.stdout.buffer.write({level}.compress(b'{{\"id\":5}}'))");
        Command::new(&python).args(["-c", &script]).output().unwrap().stdout
    };
    assert_eq!(post(&bearer, &[("Content-Encoding", "gzip")], &zipped("gzip")).0, 202);
    // What is wrong is told, and nothing of it is kept.
    let (status, _, answer) = post(&bearer, &[], b"{\"id\":6}\nnot json");
    assert_eq!((status, &answer["line"]), (400, &json!(2)));
    assert_eq!(post(&bearer, &[("Content-Encoding", "br")], b"x").0, 415);
    assert_eq!(post(&bearer, &[("Content-Encoding", "gzip")], b"x").0, 400);
    assert_eq!(post(&bearer, &[], &vec![b' '; 20 << 20]).0, 413);
    assert_eq!(post(&bearer, &[], format!("{{\"id\":\"{}\"}}", "x".repeat(2 << 20)).as_bytes()).0, 413);
    assert_eq!(post(&format!("Bearer {key}:x"), &[], b"{\"id\":7}").0, 401);
    assert_eq!(post("", &[], b"{\"id\":7}").0, 401);
    drop(server);
    let out = project.call(&["stream", "peek", "events", "--json"]).exits(0).out;
    let mut data: Vec<String> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["data"].as_str().unwrap().to_owned())
        .collect();
    data.sort();
    assert_eq!(data[..2], ["batch 0", "batch 1"]);
    assert_eq!(data[3..], ["{\"id\":1}", "{\"id\":2}", "{\"id\":3}", "{\"id\":4}", "{\"id\":5}"]);
}
