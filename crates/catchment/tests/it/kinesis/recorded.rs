//! Requests whose answers were recorded.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Serving;
use crate::project::{Project, repository};

/// The recorded cases; `None` when there are none and nobody insists.
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment where recorded cases are")]
fn cases() -> Option<Vec<Value>> {
    let folder = std::env::var_os("CATCHMENT_CONFORMANCE")
        .map_or_else(|| repository().join("../shared/conformance"), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("kinesis_error_cases.jsonl")) else {
        assert!(std::env::var_os("CI").is_none(), "no recorded cases in {folder:?}");
        eprintln!("skipped: no recorded cases in {folder:?}");
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Why a case is not held against us; `None` for one that is.
fn excluded(case: &Value) -> Option<&'static str> {
    let text = |key: &str| case[key].as_str().unwrap_or_default();
    let (message, body) = (text("message"), text("body"));
    if message.contains("Value null at 'streamName'") && !text("target").ends_with("CreateStream") {
        return Some("StreamName is not required since there is StreamARN");
    }
    if message.contains("Value null at 'shardCount'") {
        return Some("ShardCount is not required since there are streams on demand");
    }
    if message.contains("HeapByteBuffer") {
        return Some("larger records are told without a value since, as moto has it");
    }
    if case["body_omitted"] == true {
        return Some("the body was too large to be recorded");
    }
    if message.contains("less than or equal to 10 ")
        || message.ends_with("less than or equal to 10")
        || message.contains("equal to 10;")
    {
        return Some("a stream has 50 tags since");
    }
    if message.contains("less than or equal to 168") {
        return Some("records are kept for up to 8760 hours since");
    }
    if message.contains("Current shard count for the account: 3. Limit: 10.") {
        return Some("the account of the recording had ten shards");
    }
    if message.contains("instead in state") {
        return Some("streams are made and changed at once here");
    }
    if body.contains("AAAAAAAAAAEeBmHe6u2B") {
        return Some("an iterator of another service");
    }
    if body.contains("1795311554.9") {
        return Some("the time of the recording is past");
    }
    if text("type") == "InternalFailure" {
        return Some("a failure of the service is not imitated");
    }
    if body.contains("49039857307708443467467104868809893875799651944235008002")
        || body.contains("\"StartingSequenceNumber\":\"5\"")
    {
        return Some("numbers that are none of a stream's are said to be invalid");
    }
    None
}

/// The stream of the recording that was there.
const NAME: &str = "__kinesalite_test_3274366663882329";

/// What the recorded cases found when they were sent: a stream of three shards under the name that they used.
fn prepare(server: &Serving) {
    assert_eq!(server.call("CreateStream", &json!({ "StreamName": NAME, "ShardCount": 3 })).0, 200);
}

#[test]
fn recorded_errors_are_answered_as_they_were() {
    let Some(cases) = cases() else { return };
    let project = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
    let server = Serving::configured(&project, "open_on_loopback = true");
    let signed = Serving::start({
        let other = Project::new("CREATE VIEW a.b AS SELECT 1 AS n;");
        other.write("catchment.toml", "[server]\nlisten = \"127.0.0.1:0\"\n");
        let mut command = other.command(&["serve", "--json"]);
        command.current_dir(other.folder.keep());
        command
    });
    prepare(&server);
    let (mut held, mut left_out, mut wrong) = (0, 0, Vec::new());
    for case in &cases {
        if excluded(case).is_some() {
            left_out += 1;
            continue;
        }
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        if text("message") == format!("Stream {NAME} under account 000000000000 not found.") {
            // By then the suite had deleted it.
            server.call("DeleteStream", &json!({ "StreamName": NAME }));
        }
        let server = if text("type") == "MissingAuthenticationTokenException" { &signed } else { &server };
        let mut headers = vec![("Content-Type", text("content_type"))];
        // Those of connections have no target recorded; the suite sent one where the name of the test says so.
        let is_listing = text("target").is_empty()
            && !text("test").contains("no target")
            && !text("test").contains("Content-Type");
        headers
            .push(("X-Amz-Target", if is_listing { "Kinesis_20131202.ListStreams" } else { text("target") }));
        let (status, head, body) = server.send("POST", &headers, text("body").as_bytes());
        let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let kind = answer["__type"].as_str().or(answer["Output"]["__type"].as_str()).unwrap_or_default();
        let told = answer["message"].as_str().or(answer["Message"].as_str());
        let is_cbor = case["type"].is_null() && head.contains("x-amz-cbor");
        let is_right = u64::from(status) == case["status"].as_u64().unwrap()
            && (is_cbor || case["type"].is_null() || kind == text("type"))
            && (is_cbor || told == case["message"].as_str());
        if is_right {
            held += 1;
        } else {
            wrong.push(format!(
                "{} {}\n  wanted {} {} {}\n  got {status} {kind} {told:?}",
                text("target"),
                text("body"),
                case["status"],
                text("type"),
                case["message"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(held > 240, "{held} cases, {left_out} left out");
}
