//! Tables that follow streams: what was acknowledged is in them, once, through kills and reshards.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Serving;
use crate::crash::disk::Disk;
use crate::project::{Done, Project};

const PIPELINE: &str = "
CREATE STREAMING TABLE raw.clicks (CONSTRAINT known EXPECT (k < 6) ON VIOLATION QUARANTINE) PARTITIONED BY (k) AS
  SELECT n, k, _metadata.sequence_number AS sequence_number
  FROM STREAM read_stream('clicks', schema => 'n BIGINT, k BIGINT', maxBytesPerTrigger => '2KB');
CREATE STREAMING TABLE curated.clicks AS SELECT n, k * 10 AS k FROM STREAM raw.clicks;
CREATE MATERIALIZED VIEW sums.clicks AS SELECT k, count(*) AS n FROM curated.clicks GROUP BY k;";

const CONFIG: &str = "[engine]\nthreads = 2\nretries = 0\n[maintenance]\ncheckpoint_after = 4\nminimum_files = 3\nkept_plans = 4\n";

fn put(project: &Project, lines: &str) {
    let mut command = project.command(&["stream", "put", "clicks", "--key", "k"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let done: Done = child.wait_with_output().unwrap().into();
    done.exits(0);
}

/// Finishes what was killed. What went into quarantine may have been told by the run that was killed.
fn run(project: &Project) {
    let done = project.call(&["run"]);
    assert!(matches!(done.code, Some(0 | 2)), "{}{}", done.out, done.err);
}

/// The tables hold the numbers below `count`, and quarantine those whose key is 6.
pub(crate) fn check(project: &Project, count: i64, when: &str) {
    let good = |number: &i64| number % 7 != 6;
    let expected: Vec<Value> = (0..count).filter(good).map(|n| json!({ "n": n, "k": n % 7 * 10 })).collect();
    assert_eq!(project.query("SELECT n, k FROM curated.clicks ORDER BY n"), json!(expected), "{when}");
    let bad: Vec<Value> = (0..count)
        .filter(|n| !good(n))
        .map(|n| json!({ "record": format!("{{\"n\":{n},\"k\":6}}") }))
        .collect();
    let held = "SELECT record FROM raw.clicks__quarantine ORDER BY CAST(regexp_match(record, '[0-9]+')[1] AS BIGINT)";
    assert_eq!(project.query(held), json!(bad), "{when}");
    let places = "SELECT count(DISTINCT file_path) AS n FROM raw.clicks__quarantine WHERE file_path LIKE 'clicks/shardId-%/4%' OR file_path LIKE 'clicks/_/%'";
    assert_eq!(project.query(places)[0]["n"], json!(bad.len()), "{when}");
    let twice =
        "SELECT count(*) AS n FROM (SELECT sequence_number FROM raw.clicks GROUP BY 1 HAVING count(*) > 1)";
    assert_eq!(project.query(twice)[0]["n"], 0, "{when}");
}

fn survive(forgets: bool) {
    let project = Project::new(PIPELINE);
    project.write("catchment.toml", CONFIG);
    project.call(&["stream", "create", "clicks", "--shards", "2"]).exits(0);
    let disk = forgets.then(|| Disk::new(project.path()));
    let (mut count, mut kills) = (0, 0);
    for round in 0..14_i64 {
        let lines: String = (count..count + 60).map(|n| format!("{{\"n\":{n},\"k\":{}}}\n", n % 7)).collect();
        put(&project, &lines);
        count += 60;
        if round % 3 == 1 {
            let shards = (1 + round % 4).to_string();
            project.call(&["stream", "reshard", "clicks", "--to", &shards]).exits(0);
        }
        let mut command = project.command(&["run"]);
        command.env("CATCHMENT_FAULT", format!("any:{}:abort", 3 + (round * 17) % 60));
        if let Some(disk) = &disk {
            disk.settle();
            disk.below(&mut command);
        }
        kills += u32::from(command.output().unwrap().status.code().is_none());
        if let Some(disk) = &disk {
            disk.lose_power();
        }
        if round % 4 == 3 {
            run(&project);
            check(&project, count, &format!("round {round}"));
        }
    }
    assert!(kills >= 10, "{kills} kills");
    run(&project);
    check(&project, count, "the end");
    // A full refresh reads again what the stream still keeps.
    project.call(&["run", "--full-refresh"]).exits(2);
    check(&project, count, "after a full refresh");
    // Mended, the quarantine is replayed as it stands.
    project.write("pipelines/all.sql", PIPELINE.replace("k < 6", "k < 7"));
    project.call(&["replay", "raw.clicks"]).exits(0);
    project.call(&["run"]).exits(0);
    assert_eq!(
        project.query("SELECT count(DISTINCT n) AS d, count(*) AS n FROM curated.clicks"),
        json!([{ "d": count, "n": count }])
    );
}

#[test]
fn kills_and_reshards_lose_and_repeat_nothing_in_a_table() {
    survive(false);
}

#[test]
fn power_cuts_and_reshards_lose_and_repeat_nothing_in_a_table() {
    survive(true);
}

#[test]
fn a_service_keeps_tables_up_to_date_and_publishes_before_it_ends() {
    let project = Project::new(PIPELINE);
    project.call(&["stream", "create", "clicks", "--shards", "2"]).exits(0);
    let mut server =
        Serving::configured(&project, "open_on_loopback = true\n[streams]\nbuffer_milliseconds = 200");
    let started = Instant::now();
    let mut count = 0;
    let mut put = |server: &Serving, more: i64| {
        for first in (count..count + more).step_by(50) {
            let records: Vec<Value> = (first..first + 50)
                .map(|n| json!({ "PartitionKey": (n % 7).to_string(), "Data": base64(&format!("{{\"n\":{n},\"k\":{}}}", n % 7)) }))
                .collect();
            assert_eq!(
                server.call("PutRecords", &json!({ "StreamName": "clicks", "Records": records })).0,
                200
            );
        }
        count += more;
        count
    };
    let total = put(&server, 500);
    let good = (0..total).filter(|n| n % 7 != 6).count();
    let seen =
        |project: &Project| project.call(&["sql", "--json", "SELECT count(*) AS n FROM curated.clicks"]);
    // Nothing else may write meanwhile, and everything may read.
    loop {
        let found = seen(&project);
        if found.code == Some(0) && found.json()[0]["n"] == good {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{} {}", found.out, found.err);
    }
    let get = |path: &str| {
        let (status, _, body) = server.send_to("GET", path, &[], b"");
        (status, String::from_utf8(body).unwrap())
    };
    assert_eq!((get("/health").0, get("/ready").0), (200, 200));
    // Rows can be read before the run that published them is counted.
    let measures = loop {
        let measures = get("/metrics").1;
        if measures.contains("catchment_dataset_rows_total{dataset=\"curated.clicks\"} 429\n") {
            break measures;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{measures}");
    };
    // The flow of the table has published everything, and the shards say how much that was.
    let sum = |name: &str| -> usize {
        let lines = measures.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
    };
    assert_eq!(
        (sum("catchment_stream_records_total"), sum("catchment_flow_lag_records")),
        (500, 0),
        "{measures}"
    );
    assert!(measures.contains("catchment_flow_lag_milliseconds{flow=\"raw.clicks\",stream=\"clicks\",shard=\"shardId-000000000001\"} 0"));
    for phase in ["plan", "stage", "publish"] {
        let name =
            format!("catchment_dataset_phase_seconds_total{{dataset=\"raw.clicks\",phase=\"{phase}\"}} ");
        let seconds =
            measures.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<f64>().unwrap();
        assert!(seconds > 0.0 && seconds < 60.0, "{phase}: {seconds}");
    }
    assert!(project.call(&["run"]).exits(1).err.contains("C4001"));
    server.call("SplitShard", &json!({ "StreamName": "clicks", "ShardToSplit": "shardId-000000000000", "NewStartingHashKey": "1000000" }));
    let total = put(&server, 350);
    // What was acknowledged when it is asked to end is in the table when it has ended.
    assert_eq!(server.terminate(), Some(0));
    check(&project, total, "after the end");
    assert_eq!(
        project.query("SELECT sum(n) AS n FROM sums.clicks")[0]["n"],
        (0..total).filter(|n| n % 7 != 6).count()
    );
}

#[test]
fn records_are_held_to_a_json_schema_where_they_come_in_and_where_they_are_read() {
    let project = Project::new(
        "CREATE STREAMING TABLE raw.clicks AS SELECT n FROM STREAM read_stream('clicks', schema => 'n BIGINT', jsonSchema => 'schemas/click.json');",
    );
    let schema = |most: i64| {
        let schema = json!({
            "type": "object", "required": ["n"], "properties": { "n": { "type": "integer", "maximum": most } },
        });
        project.write("schemas/click.json", schema.to_string());
    };
    schema(10);
    project.call(&["stream", "create", "clicks"]).exits(0);
    let settings = "open_on_loopback = true\n[streams]\nbuffer_milliseconds = 100\njson_schemas = { clicks = \"schemas/click.json\" }";
    let mut server = Serving::configured(&project, settings);
    let post = |body: &str| {
        let (status, _, answer) = server.send_to("POST", "/v1/streams/clicks", &[], body.as_bytes());
        (status, serde_json::from_slice::<Value>(&answer).unwrap())
    };
    assert_eq!(post("{\"n\":1}\n{\"n\":2}").0, 202);
    for (body, line, why) in [
        ("{\"n\":3}\n{\"n\":11}", 2, "maximum of 10"),
        ("{\"m\":3}", 1, "\"n\" is a required property"),
        ("[{\"n\":3},{\"n\":\"x\"}]", 2, "\"integer\""),
    ] {
        let (status, answer) = post(body);
        assert_eq!((status, &answer["line"]), (400, &json!(line)), "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(why), "{answer}");
    }
    // Kinesis knows no such refusal: what does not fit is kept apart when it is read.
    for data in ["{\"n\":4}", "{\"n\":12}"] {
        let record = json!({ "StreamName": "clicks", "PartitionKey": "k", "Data": base64(data) });
        assert_eq!(server.call("PutRecord", &record).0, 200);
    }
    assert_eq!(server.terminate(), Some(0));
    let rows = || project.query("SELECT n FROM raw.clicks ORDER BY n");
    assert_eq!(rows(), json!([{ "n": 1 }, { "n": 2 }, { "n": 4 }]));
    let held = project.query("SELECT record, reason FROM raw.clicks__quarantine");
    assert_eq!(held[0]["record"], "{\"n\":12}");
    assert!(
        held[0]["reason"].as_str().unwrap().contains("/n: 12 is greater than the maximum of 10"),
        "{held}"
    );
    // Replayed, it is held to the schema as that is then.
    project.call(&["replay", "raw.clicks"]);
    assert_eq!(rows().as_array().unwrap().len(), 3);
    schema(20);
    project.call(&["replay", "raw.clicks"]).exits(0);
    assert_eq!(rows(), json!([{ "n": 1 }, { "n": 2 }, { "n": 4 }, { "n": 12 }]));
    project.write("schemas/click.json", "{\"type\": 7}");
    assert!(project.call(&["check"]).exits(1).err.contains("C2011"));
    assert!(project.call(&["serve"]).exits(1).err.contains("JSON Schema"));
}

/// Base64, as JSON requests hold data.
pub(crate) fn base64(text: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bytes = [chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
        let bits = u32::from(bytes[0]) << 16 | u32::from(bytes[1]) << 8 | u32::from(bytes[2]);
        for place in 0..4 {
            let letter = char::from(LETTERS[(bits >> (18 - 6 * place) & 63) as usize]);
            encoded.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    encoded
}
