//! `catchment replay-events`: sends recorded events to a stream by the Kinesis API, at a chosen speed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use catchment_core::{Backoff, Clock, Code, Error, Result, SystemClock, format_count, timestamp_text};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::arguments::Arguments;
use crate::show::Screen;
use crate::wiring;

/// Records and bytes of one request, the most that Kinesis takes.
const RECORDS: usize = 500;
const BYTES: usize = 4 << 20;

/// How long records are gathered before they are sent.
const GATHERED: Duration = Duration::from_millis(50);

/// Bytes of the longest line of a file of JSON.
const LINE: u64 = 10 << 20;

/// What is sent, where and how fast.
#[derive(Debug, Args)]
pub(crate) struct ReplayEventsArguments {
    /// A file of events: `.csv` with a line of names, or a JSON object a line; either may be `.gz`.
    pub(crate) file: PathBuf,

    /// The stream.
    #[arg(long)]
    stream: String,

    /// Events a second; without it, as fast as the stream takes them.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,

    /// The field whose value is the partition key; without it each event has its own.
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,

    /// A field that gets the time at which the event is sent.
    #[arg(long, value_name = "FIELD")]
    now: Option<String>,

    /// The most events to send.
    #[arg(long)]
    limit: Option<u64>,

    /// Where the Kinesis API is: by default the address that the project serves on.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// The project's folder.
    #[arg(short, long, default_value = ".")]
    project: PathBuf,
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e9).contains(rate));
    rate.ok_or_else(|| "between 0.001 and 1000000000".to_owned())
}

