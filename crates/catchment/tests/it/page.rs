//! The page of `catchment serve`, in a real browser, with and without JavaScript.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::kinesis::flows::base64;
use crate::kinesis::{Serving, call};
use crate::project::{Killed, Project, python};

struct Browser {
    process: Killed,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    fn open(python: &Path, url: &str, arguments: &[&str]) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/browser.py");
        let mut process = Command::new(python)
            .arg(script)
            .arg(url)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (ask, answers) = (process.stdin.take(), BufReader::new(process.stdout.take().unwrap()));
        Self { process: Killed(process), ask, answers }
    }

    fn ask(&mut self, what: &str) -> Value {
        writeln!(self.ask.as_mut().unwrap(), "{what}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{what}: {error}: {line:?}"))
    }

    /// Closes it as a person would; killed, it would leave its processes behind.
    fn close(mut self) {
        self.ask = None;
        self.process.0.wait().unwrap();
    }
}

const PIPELINE: &str = "CREATE STREAM clicks (page VARCHAR, n BIGINT);
    CREATE SERVING TABLE live.pages PRIMARY KEY (page) AS SELECT page, count(*) AS clicks, sum(n) AS n FROM STREAM clicks GROUP BY page;
    CREATE ALERT many ON (SELECT page, clicks FROM live.pages WHERE clicks > 4) NOTIFY feed KEY (page);
    CREATE STREAM feed (id VARCHAR);";

const DASHBOARD: &str = "title = \"Clicks\"
    [[panel]]
    title = \"All\"
    chart = \"number\"
    query = \"SELECT sum(clicks) FROM live.pages\"
    [[panel]]
    title = \"Pages\"
    chart = \"bars\"
    query = \"SELECT page, clicks FROM live.pages ORDER BY page\"
    [[panel]]
    title = \"Line\"
    chart = \"line\"
    query = \"SELECT page, clicks, n FROM live.pages ORDER BY page\"
    [[panel]]
    title = \"Wrong while it runs\"
    chart = \"table\"
    query = \"SELECT 1 / (clicks - clicks) AS x FROM live.pages\"
    ";

fn served() -> (Project, Serving) {
    let project = Project::new(PIPELINE);
    project.write("dashboards/clicks.toml", DASHBOARD);
    project.write("dashboards/other.toml", "title = \"Other\"\n");
    let config = "[project]\nname = \"a shop\"\n[engine]\nthreads = 2\n[server]\nlisten = \"127.0.0.1:0\"\nopen_on_loopback = true\n[notify.feed]\nstream = \"feed\"\n";
    project.write("catchment.toml", config);
    project.call(&["run"]).exits(0);
    let serving = Serving::start(project.command(&["serve", "--json"]));
    (project, serving)
}

fn click(serving: &Serving, page: &str) {
    let data = base64(&json!({ "page": page, "n": -3 }).to_string());
    let body = json!({ "StreamName": "clicks", "PartitionKey": page, "Data": data });
    assert_eq!(call(serving.port, "PutRecord", &body).0, 200);
}

#[test]
fn a_page_follows_what_comes_in_a_browser() {
    let Some(python) = python() else { return };
    let (_project, mut serving) = served();
    let mut browser = Browser::open(&python, &serving.url(), &[]);
    browser.ask("until #state live");
    assert_eq!(browser.ask("text h1"), "a shop");
    assert_eq!(browser.ask("text #panel-1"), "no rows yet");
    let mut slowest = 0;
    let mut elements = Vec::new();
    for count in 1..=40 {
        click(&serving, if count % 2 == 0 { "<i>even</i>" } else { "odd" });
        // It is looked at every 20 ms whether it is there.
        let took = browser.ask(&format!("until #panel-0 {count}")).as_u64().unwrap();
        slowest = slowest.max(took);
        elements.push(browser.ask("count *").as_u64().unwrap());
    }
    // What is replaced is gone: with both pages and their alerts there, no more than a line at an axis is added.
    let (first, last) = (elements[15], elements[39]);
    assert!(first.abs_diff(last) < 10, "{elements:?}");
    assert!(slowest < 5_000, "an event was on the page after {slowest} ms");
    assert_eq!(browser.ask("text #panel-1"), "<i>even</i>\n20\nodd\n20");
    assert_eq!((browser.ask("count #panel-2 circle"), browser.ask("count i")), (json!(4), json!(0)));
    let told = browser.ask("text #panel-3");
    assert!(told.as_str().unwrap().contains("C2012"), "{told}");
    let alerts = browser.ask("text #alerts");
    assert!(alerts.as_str().unwrap().contains("page = odd, clicks = "), "{alerts}");
    assert_eq!(browser.ask("errors"), json!([]));
    // The service ends although somebody looks, and the page says that it is alone.
    assert_eq!(serving.terminate(), Some(0));
    browser.ask("until #state not connected");
    browser.close();
}

#[test]
fn a_page_is_whole_without_javascript() {
    let Some(python) = python() else { return };
    let (_project, serving) = served();
    (0..5).for_each(|_| click(&serving, "home"));
    let mut browser = Browser::open(&python, &serving.url(), &["--without-script"]);
    // It reloads itself.
    browser.ask("until #panel-0 5");
    assert_eq!(browser.ask("text #panel-1"), "home\n5");
    assert_eq!(browser.ask("text #state"), "reloads every 5 seconds");
    click(&serving, "home");
    browser.ask("until #panel-0 6");
    browser.close();
}

