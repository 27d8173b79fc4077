//! The Kinesis API of `catchment serve`, as clients see it that nobody here wrote.

mod adverse;
mod clients;
mod commands;
mod durable;
pub(crate) mod flows;
mod recorded;
mod soak;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::project::{Killed, Project};

/// `catchment serve` on a port of its own.
pub(crate) struct Serving {
    process: Killed,
    pub(crate) port: u16,
}

impl Serving {
    /// Serves a project; `server` are lines of its `[server]` section.
    pub(crate) fn configured(project: &Project, server: &str) -> Self {
        project.write(
            "catchment.toml",
            format!("[engine]\nthreads = 2\n[server]\nlisten = \"127.0.0.1:0\"\n{server}\n"),
        );
        Self::start(project.command(&["serve", "--json"]))
    }

    /// Starts a command that serves, and waits until it listens.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let port =
            told["listening"].as_str().and_then(|url| url.rsplit(':').next()).unwrap().parse().unwrap();
        Self { process: Killed(process), port }
    }

    /// Asks it to end, and waits until it has; returns its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        assert!(
            Command::new("kill")
                .args(["-TERM", &self.process.0.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        self.process.0.wait().unwrap().code()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.0.id()
    }

    /// The most memory that it had so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sends a request as it is; returns the status, the head and the body.
    pub(crate) fn send(&self, method: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, Vec<u8>) {
        self.send_to(method, "/", headers, body)
    }

    /// Sends a request to a path.
    pub(crate) fn send_to(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, String, Vec<u8>) {
        send(self.port, method, path, headers, body)
    }

    /// Calls an operation with JSON; returns status and answer.
    pub(crate) fn call(&self, operation: &str, body: &Value) -> (u16, Value) {
        call(self.port, operation, body)
    }
}

/// Sends a request to a port of this machine.
pub(crate) fn send(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    // A server that refuses a body may close the connection before all of it is sent.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end =
        answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap_or(answer.len().saturating_sub(4));
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head, answer[(end + 4).min(answer.len())..].to_vec())
}

/// Calls an operation of a Kinesis endpoint on this machine that does not look at signatures.
pub(crate) fn call(port: u16, operation: &str, body: &Value) -> (u16, Value) {
    let target = format!("Kinesis_20131202.{operation}");
    let headers = [
        ("Content-Type", "application/x-amz-json-1.1"),
        ("X-Amz-Target", target.as_str()),
        ("X-Amz-Date", "20260101T000000Z"),
        (
            "Authorization",
            "AWS4-HMAC-SHA256 Credential=tester/20260101/us-east-1/kinesis/aws4_request, SignedHeaders=host, Signature=0000",
        ),
    ];
    let (status, _, answer) = send(port, "POST", "/", &headers, body.to_string().as_bytes());
    (status, serde_json::from_slice(&answer).unwrap_or(Value::Null))
}