pub(crate) async fn run(
    arguments: &Arguments,
    command: &ReplayEventsArguments,
    screen: Screen,
) -> Result<ExitCode> {
    let client = client(arguments, command)?;
    let bar = ProgressBar::new_spinner();
    if !screen.is_watched() {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} events sent  {per_sec}  {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    let begun = Instant::now();
    let sent = send_all(&client, command, &bar).await;
    bar.finish_and_clear();
    let seconds = begun.elapsed().as_secs_f64();
    let sent = sent?;
    match screen.json {
        true => screen.json(&json!({ "stream": command.stream, "sent": sent, "seconds": seconds })),
        false => screen.line(format!(
            "sent {} events to \"{}\" in {seconds:.1} s",
            format_count(sent),
            command.stream
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends the events of the file as they fall due; gives how many.
async fn send_all(client: &Client, command: &ReplayEventsArguments, bar: &ProgressBar) -> Result<u64> {
    let begun = Instant::now();
    let (mut sent, mut bytes, mut waiting) = (0_u64, 0, Vec::new());
    let (mut sender, events) = (events(&command.file)?, command.limit.unwrap_or(u64::MAX));
    let mut number = 0;
    while number < events
        && let Some(event) = sender.next()
    {
        let due = command.rate.map(|rate| begun + Duration::from_secs_f64(number as f64 / rate));
        let is_far = due.is_some_and(|due| due > Instant::now() + GATHERED);
        if !waiting.is_empty() && (is_far || waiting.len() == RECORDS || bytes > BYTES / 2) {
            sent += waiting.len() as u64;
            put(client, &command.stream, std::mem::take(&mut waiting)).await?;
            bar.set_position(sent);
            bytes = 0;
        }
        if let Some(due) = due.filter(|_| is_far) {
            tokio::time::sleep_until(due).await;
        }
        let record = match event.and_then(|event| record(event, command, number)) {
            Ok(record) => record,
            Err(error) => {
                put(client, &command.stream, waiting).await?;
                let hint = error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
                return Err(error.hint(format!("{number} events before it were sent{hint}")));
            }
        };
        bytes += record.data().as_ref().len();
        waiting.push(record);
        number += 1;
    }
    sent += waiting.len() as u64;
    put(client, &command.stream, waiting).await?;
    Ok(sent)
}

fn record(
    mut event: Map<String, Value>,
    command: &ReplayEventsArguments,
    number: u64,
) -> Result<PutRecordsRequestEntry> {
    if let Some(field) = &command.now {
        event.insert(field.clone(), timestamp_text(SystemClock.now_micros()).into());
    }
    let key = match &command.key {
        None => number.to_string(),
        Some(field) => match event.get(field) {
            Some(Value::String(text)) if !text.is_empty() => text.clone(),
            Some(Value::Null) | None => {
                return Err(Error::new(
                    Code::RECORD_MALFORMED,
                    format!("event {} has no field {field:?}", number + 1),
                )
                .hint(format!("its fields: {}", event.keys().cloned().collect::<Vec<_>>().join(", "))));
            }
            Some(other) => other.to_string(),
        },
    };
    if key.chars().count() > 256 {
        return Err(Error::new(
            Code::RECORD_LARGE,
            format!("the key of event {} is longer than 256 characters", number + 1),
        ));
    }
    let data = Blob::new(Value::Object(event).to_string());
    PutRecordsRequestEntry::builder()
        .data(data)
        .partition_key(key)
        .build()
        .map_err(|error| Error::new(Code::INTERNAL, "a record cannot be made").because(error))
}

/// Puts records, and those again that the stream did not take.
async fn put(client: &Client, stream: &str, mut records: Vec<PutRecordsRequestEntry>) -> Result<()> {
    let failed = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(Code::INPUT_OUTPUT, format!("could not write to stream \"{stream}\""))
            .because(cause)
            .hint("is `catchment serve` running, and does it have the stream?")
    };
    let backoff = Backoff { retries: 10, ..Backoff::default() };
    for retry in 0.. {
        if records.is_empty() {
            return Ok(());
        }
        let put = client.put_records().stream_name(stream).set_records(Some(records.clone()));
        let answer = put.send().await.map_err(|error| failed(error.into()))?;
        let refused = answer.records().iter().map(|result| result.error_code());
        let why = refused.clone().flatten().next().map(str::to_owned);
        records =
            records.into_iter().zip(refused).filter(|(_, code)| code.is_some()).map(|(one, _)| one).collect();
        if let Some(why) = why {
            let Some(pause) = backoff.delay(retry, u64::MAX / 2) else { return Err(failed(why.into())) };
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

/// A client of the endpoint; keys come from the environment, and a service of this machine may ask for none.
fn client(arguments: &Arguments, command: &ReplayEventsArguments) -> Result<Client> {
    let endpoint = match &command.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => {
            let workspace = wiring::configuration(&command.project, arguments)?;
            format!("http://{}", workspace.config.server.address()?)
        }
    };
    let variable =
        |name: &str, otherwise: &str| wiring::environment(name).unwrap_or_else(|| otherwise.to_owned());
    let login = Credentials::new(
        variable("AWS_ACCESS_KEY_ID", "none"),
        variable("AWS_SECRET_ACCESS_KEY", "none"),
        wiring::environment("AWS_SESSION_TOKEN"),
        None,
        "environment",
    );
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(variable("AWS_REGION", "us-east-1")))
        .credentials_provider(login)
        .endpoint_url(endpoint)
        .build();
    Ok(Client::from_conf(config))
}

/// Events, one after the other.
type Events = Box<dyn Iterator<Item = Result<Map<String, Value>>> + Send>;

/// The events of a file.
fn events(path: &Path) -> Result<Events> {
    let failed = |error: std::io::Error| {
        Error::new(Code::INPUT_OUTPUT, format!("could not read {path:?}")).because(error)
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let name = path.to_string_lossy().to_lowercase();
    let (name, reader): (&str, Box<dyn Read + Send>) = match name.strip_suffix(".gz") {
        Some(name) => (name, Box::new(flate2::read::MultiGzDecoder::new(file))),
        None => (&name, Box::new(file)),
    };
    let wrong = |number: usize, error: String| {
        Error::new(Code::RECORD_MALFORMED, format!("event {} is none", number + 1)).because(error)
    };
    if name.ends_with(".csv") {
        let mut reader = csv::Reader::from_reader(reader);
        let names = reader.headers().map_err(|error| wrong(0, error.to_string()))?.clone();
        let events = reader.into_records().enumerate().map(move |(number, record)| {
            let record = record.map_err(|error| wrong(number, error.to_string()))?;
            Ok(names.iter().map(str::to_owned).zip(record.iter().map(value_of)).collect())
        });
        return Ok(Box::new(events));
    }
    let mut reader = BufReader::new(reader);
    let mut number = 0;
    Ok(Box::new(std::iter::from_fn(move || {
        let mut line = String::new();
        loop {
            line.clear();
            match reader.by_ref().take(LINE).read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) if line.trim_start_matches('\u{feff}').trim().is_empty() => {}
                Ok(_) => break,
                Err(error) => return Some(Err(wrong(number, error.to_string()))),
            }
        }
        number += 1;
        Some(
            serde_json::from_str(line.trim_start_matches('\u{feff}'))
                .map_err(|error| wrong(number - 1, error.to_string())),
        )
    })))
}

/// A field of CSV: what is empty is not there, and a number that is written as one, which nothing would be lost of, is a number.
fn value_of(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    match serde_json::from_str::<serde_json::Number>(text) {
        Ok(number) if number.to_string() == text => Value::Number(number),
        _ => text.into(),
    }
}
