//! `catchment stream`

use std::io::{BufRead, Write};
use std::process::ExitCode;

use catchment_core::{Code, Error, Result, format_bytes, format_count};
use catchment_log::ShardId;
use catchment_pipelines::{LoadedConfig, open_log};
use catchment_server::{
    RecordPlace, RecordRead, RecordsRead, ShardChange, ShardDescription, StreamCommand, StreamDescription,
    Streams,
};
use serde_json::{Value, json};

use crate::arguments::{Arguments, PutArguments, StreamAction};
use crate::show::Screen;
use crate::wiring;

/// Records that are written together, and their bytes.
const TOGETHER: usize = 500;
const TOGETHER_BYTES: usize = 4 << 20;

pub(crate) async fn run(arguments: &Arguments, action: &StreamAction, screen: Screen) -> Result<ExitCode> {
    let project = match action {
        StreamAction::List { project } => project,
        StreamAction::Create { project, .. } | StreamAction::Describe { project, .. } => project,
        StreamAction::Peek { project, .. } | StreamAction::Reshard { project, .. } => project,
        StreamAction::Delete { project, .. } => project,
        StreamAction::Put(put) => &put.project,
    };
    let config = LoadedConfig::load(project, &arguments.set)?;
    let mut streams = reach(&config).await?;
    match action {
        StreamAction::List { .. } => list(&streams.perform::<Vec<_>>(StreamCommand::List).await?, screen),
        StreamAction::Create { name, shards, .. } => {
            let command = StreamCommand::Create { name: name.clone(), shards: *shards };
            describe(&streams.perform(command).await?, screen);
        }
        StreamAction::Delete { name, .. } => {
            streams.perform::<()>(StreamCommand::Delete { name: name.clone() }).await?;
        }
        StreamAction::Describe { name, .. } => {
            describe(&streams.perform(StreamCommand::Describe { name: name.clone() }).await?, screen);
        }
        StreamAction::Reshard { name, count, split, merge, .. } => {
            let change = match (count, split, merge.as_slice()) {
                (Some(count), ..) => ShardChange::To(*count),
                (_, Some(shard), _) => ShardChange::Split(shard.clone()),
                (.., [first, second]) => ShardChange::Merge(first.clone(), second.clone()),
                _ => return Err(Error::new(Code::USAGE, "say --to, --split or --merge")),
            };
            let command = StreamCommand::Reshard { name: name.clone(), change };
            describe(&streams.perform(command).await?, screen);
        }
        StreamAction::Peek { name, shard, limit, newest, .. } => {
            peek(&mut streams, name, shard.as_deref(), *limit, *newest, screen).await?;
        }
        StreamAction::Put(put) => self::put(&mut streams, put, screen).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the streams, or reaches the service that has them open.
async fn reach(config: &LoadedConfig) -> Result<Streams> {
    match open_log(config, &wiring::machine()?) {
        Ok(log) => Ok(Streams::Here(log)),
        Err(error) if error.code() == Code::STREAM_OWNED => {
            let service = Streams::there(&config.commands()).await;
            service.ok_or_else(|| error.hint("wait until `catchment run` or another command has ended"))
        }
        Err(error) => Err(error),
    }
}

fn list(streams: &[StreamDescription], screen: Screen) {
    if screen.json {
        screen.json(&json!({ "streams": streams }));
        return;
    }
    let row = |stream: &StreamDescription| {
        vec![
            stream.stream.clone(),
            open_shards(stream).to_string(),
            format!("{} h", stream.retention_hours),
            format_bytes(stream.bytes),
        ]
    };
    let rows: Vec<Vec<String>> = streams.iter().map(row).collect();
    screen.line(screen.table(&["STREAM", "OPEN SHARDS", "RETENTION", "SIZE"], &rows, &[1, 2, 3]));
}

fn open_shards(stream: &StreamDescription) -> usize {
    stream.shards.iter().filter(|shard| shard.open).count()
}

fn describe(stream: &StreamDescription, screen: Screen) {
    if screen.json {
        screen.json(&json!(stream));
        return;
    }
    screen.line(format!(
        "{}: {} open shards, {} on disk, kept {} hours\n",
        stream.stream,
        open_shards(stream),
        format_bytes(stream.bytes),
        stream.retention_hours
    ));
    let row = |shard: &ShardDescription| {
        let number = |parent: &String| ShardId::parse(parent).map(|id| id.0.to_string());
        let parents: Vec<String> = shard.parents.iter().filter_map(number).collect();
        let status = if shard.open { "open" } else { "closed" };
        let share = shard.share() * 100.0;
        let records = format_count(shard.records);
        vec![shard.shard.clone(), status.to_owned(), parents.join(", "), format!("{share:.1} %"), records]
    };
    let rows: Vec<Vec<String>> = stream.shards.iter().map(row).collect();
    screen.line(screen.table(&["SHARD", "STATUS", "PARENTS", "SHARE OF KEYS", "RECORDS"], &rows, &[3, 4]));
}

async fn peek(
    streams: &mut Streams,
    name: &str,
    shard: Option<&str>,
    limit: usize,
    newest: bool,
    screen: Screen,
) -> Result<()> {
    let stream: StreamDescription =
        streams.perform(StreamCommand::Describe { name: name.to_owned() }).await?;
    let wanted = shard.map(|text| ShardId::parse(text).map_or_else(|| text.to_owned(), |id| id.to_string()));
    if let Some(wanted) = &wanted
        && !stream.shards.iter().any(|shard| shard.shard == *wanted)
    {
        return Err(Error::new(Code::SHARD_UNKNOWN, format!("stream {name:?} has no shard {wanted:?}")));
    }
    for shard in stream.shards.iter().filter(|shard| wanted.as_ref().is_none_or(|name| *name == shard.shard))
    {
        let mut from = if newest { shard.next.saturating_sub(limit as u64) } else { 0 };
        let mut left = limit;
        while left > 0 {
            let command =
                StreamCommand::Read { name: name.to_owned(), shard: shard.shard.clone(), from, limit: left };
            let read: RecordsRead = streams.perform(command).await?;
            if read.records.is_empty() {
                break;
            }
            (left, from) = (left.saturating_sub(read.records.len()), read.next);
            read.records.iter().for_each(|record| show(record, screen));
        }
    }
    Ok(())
}

fn show(record: &RecordRead, screen: Screen) {
    if screen.json {
        screen.json(&json!(record));
        return;
    }
    let RecordRead { shard, number, arrived, key, data, .. } = record;
    screen.line(format!("{shard} {number} {arrived} {key}: {data}"));
}

/// Writes the lines of standard input, each as a record.
async fn put(streams: &mut Streams, put: &PutArguments, screen: Screen) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(Code::INPUT_OUTPUT, "could not read standard input").because(error)
    };
    let mut total = 0;
    let (mut waiting, mut bytes) = (Vec::new(), 0);
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.map_err(failed)?;
        if line.is_empty() {
            continue;
        }
        let key = match &put.key {
            None => number.to_string(),
            Some(field) => key_of(&line, field).ok_or_else(|| {
                Error::new(
                    Code::RECORD_MALFORMED,
                    format!("line {} is no JSON object with a field {field:?}", number + 1),
                )
                .hint(format!("{total} lines before it are written"))
            })?,
        };
        bytes += line.len();
        waiting.push((key, line));
        if waiting.len() >= put.batch.map_or(TOGETHER, |batch| batch as usize) || bytes >= TOGETHER_BYTES {
            total += write(streams, std::mem::take(&mut waiting), put, screen).await?;
            bytes = 0;
        }
    }
    total += write(streams, waiting, put, screen).await?;
    if screen.json {
        screen.json(&json!({ "records": total }));
    } else {
        screen.note(format!("{} records are written and durable", format_count(total)));
    }
    Ok(())
}

async fn write(
    streams: &mut Streams,
    records: Vec<(String, String)>,
    put: &PutArguments,
    screen: Screen,
) -> Result<u64> {
    let told = if put.acknowledge { records.clone() } else { Vec::new() };
    let command = StreamCommand::Put { name: put.name.clone(), records };
    let places: Vec<RecordPlace> = streams.perform(command).await?;
    for ((_, line), place) in told.iter().zip(&places) {
        screen.line(format!("{} {} {line}", place.shard, place.sequence));
    }
    // Whoever reads this knows that it is durable.
    let _ = std::io::stdout().flush();
    Ok(places.len() as u64)
}

/// The text of a field of a JSON object.
fn key_of(line: &str, field: &str) -> Option<String> {
    match serde_json::from_str::<Value>(line).ok()?.get(field)? {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}
