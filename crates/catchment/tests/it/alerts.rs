//! Alerts: raised once, told to whoever is named, through targets that are down and programs that are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kinesis::flows::base64;
use crate::kinesis::{Serving, call};
use crate::objects::Server;
use crate::project::{Killed, Project, oracle, python};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLwSw";

/// How long a message may take that should come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whoever is told: webhooks and mails, written with others' libraries.
struct Receiving {
    _process: Killed,
    _stdin: ChildStdin,
    lines: Receiver<Value>,
    webhook: u64,
    mail: u64,
}

impl Receiving {
    fn start(python: &PathBuf, project: &Project) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/receive.py");
        let mut process = Command::new(python)
            .arg(script)
            .arg(SECRET)
            .arg(project.path().join("mode"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = serde_json::from_str(&line.unwrap()).unwrap();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let ports: Value = lines.recv_timeout(PATIENCE).unwrap();
        let port = |kind: &str| ports[kind].as_u64().unwrap();
        let (webhook, mail) = (port("webhook"), port("mail"));
        Self { _process: Killed(process), _stdin: stdin, lines, webhook, mail }
    }

    /// The next message of a kind; others before it are left out.
    fn next(&self, kind: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {kind} comes"));
            if line["kind"] == kind {
                return line;
            }
        }
    }

    /// What has come by now.
    fn so_far(&self) -> Vec<Value> {
        self.lines.try_iter().collect()
    }
}

const PIPELINE: &str = "CREATE STREAM clicks (page VARCHAR, n BIGINT);
    CREATE STREAM feed (id VARCHAR, alert VARCHAR, severity VARCHAR);
    CREATE SERVING TABLE live.pages PRIMARY KEY (page) AS SELECT page, sum(n) AS n FROM STREAM clicks GROUP BY page;
    CREATE ALERT spike ON (SELECT page, n FROM live.pages WHERE n > 1000) NOTIFY TARGETS KEY (page) EVERY INTERVAL '50' MILLISECOND SEVERITY critical;";

/// A project whose alert tells `targets`.
fn project(targets: &str) -> Project {
    Project::new(&PIPELINE.replace("TARGETS", targets))
}

/// Serves it, with these targets.
fn serve(project: &Project, targets: &str, environment: &[(&str, &str)]) -> Serving {
    let config = format!(
        "[engine]\nthreads = 2\n[streams]\nbuffer_milliseconds = 50\n[server]\nlisten = \"127.0.0.1:0\"\nopen_on_loopback = true\n{targets}"
    );
    project.write("catchment.toml", config);
    let mut command = project.command(&["serve", "--json"]);
    command.env("HOOK_SECRET", SECRET).envs(environment.iter().copied());
    Serving::start(command)
}

fn hook(receiving: &Receiving) -> String {
    let port = receiving.webhook;
    format!("[notify.hook]\nwebhook = \"http://127.0.0.1:{port}/\"\nsecret = \"${{env:HOOK_SECRET}}\"\n")
}

/// Puts a record into the stream of clicks, once it is there.
fn click(port: u16, page: &str, n: i64) {
    let data = base64(&json!({ "page": page, "n": n }).to_string());
    let body = json!({ "StreamName": "clicks", "PartitionKey": page, "Data": data });
    let (status, answer) = call(port, "PutRecord", &body);
    assert_eq!(status, 200, "{answer}");
}