#[test]
fn pages_that_are_closed_leave_nothing_behind() {
    let (_project, serving) = served();
    let descriptors = || {
        let folder = format!("/proc/{}/fd", serving.process_id());
        std::fs::read_dir(folder).unwrap().count()
    };
    let open = || {
        let mut page = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
        page.write_all(b"GET /live/clicks HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut begun = [0; 15];
        page.read_exact(&mut begun).unwrap();
        (String::from_utf8_lossy(&begun).into_owned(), page)
    };
    let until_few = |most: usize| {
        let begun = std::time::Instant::now();
        while descriptors() > most {
            assert!(begun.elapsed().as_secs() < 60, "{} descriptors, {most} wanted", descriptors());
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
    };
    drop(open());
    let before = descriptors();
    for _ in 0..3 {
        let pages: Vec<_> = (0..200).map(|_| open()).collect();
        assert!(pages.iter().all(|(status, _)| status == "HTTP/1.1 200 OK"));
        // So many and no more.
        assert_eq!(open().0, "HTTP/1.1 503 Se");
        drop(pages);
        click(&serving, "home");
        // A few are the service's own.
        until_few(before + 20);
    }
    assert!(serving.peak_memory() < 1 << 30);
}

#[test]
fn who_has_no_key_sees_nothing() {
    let project = Project::new(PIPELINE);
    project.write("dashboards/clicks.toml", DASHBOARD);
    let created = project.call(&["key", "create", "--json"]).exits(0).json();
    let serving = Serving::configured(&project, "[notify.feed]\nstream = \"feed\"");
    let text = |key: &str| created[key].as_str().unwrap().to_owned();
    let basic = |secret: &str| format!("Basic {}", base64(&format!("{}:{secret}", text("access_key_id"))));
    for path in ["/", "/live", "/dashboards/clicks", "/live/clicks"] {
        let (status, head, body) = serving.send_to("GET", path, &[], b"");
        assert_eq!(status, 401, "{path}");
        assert!(head.contains("www-authenticate: Basic"), "{head}");
        assert!(!String::from_utf8_lossy(&body).contains("live.pages"));
        let wrong = serving.send_to("GET", path, &[("Authorization", &basic("wrong"))], b"");
        assert_eq!(wrong.0, 401, "{path}");
    }
    let right = basic(&text("secret_access_key"));
    let (status, head, body) = serving.send_to("GET", "/", &[("Authorization", &right)], b"");
    assert_eq!(status, 200);
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("live.pages"));
    for none in ["/dashboards/none", "/live/none"] {
        assert_eq!(serving.send_to("GET", none, &[("Authorization", &right)], b"").0, 404);
    }
    // Where no key is asked for, a name of somebody else that points here is not this machine's.
    let (_project, open) = served();
    for request in [
        "GET / HTTP/1.1\r\nHost: evil.example",
        "GET /metrics HTTP/1.1\r\nHost: evil.example",
        "POST /v1/streams/clicks HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\nContent-Length: 0",
        "POST / HTTP/1.1\r\nHost: evil.example\r\nX-Amz-Target: Kinesis_20131202.ListStreams\r\nContent-Length: 0",
    ] {
        let mut page = TcpStream::connect(("127.0.0.1", open.port)).unwrap();
        page.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        page.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 421") && !answer.contains("live.pages"), "{request}: {answer}");
    }
}

#[test]
fn dashboards_are_checked() {
    for (dashboard, why) in [
        ("[[panel]]\ntitle = \"a\"\nchart = \"pie\"\nquery = \"SELECT 1\"\n", "dashboards/a.toml:3"),
        ("[[panel]]\ntitle = \"a\"\nchart = \"line\"\nquery = \"SELECT 1\"\n", "two columns at least"),
        ("[[panel]]\ntitle = \"a\"\nchart = \"table\"\nquery = \"SELECT nope FROM live.pages\"\n", "nope"),
        ("[[panel]]\ntitle = \"a\"\nchart = \"table\"\nquery = \"SELECT * FROM live.page\"\n", "live.pages"),
        (
            "[[panel]]\ntitle = \"a\"\nchart = \"line\"\nseries = \"x\"\nquery = \"SELECT 1 AS a, 2 AS b\"\n",
            "no column \"x\" for series",
        ),
        ("tilte = \"a\"\n", "unknown field"),
    ] {
        let project = Project::new(PIPELINE);
        project.write("catchment.toml", "[notify.feed]\nstream = \"feed\"\n");
        project.write("dashboards/a.toml", dashboard);
        let told = project.call(&["check"]).exits(1);
        assert!(told.err.contains(why), "{dashboard}: {}", told.err);
        // It holds nothing else up.
        project.call(&["run"]).exits(0);
    }
}

#[test]
fn a_reader_that_takes_nothing_keeps_no_service_from_its_end() {
    let (project, _) = served();
    let large = "[[panel]]\ntitle = \"large\"\nchart = \"table\"\nquery = \"SELECT repeat('x', 200000) || n AS x FROM live.pages, generate_series(1, 40)\"\n";
    project.write("dashboards/clicks.toml", large);
    let mut serving = Serving::start(project.command(&["serve", "--json"]));
    click(&serving, "home");
    let mut page = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
    page.write_all(b"GET /live/clicks HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut begun = [0; 15];
    page.read_exact(&mut begun).unwrap();
    // Until more was made of it than a connection holds.
    while !String::from_utf8_lossy(&serving.send_to("GET", "/", &[], b"").2).contains("xxxx") {}
    assert_eq!(serving.terminate(), Some(0));
}
