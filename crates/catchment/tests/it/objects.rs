//! Files in a bucket as a source, with and without a queue that tells of them: a stand-in for S3 and SQS that others wrote
//! (moto), asked through boto3.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kinesis::Serving;
use crate::project::{Done, Killed, Project, oracle, python};
use crate::proxy::{Proxy, Trouble};

pub(crate) struct Server {
    _process: Killed,
    python: PathBuf,
    port: u16,
    endpoint: String,
}

impl Server {
    pub(crate) fn start() -> Option<Self> {
        let python = python()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(&python);
        command
            .args(["-m", "moto.server", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Killed(command.spawn().unwrap());
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "the server does not come up");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Some(Self { _process: process, python, port, endpoint: format!("http://127.0.0.1:{port}") })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn asked(&self, arguments: &[&str]) -> String {
        let all: Vec<&str> =
            std::iter::once(self.endpoint.as_str()).chain(arguments.iter().copied()).collect();
        oracle(&self.python, "objects.py", &all).trim().to_owned()
    }

    /// Writes an object, by way of a file of the project.
    fn put(&self, project: &Project, key: &str, bytes: impl AsRef<[u8]>) {
        project.write("object", bytes);
        self.asked(&["put", "events", key, project.path().join("object").to_str().unwrap()]);
    }

    fn list(&self) -> Value {
        serde_json::from_str(&self.asked(&["list", "events"])).unwrap()
    }

    fn command(&self, project: &Project, arguments: &[&str]) -> Command {
        let mut command = project.command(arguments);
        command.env("AWS_ENDPOINT_URL", &self.endpoint).env("AWS_REGION", "eu-central-1");
        command.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s");
        command
    }

    fn call(&self, project: &Project, arguments: &[&str]) -> Done {
        self.command(project, arguments).output().unwrap().into()
    }

    /// Runs the project, and gives the rows of table `raw.t`.
    fn run(&self, project: &Project) -> Value {
        let done = self.call(project, &["run"]);
        assert!(matches!(done.code, Some(0 | 2)), "{}{}", done.out, done.err);
        self.call(project, &["sql", "--json", "SELECT * FROM raw.t ORDER BY 1"]).exits(0).json()
    }
}

#[test]
fn objects_are_read_once_whatever_their_format_and_name() {
    let Some(server) = Server::start() else { return };
    server.asked(&["make", "events"]);
    let project = Project::new(
        "CREATE STREAMING TABLE raw.t AS SELECT k, v, _metadata.file_path AS file
           FROM STREAM read_files('s3://events/in/**/*.{json,csv}', format => 'json', schema => 'k BIGINT, v VARCHAR', cleanSource => 'MOVE',
             `cleanSource.moveDestination` => 's3://events/done', `cleanSource.retentionDuration` => '0 seconds');",
    );
    // A lake in a folder whose source is a bucket, with names that have to be encoded and one that is hidden.
    server.put(&project, "in/day=1/a b+c é.json", "{\"k\":1,\"v\":\"x\"}\n{\"k\":\"no\"}\n");
    server.put(&project, "in/day=1/_hidden.json", "{\"k\":100}\n");
    // As a console marks a folder.
    server.put(&project, "in/day=1/", "");
    server.put(&project, "in/day=1/folder.json/", "");
    server.put(&project, "done/day=3/next.json", "{\"k\":0,\"v\":\"before\"}\n");
    server.put(&project, "in/day=1/other.txt", "{\"k\":101}\n");
    let many: String = (0..30_000).map(|k| format!("{{\"k\":{},\"v\":\"many\"}}\n", k + 1_000)).collect();
    server.put(&project, "in/day=2/many.json", &many);
    server.call(&project, &["run"]).exits(2);
    let sums =
        "SELECT count(*) AS n, sum(k) AS k, count(DISTINCT file) AS files, min(file) AS first FROM raw.t";
    let sums = |project: &Project| server.call(project, &["sql", "--json", sums]).exits(0).json();
    let k = (0..30_000_u64).map(|k| k + 1_000).sum::<u64>();
    let first = "s3://events/in/day=1/a b+c é.json";
    assert_eq!(sums(&project), json!([{ "n": 30_001, "k": k + 1, "files": 2, "first": first }]));
    let bad = "SELECT file_path AS file, record FROM raw.t__quarantine";
    let bad = server.call(&project, &["sql", "--json", bad]).exits(0).json();
    assert_eq!(bad, json!([{ "file": first, "record": "{\"k\":\"no\"}" }]));
    // What was read went elsewhere, and what was not has stayed.
    let moved = json!([
        "done/day=1/a b+c é.json",
        "done/day=2/many.json",
        "done/day=3/next.json",
        "in/day=1/",
        "in/day=1/_hidden.json",
        "in/day=1/folder.json/",
        "in/day=1/other.txt"
    ]);
    assert_eq!(server.list(), moved);
    server.put(&project, "in/day=3/next.json", "{\"k\":2,\"v\":\"y\"}\n");
    server.call(&project, &["run"]).exits(0);
    assert_eq!(sums(&project)[0]["n"], 30_002);
    let refused = server.call(&project, &["run", "--full-refresh"]).exits(1);
    assert!(refused.err.contains("3 files that it has read were cleaned"), "{}", refused.err);
    // A query reads a bucket as well, with inferred columns.
    let query =
        "SELECT v, count(*) AS n FROM read_files('s3://events/done') GROUP BY v ORDER BY n, v NULLS FIRST";
    let found = server.call(&project, &["sql", "--json", query]).exits(0).json();
    assert_eq!(
        found,
        json!([{ "n": 1 }, { "v": "before", "n": 1 }, { "v": "x", "n": 1 }, { "v": "y", "n": 1 }, { "v": "many", "n": 30_000 }])
    );
}

#[test]
fn a_queue_tells_of_objects_and_listing_finds_what_it_did_not_tell() {
    let Some(server) = Server::start() else { return };
    let url = server.asked(&["make", "events", "told"]);
    let project = Project::new(&format!(
        "CREATE STREAMING TABLE raw.t AS SELECT k FROM STREAM read_files('s3://events/in/*.json', format => 'json', schema => 'k BIGINT',
           useNotifications => true, queueUrl => '{url}', region => 'eu-central-1', maxFilesPerTrigger => 2);"
    ));
    let put = |name: &str, k: usize| {
        server.put(&project, &format!("in/{name}-{k}.json"), format!("{{\"k\":{k}}}\n"))
    };
    let rows = |all: &[usize]| json!(all.iter().map(|k| json!({ "k": k })).collect::<Vec<_>>());
    (0..2).for_each(|k| put("told", k));
    (2..5).for_each(|k| put("silent", k));
    server.put(&project, "in/told.txt", "what nobody reads");
    assert_eq!(server.run(&project), rows(&[0, 1, 2, 3, 4]));
    // All messages are done, also the one of an object that nobody reads.
    assert_eq!(server.asked(&["waiting", &url]), "0");
    // A message of what was read already changes nothing.
    put("told", 1);
    put("told", 5);
    assert_eq!(server.run(&project), rows(&[0, 1, 2, 3, 4, 5]));
    assert_eq!(server.asked(&["waiting", &url]), "0");
    project.write("catchment.toml", "[engine]\nthreads = 2\n[server]\nlisten = \"127.0.0.1:0\"\n");
    let proxy = Proxy::start(server.port, Trouble::None);
    let mut command = server.command(&project, &["serve", "--json"]);
    command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", proxy.port()));
    let mut service = Serving::start(command);
    let table =
        || server.call(&project, &["sql", "--json", "SELECT k FROM raw.t ORDER BY k"]).exits(0).json();
    let wait_for = |expected: Value| {
        let started = Instant::now();
        while table() != expected {
            assert!(started.elapsed() < Duration::from_secs(60), "{}", table());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    };
    let lists = || proxy.requests().get("LIST").copied().unwrap_or(0);
    put("told", 6);
    wait_for(rows(&[0, 1, 2, 3, 4, 5, 6]));
    put("told", 7);
    wait_for(rows(&[0, 1, 2, 3, 4, 5, 6, 7]));
    // By now it has listed all: it learns of what the queue tells, only of that, and looks at nothing else.
    let before = lists();
    put("silent", 8);
    put("told", 9);
    wait_for(rows(&[0, 1, 2, 3, 4, 5, 6, 7, 9]));
    assert!(before > 0 && lists() == before, "{before} and {}", lists());
    assert_eq!(service.terminate(), Some(0));
    // A run begins with a listing.
    assert_eq!(server.run(&project), rows(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
}

#[test]
fn what_a_bucket_cannot_be_asked_for_is_refused() {
    let call = |options: &str| {
        format!("CREATE STREAMING TABLE raw.t AS SELECT * FROM STREAM read_files({options});")
    };
    for (options, why) in [
        ("'ftp://host/in', format => 'json'", "is in no store that is known"),
        ("'s3://user:topsecret@bucket/in', format => 'json'", "holds a name or a password"),
        (
            "'in', region => 'eu-west-1', schema => 'k BIGINT', format => 'json'",
            "region is for files in a bucket",
        ),
        (
            "'in', useNotifications => true, schema => 'k BIGINT', format => 'json'",
            "notifications are for files in a bucket of S3",
        ),
        ("'s3://b/in', useNotifications => true, schema => 'k BIGINT', format => 'json'", "need queueUrl"),
        (
            "'s3://b/in', useManagedFileEvents => true, schema => 'k BIGINT', format => 'json'",
            "has no meaning here",
        ),
        ("'s3://b/in', cleanSource => 'MOVE', schema => 'k BIGINT', format => 'json'", "go together"),
        (
            "'s3://b/in', cleanSource => 'MOVE', `cleanSource.moveDestination` => 's3://b/in/done', schema => 'k BIGINT', format => 'json'",
            "lies in the folder that is read",
        ),
        (
            "'s3://b/in', cleanSource => 'MOVE', `cleanSource.moveDestination` => 'done', schema => 'k BIGINT', format => 'json'",
            "lies in another store",
        ),
        ("'in', cleanSource => 'BURN', schema => 'k BIGINT', format => 'json'", "'OFF', 'DELETE' or 'MOVE'"),
        (
            "'in', cleanSource => 'DELETE', `cleanSource.retentionDuration` => 'soon', schema => 'k BIGINT', format => 'json'",
            "not a time such as '7 days'",
        ),
        (
            "'in', `cleanSource.retentionDuration` => '1 day', schema => 'k BIGINT', format => 'json'",
            "is without effect",
        ),
    ] {
        let told = Project::new(&call(options)).call(&["check"]).exits(1);
        assert!(told.err.contains(why), "{options}: {}", told.err);
    }
    // A server that is not there is an error of the run, and nothing is lost by it.
    let project = Project::new(&call("'s3://b/in', schema => 'k BIGINT', format => 'json'"));
    let mut command = project.command(&["run"]);
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").env("AWS_REGION", "eu-central-1");
    command.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s");
    let told: Done = command.output().unwrap().into();
    let told = told.exits(1);
    assert!(told.err.contains("could not list \"s3://b/in\""), "{}", told.err);
}
