//! Puts records as fast as a Kinesis endpoint takes them: `load HOST:PORT STREAM SECONDS CONNECTIONS RECORDS KEY SECRET`.
//!
//! Bodies of that many records of 150 bytes are made and signed before the clock starts; each connection waits for the answer to one request
//! before it sends the next. Prints one line of JSON: records and requests per second, and latencies in milliseconds.

#![expect(clippy::print_stdout, reason = "a benchmark is a program")]
#![expect(clippy::disallowed_methods, reason = "requests are signed with the machine's time")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

type Done<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Bytes of a record.
const RECORD: usize = 150;

/// Different bodies of a connection.
const BODIES: u64 = 16;

fn request(host: &str, stream: &str, records: u64, seed: u64, (key, secret): (&str, &str)) -> Done<Vec<u8>> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let record = |_| {
        let data: Vec<u8> = (0..RECORD).map(|_| b'a' + (next() % 26) as u8).collect();
        serde_json::json!({ "PartitionKey": format!("user-{}", next() % 100_000), "Data": BASE64_STANDARD.encode(data) })
    };
    let records: Vec<_> = (0..records).map(record).collect();
    let body = serde_json::json!({ "StreamName": stream, "Records": records }).to_string();
    let mut headers = vec![
        ("host".to_owned(), host.to_owned()),
        ("content-type".to_owned(), "application/x-amz-json-1.1".to_owned()),
        ("x-amz-target".to_owned(), "Kinesis_20131202.PutRecords".to_owned()),
    ];
    let identity = Credentials::from_keys(key, secret, None).into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("kinesis")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?
        .into();
    let borrowed: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let url = format!("http://{host}/");
    let signable =
        SignableRequest::new("POST", &url, borrowed.into_iter(), SignableBody::Bytes(body.as_bytes()))?;
    let (instructions, _) = sign(signable, &parameters)?.into_parts();
    headers.extend(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())));
    let mut bytes = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        bytes.extend(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body.as_bytes());
    Ok(bytes)
}

/// Reads an answer; its body.
fn answer(reader: &mut impl BufRead) -> Done<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let is_fine = line.contains(" 200 ");
    let status = line.trim().to_owned();
    let (mut length, mut is_chunked) = (0, false);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        is_chunked |= header.starts_with("transfer-encoding:") && header.contains("chunked");
    }
    let mut body = Vec::new();
    if is_chunked {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16)?;
            let start = body.len();
            body.resize(start + size + 2, 0);
            reader.read_exact(&mut body[start..])?;
            body.truncate(start + size);
            if size == 0 {
                break;
            }
        }
    } else {
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
    }
    if is_fine { Ok(body) } else { Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into()) }
}

fn connection(host: &str, bodies: &[Vec<u8>], until: Instant) -> Done<Vec<Duration>> {
    let stream = TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::with_capacity(1 << 16, stream.try_clone()?);
    let mut writer = stream;
    let mut took = Vec::new();
    for body in bodies.iter().cycle() {
        let begun = Instant::now();
        if begun >= until {
            break;
        }
        writer.write_all(body)?;
        let text = answer(&mut reader)?;
        let text = String::from_utf8_lossy(&text);
        if !text.contains("\"FailedRecordCount\":0") && !text.contains("\"FailedRecordCount\": 0") {
            return Err(format!("records failed: {}", text.chars().take(300).collect::<String>()).into());
        }
        took.push(begun.elapsed());
    }
    Ok(took)
}

fn main() -> Done<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, stream, seconds, connections, records, key, secret] = &arguments[..] else {
        return Err("load HOST:PORT STREAM SECONDS CONNECTIONS RECORDS KEY SECRET".into());
    };
    let (connections, records): (u64, u64) = (connections.parse()?, records.parse()?);
    let bodies: Vec<Vec<Vec<u8>>> = (0..connections)
        .map(|index| {
            (0..BODIES)
                .map(|body| request(host, stream, records, index * BODIES + body + 1, (key, secret)))
                .collect()
        })
        .collect::<Done<_>>()?;
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(seconds.parse()?);
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            bodies.iter().map(|bodies| scope.spawn(|| connection(host, bodies, until))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a connection panicked".into())))
            .collect::<Done<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect();
    let elapsed = begun.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |share: usize| {
        took.get((took.len() * share / 100).min(took.len().saturating_sub(1)))
            .map_or(0.0, |took| took.as_secs_f64() * 1_000.0)
    };
    let requests = took.len() as f64;
    println!(
        "{}",
        serde_json::json!({
            "records_per_second": (requests * records as f64 / elapsed).round(), "requests_per_second": (requests / elapsed * 10.0).round() / 10.0,
            "p50_ms": (at(50) * 100.0).round() / 100.0, "p99_ms": (at(99) * 100.0).round() / 100.0, "seconds": elapsed,
        })
    );
    Ok(())
}
