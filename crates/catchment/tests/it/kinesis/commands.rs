//! `catchment stream` beside a service that has the streams open tells what it tells without one.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::Serving;
use crate::project::Project;

/// Creates, writes, reads, reshards and deletes; returns what was told, without what differs each time.
fn all_commands(project: &Project) -> Vec<String> {
    let call = |arguments: &[&str]| {
        let done = project.call(arguments);
        let lines: Vec<String> = done.out.lines().map(lasting).collect();
        format!("{arguments:?}: {:?}\n{}\n{}", done.code, lines.join("\n"), done.err)
    };
    let mut told = vec![
        call(&["stream", "create", "a", "--shards", "2", "--json"]),
        call(&["stream", "create", "a"]),
        call(&["stream", "describe", "b"]),
    ];
    let mut put = project.command(&["stream", "put", "a", "--key", "k", "--acknowledge"]);
    let mut put = put.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String = (0..1200).map(|n| format!("{{\"k\": {n}}}\n")).collect();
    put.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let put = put.wait_with_output().unwrap();
    let acknowledged = String::from_utf8(put.stdout).unwrap();
    told.push(format!("{:?} {}", put.status.code(), acknowledged.lines().count()));
    told.extend([
        call(&["stream", "peek", "a", "--limit", "3", "--newest", "--json"]),
        call(&["stream", "peek", "a", "--limit", "1000", "--shard", "1", "--json"]),
        call(&["stream", "peek", "a", "--shard", "9"]),
        call(&["stream", "reshard", "a", "--split", "1"]),
        call(&["stream", "reshard", "a", "--merge", "0", "2"]),
        call(&["stream", "reshard", "a", "--merge", "0", "3"]),
        call(&["stream", "list", "--json"]),
        call(&["stream", "describe", "a"]),
        call(&["stream", "delete", "a"]),
        call(&["stream", "list"]),
    ]);
    told
}

/// A line without times and sequence numbers, where it is JSON.
fn lasting(line: &str) -> String {
    fn forget(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match name.as_str() {
                        "created_at" | "arrived" | "sequence" => *value = json!("?"),
                        _ => forget(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(forget),
            _ => {}
        }
    }
    serde_json::from_str(line).map_or_else(
        |_| line.to_owned(),
        |mut value| {
            forget(&mut value);
            value.to_string()
        },
    )
}

#[test]
fn commands_to_streams_go_to_the_service_that_has_them() {
    let project = Project::new(
        "CREATE STREAMING TABLE raw.a AS SELECT k FROM STREAM read_stream('none', schema => 'k BIGINT');",
    );
    let alone = all_commands(&project);
    assert!(alone[3].ends_with("Some(0) 1200"), "{}", alone[3]);
    assert!(alone[1].contains("C6") && alone[6].contains("C6"), "{alone:?}");
    project.call(&["stream", "create", "none"]).exits(0);
    project.call(&["run"]).exits(0);
    project.call(&["stream", "delete", "none"]).exits(0);
    let serving = Serving::configured(&project, "open_on_loopback = true");
    assert!(project.path().join(".catchment/commands.socket").exists());
    assert_eq!(all_commands(&project), alone);
    // What it writes is the service's at once.
    project.call(&["stream", "create", "b"]).exits(0);
    assert_eq!(serving.call("ListStreams", &json!({})).1["StreamNames"], json!(["b"]));
    // One that was killed leaves its socket, and neither a command nor the next service stumbles over it.
    drop(serving);
    assert!(project.call(&["stream", "list"]).exits(0).out.contains('b'));
    let mut again = Serving::start(project.command(&["serve", "--json"]));
    assert!(project.call(&["stream", "list"]).exits(0).out.contains('b'));
    assert_eq!(again.terminate(), Some(0));
}

#[test]
fn what_is_no_command_is_refused_and_ends_nothing() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream;
    let project = Project::new("CREATE VIEW v AS SELECT 1 AS n;");
    let _serving = Serving::configured(&project, "open_on_loopback = true");
    let socket = project.path().join(".catchment/commands.socket");
    let ask = |line: &[u8]| {
        let mut client = UnixStream::connect(&socket).unwrap();
        // It may hang up before all of it is taken.
        let _ = client.write_all(line);
        let _ = client.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = BufReader::new(client).read_line(&mut answer);
        answer
    };
    assert!(ask(b"{\"drop\": 1}\n").contains("no command to streams"));
    assert!(ask(b"[[[[\n").contains("no command to streams"));
    assert_eq!(ask(b"\"list\""), "", "half a line");
    assert_eq!(ask(&vec![b'x'; 40 << 20]), "", "a line without an end");
    assert_eq!(ask(b"\xff\xfe\n"), "", "no text");
    assert_eq!(ask(b"\"list\"\n"), "{\"done\":[]}\n");
}
