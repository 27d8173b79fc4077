//! The example of clicks: events of a real shop come by both producers and are counted everywhere.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kinesis::Serving;
use crate::project::{Done, Project, oracle, python};

/// Events that each producer sends.
const BY_PROGRAM: u64 = 3_000;
const BY_BOTO3: u64 = 1_000;

#[test]
fn clicks_are_counted_live_in_windows_and_in_the_lake() {
    let Some(python) = python() else { return };
    let project = Project::copy_of("examples/clickstream");
    let config = std::fs::read_to_string(project.path().join("catchment.toml")).unwrap();
    project.write("catchment.toml", config.replace("127.0.0.1:4566", "127.0.0.1:0"));
    let mut serving = Serving::start(project.command(&["serve", "--json"]));
    let file = "data/ecom.csv.gz";
    let (program, boto3) = (BY_PROGRAM.to_string(), BY_BOTO3.to_string());
    let arguments = [
        "replay-events",
        file,
        "--json",
        "--stream",
        "clicks",
        "--key",
        "user_id",
        "--now",
        "timestamp",
        "--rate",
        "2000",
        "--limit",
        &program,
        "--endpoint",
        &serving.url(),
    ];
    let begun = Instant::now();
    let sent = project.call(&arguments).exits(0).json();
    assert_eq!(sent["sent"], BY_PROGRAM);
    // As fast as it was asked for, and not faster.
    assert!(begun.elapsed() >= Duration::from_millis(1_450), "{sent}");
    let done: Done = Command::new(&python)
        .arg(project.path().join("producer.py"))
        .args(["--endpoint", &serving.url(), "--rate", "2000", "--limit", &boto3])
        .output()
        .unwrap()
        .into();
    assert!(done.exits(0).out.contains("sent 1000 events"));

    // What Python counts of the same lines of the file.
    let counted =
        oracle(&python, "clicks.py", &[project.path().join(file).to_str().unwrap(), &program, &boto3]);
    let counted: BTreeMap<String, Value> = serde_json::from_str(&counted).unwrap();
    let live = |page: &str| -> Value {
        let answer = serving.send_to("GET", &format!("/v1/tables/live.pages/{page}"), &[], b"");
        serde_json::from_slice(&answer.2).unwrap_or(Value::Null)
    };
    let begun = Instant::now();
    for (page, wanted) in &counted {
        while json!([live(page)["clicks"], live(page)["users"]]) != *wanted {
            assert!(begun.elapsed() < Duration::from_secs(30), "{page}: {} is not {wanted}", live(page));
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
    let page = serving.send_to("GET", "/", &[], b"").2;
    let page = String::from_utf8(page).unwrap();
    for part in ["Clicks by platform", "product_view", "<path class=\"line s0\"", "main.spike"] {
        assert!(page.contains(part), "{part}");
    }
    // Alerts are asked once in a second: the last one may not have been when the last click was counted.
    let raised = "SELECT (SELECT count(*) FROM system.alerts WHERE alert = 'main.spike') = (SELECT count(*) FROM live.minutes WHERE clicks > 1000) AS all_raised";
    while project.query(raised) != json!([{ "all_raised": true }]) {
        assert!(begun.elapsed() < Duration::from_secs(60), "not every alert was raised");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(serving.terminate(), Some(0));
    let total = BY_PROGRAM + BY_BOTO3;
    for sum in [
        "SELECT count(*) AS n FROM raw.clicks",
        "SELECT sum(clicks) AS n FROM live.minutes",
        "SELECT sum(clicks) AS n FROM live.five_minutes",
        "SELECT sum(clicks) AS n FROM live.hours",
        "SELECT sum(n) AS n FROM (SELECT coalesce(sum(views), 0) AS n FROM windows.minutes
            UNION ALL SELECT max(held_rows) FROM system.windows WHERE flow = 'windows.minutes')",
    ] {
        assert_eq!(project.query(sum), json!([{ "n": total }]), "{sum}");
    }
    let minutes = project.query("SELECT count(*) AS n FROM live.minutes WHERE clicks > 1000")[0]["n"].clone();
    let alerts = "SELECT count(*) AS alerts, count(DISTINCT \"key\") AS keys FROM system.alerts WHERE alert = 'main.spike'";
    assert_eq!(project.query(alerts), json!([{ "alerts": minutes, "keys": minutes }]));
    assert_eq!(project.query("SELECT count(DISTINCT id) AS n FROM spikes"), json!([{ "n": minutes }]));
    let rows =
        "SELECT count(*) AS n, count(DISTINCT user_id) AS users FROM raw.clicks WHERE event = 'purchase'";
    assert_eq!(json!([project.query(rows)[0]["n"], project.query(rows)[0]["users"]]), counted["purchase"]);
}

#[test]
fn what_cannot_be_sent_is_told() {
    let project = Project::new("CREATE STREAM clicks (a BIGINT);");
    project.write("events.jsonl", "{\"a\":1}\n\n{\"a\":2}\nnothing\n");
    let call = |arguments: &[&str]| {
        let mut all = vec!["replay-events", "events.jsonl", "--stream", "clicks"];
        all.extend(arguments);
        project.call(&all)
    };
    let nobody = call(&["--endpoint", "http://127.0.0.1:1"]).exits(1);
    assert!(nobody.err.contains("C3002") || nobody.err.contains("C5001"), "{}", nobody.err);
    let serving = Serving::configured(&project, "open_on_loopback = true");
    let broken = call(&["--endpoint", &serving.url()]).exits(1);
    assert!(broken.err.contains("event 3 is none"), "{}", broken.err);
    let keyless = call(&["--endpoint", &serving.url(), "--key", "b"]).exits(1);
    assert!(
        keyless.err.contains("no field \"b\"") && keyless.err.contains("its fields: a"),
        "{}",
        keyless.err
    );
    let stream = project.call(&[
        "replay-events",
        "events.jsonl",
        "--stream",
        "none",
        "--limit",
        "1",
        "--endpoint",
        &serving.url(),
    ]);
    assert!(stream.exits(1).err.contains("ResourceNotFoundException"));
    assert_eq!(call(&["--endpoint", &serving.url(), "--limit", "2", "--json"]).exits(0).json()["sent"], 2);
    call(&["--rate", "0"]).exits(2);
    call(&["--rate", "1e-20"]).exits(2);
    // What was read before something broken is sent, and that is said.
    assert!(broken.err.contains("2 events before it were sent"), "{}", broken.err);
    // Numbers of CSV are numbers, and what would not be the same is text.
    project.write("events.csv", "\u{feff}a,b\n1,007\n-2.5,\n");
    let csv = ["replay-events", "events.csv", "--stream", "clicks", "--endpoint", &serving.url()];
    project.call(&csv).exits(0);
    let sent = project.call(&["stream", "peek", "clicks", "--limit", "20", "--json"]).exits(0).out;
    for data in ["{\\\"a\\\":1,\\\"b\\\":\\\"007\\\"}", "{\\\"a\\\":-2.5,\\\"b\\\":null}"] {
        assert!(sent.contains(data), "{data}: {sent}");
    }
}
