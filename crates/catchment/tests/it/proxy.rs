//! A way to a server that can be made worse: it counts requests, throttles, is slow, tears answers apart.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is wrong with the way, for every third request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// Conditional writes whose condition does not hold, by the header that tells it, seem to be done.
    Pretends(&'static str),
    /// They are answered with 503 and go no further.
    Throttled,
    /// They take a while.
    Slow,
    /// Answers to reads end in the middle.
    Torn,
    /// They are done, and the connection ends without an answer.
    AnswerLost,
}

struct Shared {
    server: u16,
    trouble: Trouble,
    requests: Mutex<BTreeMap<String, usize>>,
    all: AtomicUsize,
    troubled: AtomicUsize,
}

/// A proxy on a port of its own, for as long as the test runs.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub(crate) fn start(server: u16, trouble: Trouble) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server,
            trouble,
            requests: Mutex::default(),
            all: AtomicUsize::new(0),
            troubled: AtomicUsize::new(0),
        });
        let proxy = Self { port, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A client that goes away ends its thread.
                std::thread::spawn(move || shared.serve(client));
            }
        });
        proxy
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Requests by method; lists apart from other reads.
    pub(crate) fn requests(&self) -> BTreeMap<String, usize> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Requests that went wrong.
    pub(crate) fn troubled(&self) -> usize {
        self.shared.troubled.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(client.try_clone().ok()?);
        let mut client = client;
        loop {
            let (head, length) = read_head(&mut reader)?;
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let first = head.lines().next()?.to_owned();
            let method = first.split(' ').next()?.to_owned();
            let kind = if first.contains("list-type=2") { "LIST".to_owned() } else { method.clone() };
            *self.requests.lock().unwrap().entry(kind).or_default() += 1;
            let is_third = self.all.fetch_add(1, Ordering::SeqCst) % 3 == 2;
            let trouble = match self.trouble {
                Trouble::Pretends(header) => {
                    let asks = head.lines().any(|line| line.to_lowercase().starts_with(header));
                    if asks { self.trouble } else { Trouble::None }
                }
                Trouble::Torn if method != "GET" => Trouble::None,
                trouble if is_third => trouble,
                _ => Trouble::None,
            };
            if trouble != Trouble::None {
                self.troubled.fetch_add(1, Ordering::SeqCst);
            }
            if trouble == Trouble::Throttled {
                client.write_all(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n").ok()?;
                continue;
            }
            if trouble == Trouble::Slow {
                // The way is slow; nothing waits for this to be over but the request itself.
                std::thread::park_timeout(Duration::from_millis(40));
            }
            let head: String = head
                .lines()
                .filter(|line| !line.is_empty() && !line.to_lowercase().starts_with("connection:"))
                .map(|line| format!("{line}\r\n"))
                .collect();
            let mut server = TcpStream::connect(("127.0.0.1", self.server)).ok()?;
            server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).ok()?;
            server.write_all(&body).ok()?;
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).ok()?;
            // Azure tells with 409 that a blob is there already.
            let is_refused = answer.starts_with(b"HTTP/1.1 412") || answer.starts_with(b"HTTP/1.1 409");
            if matches!(trouble, Trouble::Pretends(_)) && is_refused {
                answer = b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\n\r\n".to_vec();
            }
            match trouble {
                Trouble::AnswerLost => {
                    client.shutdown(Shutdown::Both).ok()?;
                    return None;
                }
                Trouble::Torn => {
                    client.write_all(&answer[..answer.len() - answer.len() / 4]).ok()?;
                    client.shutdown(Shutdown::Both).ok()?;
                    return None;
                }
                _ => client.write_all(&answer).ok()?,
            }
            // The answer says that its connection is closed.
            client.shutdown(Shutdown::Write).ok()?;
            return Some(());
        }
    }
}

/// The head of a request, and the length of its body.
fn read_head(reader: &mut impl BufRead) -> Option<(String, usize)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            return Some((head, length));
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
}