/// Asks until the answer is as wanted.
fn until(project: &Project, sql: &str, wanted: &Value) {
    let begun = Instant::now();
    loop {
        let rows = project.query(sql);
        if rows == *wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{sql}: {rows} is not {wanted}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn every_kind_of_target_is_told_once_of_what_stays() {
    let (Some(python), Some(aws)) = (python(), Server::start()) else { return };
    let topic = oracle(&python, "topic.py", &[aws.endpoint(), "make"]);
    let project = project("hook, mail, topic, feed");
    let receiving = Receiving::start(&python, &project);
    let targets = format!(
        "{}[notify.mail]\nsmtp = \"smtp://127.0.0.1:{}\"\nfrom = \"Catchment <c@example.com>\"\nto = [\"ops@example.com\", \"b@example.com\"]\n[notify.topic]\nsns = \"{}\"\nendpoint = \"{}\"\n[notify.feed]\nstream = \"feed\"\n",
        hook(&receiving),
        receiving.mail,
        topic.trim(),
        aws.endpoint()
    );
    let login = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let mut serving = serve(&project, &targets, &login);
    click(serving.port, "home", 1000);
    click(serving.port, "home", 1);
    click(serving.port, "ä \"quoted\"", 7);
    let told = receiving.next("webhook")["message"].clone();
    assert_eq!(
        json!([told["alert"], told["severity"], told["row"]]),
        json!(["main.spike", "critical", { "page": "home", "n": 1001 }])
    );
    assert_eq!(told["text"], "main.spike (critical): page = home, n = 1001");
    let mail = receiving.next("mail");
    assert_eq!(
        json!([mail["sender"], mail["to"]]),
        json!(["c@example.com", ["ops@example.com", "b@example.com"]])
    );
    let text = mail["text"].as_str().unwrap();
    let id = told["id"].as_str().unwrap();
    for part in ["Subject: main.spike (critical)", "page  home", "n     1001", id] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let heard: Value =
        serde_json::from_str(&oracle(&python, "topic.py", &[aws.endpoint(), "take", "1"])).unwrap();
    assert_eq!(
        json!([heard[0]["message"], heard[0]["subject"], heard[0]["severity"]]),
        json!([told, "main.spike (critical)", "critical"])
    );
    let told_of = "SELECT count(*) AS n FROM system.notifications WHERE status = 'sent'";
    until(&project, told_of, &json!([{ "n": 4 }]));
    // The count grows, and the alert is the same; another key is another one.
    click(serving.port, "home", 500);
    click(serving.port, "ä \"quoted\"", 5000);
    let second = receiving.next("webhook")["message"].clone();
    assert_eq!(second["row"], json!({ "page": "ä \"quoted\"", "n": 5007 }));
    until(&project, told_of, &json!([{ "n": 8 }]));
    // A row that goes ends its alert.
    click(serving.port, "home", -1000);
    let open = "SELECT \"key\" FROM system.alerts WHERE resolved_at IS NULL";
    until(&project, open, &json!([{ "key": "[\"ä \\\"quoted\\\"\"]" }]));
    // Without a silence it is told again when it comes back.
    click(serving.port, "home", 5000);
    assert_eq!(receiving.next("webhook")["message"]["row"]["n"], 5501);
    until(&project, told_of, &json!([{ "n": 12 }]));
    assert_eq!(serving.terminate(), Some(0));
    let fed = project.query("SELECT alert, severity, count(DISTINCT id) AS n FROM feed GROUP BY ALL");
    assert_eq!(fed, json!([{ "alert": "main.spike", "severity": "critical", "n": 3 }]));
    let all = "SELECT count(*) AS alerts, count(DISTINCT id) AS ids FROM system.alerts";
    assert_eq!(project.query(all), json!([{ "alerts": 3, "ids": 3 }]));
}

#[test]
fn a_target_that_is_down_or_slow_loses_no_alert_and_holds_nobody_up() {
    let Some(python) = python() else { return };
    let project = project("hook, mail");
    let receiving = Receiving::start(&python, &project);
    let mail = format!(
        "[notify.mail]\nsmtp = \"smtp://127.0.0.1:{}\"\nfrom = \"c@example.com\"\nto = [\"ops@example.com\"]\n",
        receiving.mail
    );
    let targets = hook(&receiving) + &mail;
    for mode in ["down", "slow"] {
        project.write("mode", mode);
        let mut serving = serve(&project, &targets, &[]);
        for page in 0..5 {
            click(serving.port, &format!("{mode} {page}"), 2000);
        }
        // Who is well is told, and the flow goes on.
        for _ in 0..5 {
            receiving.next("mail");
        }
        let waiting =
            "SELECT count(*) AS n FROM system.notifications WHERE status = 'waiting' AND target = 'hook'";
        assert_eq!(project.query(waiting), json!([{ "n": 5 }]));
        let (status, _, row) = serving.send_to("GET", &format!("/v1/tables/live.pages/{mode}%204"), &[], b"");
        assert_eq!((status, serde_json::from_slice::<Value>(&row).unwrap()["n"].as_i64()), (200, Some(2000)));
        if mode == "down" {
            receiving.next("refused");
            let why =
                "SELECT DISTINCT error FROM system.notifications WHERE attempts > 0 AND target = 'hook'";
            let why = project.query(why).to_string();
            assert!(why.contains("500 Internal Server Error: out of order"), "{why}");
        }
        std::fs::remove_file(project.path().join("mode")).unwrap();
        let told: BTreeSet<String> =
            (0..5).map(|_| receiving.next("webhook")["message"]["row"]["page"].to_string()).collect();
        assert_eq!(told.len(), 5);
        until(&project, waiting, &json!([{ "n": 0 }]));
        assert_eq!(serving.terminate(), Some(0));
    }
}

#[test]
fn kills_raise_nothing_twice_and_lose_nothing() {
    let Some(python) = python() else { return };
    let project = project("hook");
    let receiving = Receiving::start(&python, &project);
    let targets = hook(&receiving);
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut hear = |lines: Vec<Value>| {
        for line in lines.iter().filter(|line| line["kind"] == "webhook") {
            let message = &line["message"];
            let page = message["row"]["page"].to_string();
            told.entry(page).or_default().insert(message["id"].to_string());
        }
    };
    for round in 0..8_u64 {
        let serving = serve(&project, &targets, &[]);
        for page in 0..3 {
            click(serving.port, &format!("{round} {page}"), 2000);
        }
        // At another moment each time: from before it was looked at until after it was told.
        std::thread::park_timeout(Duration::from_millis(round * 37));
        drop(serving);
        hear(receiving.so_far());
    }
    let mut serving = serve(&project, &targets, &[]);
    let all = "SELECT count(*) AS alerts, count(DISTINCT \"key\") AS keys FROM system.alerts";
    until(&project, all, &json!([{ "alerts": 24, "keys": 24 }]));
    let waiting = "SELECT count(*) AS n FROM system.notifications WHERE status <> 'sent'";
    until(&project, waiting, &json!([{ "n": 0 }]));
    assert_eq!(serving.terminate(), Some(0));
    hear(receiving.so_far());
    // Each was told, and whoever was told twice was told of the same one.
    assert_eq!(told.len(), 24);
    assert!(told.values().all(|ids| ids.len() == 1), "{told:?}");
}

#[test]
fn a_message_that_is_refused_keeps_none_behind_it_from_being_sent() {
    let Some(python) = python() else { return };
    let project = project("hook");
    let receiving = Receiving::start(&python, &project);
    project.write("catchment.toml", hook(&receiving));
    project.write("mode", "down bad");
    let run = || {
        project.command(&["run"]).env("HOOK_SECRET", SECRET).output().map(crate::project::Done::from).unwrap()
    };
    run().exits(0);
    let mut put = project.command(&["stream", "put", "clicks"]).stdin(Stdio::piped()).spawn().unwrap();
    for page in ["a bad", "b bad", "c", "d"] {
        writeln!(put.stdin.as_mut().unwrap(), "{}", json!({ "page": page, "n": 2000 })).unwrap();
    }
    drop(put.stdin.take());
    assert!(put.wait().unwrap().success());
    run().exits(0);
    let told: Vec<Value> =
        receiving.so_far().iter().map(|line| line["message"]["row"]["page"].clone()).collect();
    assert_eq!(told, [Value::Null, Value::Null, json!("c"), json!("d")]);
    let status = "SELECT status, count(*) AS n FROM system.notifications GROUP BY status ORDER BY status";
    assert_eq!(project.query(status), json!([{ "status": "sent", "n": 2 }, { "status": "waiting", "n": 2 }]));
}

#[test]
fn runs_raise_alerts_too_and_what_is_given_up_can_be_sent_again() {
    let Some(python) = python() else { return };
    let project = project("hook");
    let receiving = Receiving::start(&python, &project);
    let targets = hook(&receiving);
    project.write("catchment.toml", format!("[alerts]\ngive_up_hours = 0\n{targets}"));
    project.write("mode", "down");
    // It may be set where the project runs.
    let checked = project.call(&["check"]).exits(0);
    assert!(
        checked.out.contains("notify.hook: secret: variable HOOK_SECRET of the environment is not set"),
        "{}",
        checked.out
    );
    let unset = project.call(&["run"]).exits(1);
    assert!(unset.err.contains("HOOK_SECRET") && unset.out.contains("live.pages"), "{}", unset.err);
    let mut put = project.command(&["stream", "put", "clicks"]);
    let mut put = put.stdin(Stdio::piped()).spawn().unwrap();
    writeln!(put.stdin.take().unwrap(), "{}", json!({ "page": "home", "n": 2000 })).unwrap();
    assert!(put.wait().unwrap().success());
    let call = |arguments: &[&str]| {
        project
            .command(arguments)
            .env("HOOK_SECRET", SECRET)
            .output()
            .map(crate::project::Done::from)
            .unwrap()
    };
    let ran = call(&["run"]).exits(0);
    assert!(ran.err.contains("1 alerts raised") && ran.err.contains("C8001"), "{}", ran.err);
    assert!(!ran.err.contains(SECRET) && !ran.out.contains(SECRET));
    let status = "SELECT status, attempts FROM system.notifications";
    assert_eq!(project.query(status), json!([{ "status": "dead", "attempts": 1 }]));
    let refused = call(&["alert", "test", "hook"]).exits(1);
    assert!(refused.err.contains("C8001") && refused.err.contains("out of order"), "{}", refused.err);
    std::fs::remove_file(project.path().join("mode")).unwrap();
    call(&["run"]).exits(0);
    assert_eq!(project.query(status), json!([{ "status": "dead", "attempts": 1 }]));
    assert_eq!(call(&["alert", "retry", "--json"]).exits(0).json(), json!({ "retried": 1 }));
    call(&["run"]).exits(0);
    assert_eq!(project.query(status), json!([{ "status": "sent", "attempts": 1 }]));
    assert_eq!(receiving.next("webhook")["message"]["row"]["page"], "home");
    call(&["alert", "test", "hook"]).exits(0);
    assert_eq!(receiving.next("webhook")["message"]["alert"], "test");
    // A variable that is not set is named, before anything is sent.
    let without = project.call(&["alert", "test", "hook"]).exits(1);
    assert!(without.err.contains("C1002") && without.err.contains("HOOK_SECRET"), "{}", without.err);
    // What is not declared any more is over.
    project.write("pipelines/all.sql", "CREATE STREAM clicks (page VARCHAR, n BIGINT);");
    call(&["run"]).exits(0);
    let open = "SELECT count(*) AS n FROM system.alerts WHERE resolved_at IS NULL";
    assert_eq!(project.query(open), json!([{ "n": 0 }]));
}

#[test]
fn what_is_no_alert_is_refused_with_its_reason() {
    let target = "[notify.hook]\nwebhook = \"http://127.0.0.1:1/\"\n";
    for (alert, code, why) in [
        ("CREATE ALERT a ON (SELECT 1 AS n) NOTIFY hok", "C8003", "did you mean \"hook\"?"),
        ("CREATE ALERT a ON (SELECT 1 AS n) NOTIFY hook KEY (m)", "C2004", "did you mean \"n\"?"),
        ("CREATE ALERT a ON (SELECT * FROM STREAM clicks) NOTIFY hook", "C2002", "no STREAM"),
        ("CREATE ALERT a ON (SELECT nope FROM t) NOTIFY hook", "C2004", "nope"),
        ("CREATE ALERT a ON (SELECT * FROM clicks) NOTIFY hook", "C2002", "read all of it each time"),
        ("CREATE ALERT a ON (SELECT 1) NOTIFY hook, hook", "C2008", "named twice"),
        (
            "CREATE ALERT a ON (SELECT 1) NOTIFY hook SEVERITY info SEVERITY low",
            "C2008",
            "SEVERITY stands twice",
        ),
        (
            "CREATE ALERT a ON (SELECT 1) NOTIFY hook EVERY INTERVAL '1' MILLISECOND",
            "C2001",
            "10 milliseconds",
        ),
        ("CREATE ALERT a ON (SELECT * FROM tabel) NOTIFY hook", "C2003", "no table \"main.tabel\""),
        ("CREATE ALERT a ON (SELECT 1) NOTIFY hook EVERY INTERVAL '0' SECOND", "C2001", "more than nothing"),
        ("CREATE ALERT a ON (SELECT 1)", "C2001", "NOTIFY"),
        (
            "CREATE ALERT a ON (SELECT 1) NOTIFY hook; CREATE ALERT a ON (SELECT 2) NOTIFY hook",
            "C2008",
            "twice",
        ),
    ] {
        let project = Project::new(&format!(
            "CREATE STREAM clicks (page VARCHAR, n BIGINT); CREATE MATERIALIZED VIEW t AS SELECT 1 AS one;\n{alert};"
        ));
        project.write("catchment.toml", target);
        let told = project.call(&["check"]).exits(1);
        assert!(told.err.contains(code) && told.err.contains(why), "{alert}: {}", told.err);
    }
    for (target, why) in [
        ("[notify.a]\n", "one of webhook, smtp, sns and stream"),
        ("[notify.a]\nwebhook = \"http://x\"\nstream = \"y\"\n", "one of webhook, smtp, sns and stream"),
        ("[notify.a]\nwebhook = \"ftp://x\"\n", "neither http nor https"),
        ("[notify.a]\nwebhook = \"http://x\"\nsecret = \"plain\"\n", "secret is a secret"),
        ("[notify.a]\nsmtp = \"smtp://x\"\nfrom = \"a@b.c\"\n", "somebody it is to"),
        ("[notify.a]\nsmtp = \"smtp://x\"\nfrom = \"nobody\"\nto = [\"a@b.c\"]\n", "no mail address"),
        (
            "[notify.a]\nsmtp = \"smtp://mail.example.com:25\"\nfrom = \"a@b.c\"\nto = [\"a@b.c\"]\nusername = \"a\"\npassword = \"${env:PW}\"\n",
            "in clear",
        ),
        ("[notify.a]\nsns = \"topic\"\n", "no SNS topic"),
        ("[notify.a]\nstream = \"s\"\npassword = \"x\"\n", "password belongs to smtp"),
        ("[notify.a]\nhook = \"x\"\n", "unknown field"),
        ("[notify.a]\nwebhook = \"https://bob:secret@x\"\n", "holds a password"),
        (
            "[notify.a]\nsmtp = \"smtp://bob:secret@x\"\nfrom = \"a@b.c\"\nto = [\"a@b.c\"]\n",
            "holds a password",
        ),
    ] {
        let project = Project::new("CREATE STREAM clicks (page VARCHAR, n BIGINT);");
        project.write("catchment.toml", target);
        let told = project.call(&["check"]).exits(1);
        assert!(told.err.contains("C1002") && told.err.contains(why), "{target}: {}", told.err);
    }
    // More rows than anybody looks at: the first are raised, and that there are more is an error.
    let project = Project::new(
        "CREATE MATERIALIZED VIEW t AS SELECT value FROM generate_series(1, 1500);
         CREATE ALERT many ON (SELECT value FROM t) NOTIFY feed;
         CREATE STREAM feed (id VARCHAR);",
    );
    project.write("catchment.toml", "[notify.feed]\nstream = \"feed\"\n");
    let told = project.call(&["run"]).exits(1);
    assert!(told.err.contains("C8002"), "{}", told.err);
    // A thousand rows, and that there are more.
    let alerts = "SELECT count(*) AS n FROM system.alerts";
    assert_eq!(project.query(alerts), json!([{ "n": 1001 }]));
    assert_eq!(project.query("SELECT count(DISTINCT id) AS n FROM feed"), json!([{ "n": 1001 }]));
}

#[test]
fn an_alert_that_cannot_be_asked_is_told_and_keeps_what_was_raised() {
    let project = Project::new(
        "CREATE STREAM e (k VARCHAR, t VARCHAR); CREATE STREAM feed (id VARCHAR, row STRUCT<cannot_be_asked VARCHAR>);
         CREATE STREAMING TABLE raw.e AS SELECT k, t FROM STREAM e;
         CREATE ALERT f ON (SELECT k, CAST(t AS BIGINT) AS n FROM raw.e WHERE k LIKE 'a%') NOTIFY feed KEY (k);",
    );
    project.write("catchment.toml", "[notify.feed]\nstream = \"feed\"\n");
    let put = |line: &str| {
        let mut put = project.command(&["stream", "put", "e"]).stdin(Stdio::piped()).spawn().unwrap();
        put.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        assert!(put.wait().unwrap().success());
    };
    project.run();
    put(r#"{"k": "a1", "t": "12"}"#);
    project.run();
    put(r#"{"k": "a2", "t": "many"}"#);
    project.call(&["run"]).exits(1);
    project.call(&["run"]).exits(1);
    let open = "SELECT key, resolved_at IS NULL AS open FROM system.alerts ORDER BY key";
    let both = json!([{ "key": "[\"a1\"]", "open": true }, { "key": "cannot be asked", "open": true }]);
    assert_eq!(project.query(open), both);
    let told = project.query(
        "SELECT row.cannot_be_asked LIKE '%many%' AS why FROM feed WHERE row.cannot_be_asked IS NOT NULL",
    );
    assert_eq!(told, json!([{ "why": true }]));
}

#[test]
fn rows_with_parts_are_told_apart_and_nulls_are_told() {
    let project = Project::new(
        "CREATE MATERIALIZED VIEW t AS SELECT 1 AS one; CREATE STREAM feed (id VARCHAR);
         CREATE ALERT tags ON (SELECT * FROM (VALUES (['a, b']), (['a', 'b'])) t(tags)) NOTIFY feed KEY (tags);
         CREATE ALERT nothing ON (SELECT * FROM (VALUES ([CAST(NULL AS VARCHAR)]), ([''])) t(tags)) NOTIFY feed;
         CREATE ALERT parts ON (SELECT named_struct('a', 1, 'b', CAST(NULL AS VARCHAR)) s UNION ALL SELECT named_struct('a', 1, 'b', '')) NOTIFY feed;
         CREATE ALERT missing ON (SELECT CAST(NULL AS VARCHAR) AS k, 7 AS n) NOTIFY feed;",
    );
    project.write("catchment.toml", "[notify.feed]\nstream = \"feed\"\n");
    project.run();
    let counts =
        project.query("SELECT alert, count(*) AS n FROM system.alerts GROUP BY alert ORDER BY alert");
    assert_eq!(
        counts,
        json!([
            { "alert": "main.missing", "n": 1 },
            { "alert": "main.nothing", "n": 2 },
            { "alert": "main.parts", "n": 2 },
            { "alert": "main.tags", "n": 2 },
        ])
    );
    let row = project.query("SELECT row FROM system.alerts WHERE alert = 'main.missing'");
    assert_eq!(row, json!([{ "row": "{\"k\":null,\"n\":7}" }]));
}

/// A query that keeps a thread for minutes and lets nobody else have it.
const HEAVY: &str = "SELECT count(*) AS c FROM generate_series(1, 60000) a(x) CROSS JOIN generate_series(1, 60000) b(y) WHERE (a.x * b.y) % 7 = 9";

#[test]
fn queries_that_take_long_hold_nothing_up() {
    let heavy = format!(
        "{PIPELINE} CREATE ALERT heavy ON ({HEAVY}) NOTIFY feed; CREATE ALERT quick ON (SELECT page FROM live.pages WHERE n = 7) NOTIFY feed;"
    );
    let project = Project::new(&heavy.replace("TARGETS", "feed"));
    project.write(
        "dashboards/slow.toml",
        format!("[[panel]]\ntitle = \"slow\"\nchart = \"number\"\nquery = \"{HEAVY}\"\n"),
    );
    let mut serving = serve(&project, "[notify.feed]\nstream = \"feed\"\n", &[]);
    let page = std::thread::spawn({
        let port = serving.port;
        move || crate::kinesis::send(port, "GET", "/", &[], b"")
    });
    let begun = Instant::now();
    click(serving.port, "home", 7);
    let raised = "SELECT count(*) AS n FROM system.alerts WHERE alert = 'main.quick'";
    until(&project, raised, &json!([{ "n": 1 }]));
    assert_eq!(serving.send_to("GET", "/health", &[], b"").0, 200);
    // A stream of which a service has the records is tested through it.
    let sent = project.call(&["--json", "alert", "test", "feed"]).exits(0).json();
    let feed = project.call(&["--json", "stream", "peek", "feed"]).exits(0).out;
    assert!(feed.contains(sent["id"].as_str().unwrap()), "{feed}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let (status, _, text) = page.join().unwrap();
    assert_eq!(status, 200);
    assert!(String::from_utf8_lossy(&text).contains("the query takes longer than 10 s"));
    let ending = Instant::now();
    assert_eq!(serving.terminate(), Some(0));
    assert!(ending.elapsed() < Duration::from_secs(8), "{:?}", ending.elapsed());
}

#[test]
fn what_is_missing_is_no_alert_before_all_is_up_to_date() {
    let project = Project::new(
        "CREATE STREAM clicks (page VARCHAR, n BIGINT); CREATE STREAM feed (id VARCHAR);
         CREATE STREAMING TABLE raw.clicks AS SELECT page, n FROM STREAM clicks;
         CREATE ALERT silent ON (SELECT 'nothing' AS what FROM (SELECT count(*) AS c FROM raw.clicks) WHERE c = 0) NOTIFY feed EVERY INTERVAL '20' MILLISECOND;
         CREATE ALERT there ON (SELECT count(*) AS c FROM raw.clicks) NOTIFY feed KEY (c) EVERY INTERVAL '20' MILLISECOND;",
    );
    let targets = "[notify.feed]\nstream = \"feed\"\n";
    project.write("catchment.toml", targets);
    project.call(&["stream", "create", "clicks"]).exits(0);
    let mut put = project.command(&["stream", "put", "clicks"]).stdin(Stdio::piped()).spawn().unwrap();
    writeln!(put.stdin.take().unwrap(), "{}", json!({ "page": "home", "n": 1 })).unwrap();
    assert!(put.wait().unwrap().success());
    let mut serving = serve(&project, targets, &[]);
    let alerts = "SELECT alert, \"key\" FROM system.alerts";
    until(&project, alerts, &json!([{ "alert": "main.there", "key": "[\"1\"]" }]));
    assert_eq!(serving.terminate(), Some(0));
}

#[test]
fn keys_are_told_apart_and_targets_may_come_from_the_environment() {
    let Some(python) = python() else { return };
    let project = Project::new(
        "CREATE MATERIALIZED VIEW t AS SELECT * FROM (VALUES
             (arrow_cast('123456789012345678901234567', 'Decimal128(38, 0)'), 'NaN'::DOUBLE), (arrow_cast('123456789012345678901234568', 'Decimal128(38, 0)'), 'inf'::DOUBLE),
             (arrow_cast('123456789012345678901234569', 'Decimal128(38, 0)'), NULL), (NULL, '-inf'::DOUBLE)) AS v(d, x);
         CREATE ALERT digits ON (SELECT d FROM t WHERE d IS NOT NULL) NOTIFY hook KEY (d);
         CREATE ALERT odd ON (SELECT x FROM t) NOTIFY hook KEY (x);
         CREATE STREAMING TABLE raw.e (CONSTRAINT small EXPECT (k < 5) ON VIOLATION QUARANTINE) AS SELECT k FROM STREAM read_files('in', format => 'json', schema => 'k BIGINT');
         CREATE ALERT bad ON (SELECT count(*) AS c FROM raw.e__quarantine HAVING count(*) > 0) NOTIFY hook KEY (c);",
    );
    let receiving = Receiving::start(&python, &project);
    project.write(
        "catchment.toml",
        "[notify.hook]\nwebhook = \"${env:HOOK_ADDRESS}\"\nsecret = \"${env:HOOK_SECRET}\"\n",
    );
    // The check knows no secrets, and needs none; nothing is in quarantine yet, and that is no error.
    project.call(&["check"]).exits(0);
    let run = |address: &str| {
        let mut command = project.command(&["run"]);
        command.env("HOOK_SECRET", SECRET).env("HOOK_ADDRESS", address);
        crate::project::Done::from(command.output().unwrap())
    };
    project.write("in/1.json", "{\"k\":1}\n");
    let wrong = run("hooks.example.com/TOKEN").exits(1);
    assert!(wrong.err.contains("webhook is no address") && !wrong.err.contains("TOKEN"), "{}", wrong.err);
    let keys = project.query("SELECT \"key\" FROM system.alerts ORDER BY alert, 1");
    let key = |text: &str| json!({ "key": text });
    let digits = |last: u32| key(&format!("[\"12345678901234567890123456{last}\"]"));
    let wanted = json!([
        digits(7),
        digits(8),
        digits(9),
        key("[\"-inf\"]"),
        key("[\"NaN\"]"),
        key("[\"inf\"]"),
        key("[null]")
    ]);
    assert_eq!(keys, wanted);
    project.write("in/2.json", "{\"k\":9}\n");
    run(&format!("http://127.0.0.1:{}/", receiving.webhook)).exits(2);
    let texts: BTreeSet<String> =
        (0..8).map(|_| receiving.next("webhook")["message"]["text"].as_str().unwrap().to_owned()).collect();
    for text in ["main.bad (warning): c = 1", "main.digits (warning): d = 123456789012345678901234568"] {
        assert!(texts.contains(text), "{text}: {texts:?}");
    }
    assert!(!project.call(&["config", "show"]).exits(0).out.contains("HOOK_ADDRESS"));
    // Whoever is named no more is told no more, and what is declared no more is over.
    project.write("pipelines/all.sql", "CREATE MATERIALIZED VIEW t AS SELECT 1 AS one;");
    project.write("catchment.toml", "");
    project.call(&["run"]).exits(0);
    let open = "SELECT count(*) AS n FROM system.alerts WHERE resolved_at IS NULL";
    assert_eq!(project.query(open), json!([{ "n": 0 }]));
}
