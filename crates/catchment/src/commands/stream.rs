//! `catchment stream`

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;

use catchment_core::{Code, Error, Result, format_bytes, format_count, timestamp_text};
use catchment_log::{Appended, Entry, Log, Reshard, Shard, ShardId, Stream, StreamName};
use catchment_pipelines::{LoadedConfig, open_log};
use serde_json::{Value, json};

use crate::arguments::{Arguments, PutArguments, StreamAction};
use crate::show::Screen;
use crate::wiring;

/// Records that are written together.
const TOGETHER: usize = 500;

pub(crate) async fn run(arguments: &Arguments, action: &StreamAction, screen: Screen) -> Result<ExitCode> {
    let project = match action {
        StreamAction::List { project } => project,
        StreamAction::Create { project, .. } | StreamAction::Describe { project, .. } => project,
        StreamAction::Peek { project, .. } | StreamAction::Reshard { project, .. } => project,
        StreamAction::Delete { project, .. } => project,
        StreamAction::Put(put) => &put.project,
    };
    let config = LoadedConfig::load(project, &arguments.set)?;
    let log = open_log(&config, &wiring::machine()?)
        .map_err(|error| error.hint("stop `catchment serve`, or use an AWS client with its address"))?;
    match action {
        StreamAction::List { .. } => list(&log, screen),
        StreamAction::Create { name, shards, .. } => {
            let stream = log.create(&StreamName::new(name)?, *shards, |_| {})?;
            describe(&stream, screen);
        }
        StreamAction::Delete { name, .. } => log.delete(&StreamName::new(name)?)?,
        StreamAction::Describe { name, .. } => describe(&*log.stream(&StreamName::new(name)?)?, screen),
        StreamAction::Reshard { name, count, split, merge, .. } => {
            let stream = log.stream(&StreamName::new(name)?)?;
            match (count, split, merge.as_slice()) {
                (Some(count), ..) => stream.scale(*count as usize).await?,
                (_, Some(shard), _) => stream.reshard(half(&stream, shard)?).await?,
                (.., [first, second]) => stream.reshard(Reshard::Merge(id(first)?, id(second)?)).await?,
                _ => return Err(Error::new(Code::USAGE, "say --to, --split or --merge")),
            }
            describe(&stream, screen);
        }
        StreamAction::Peek { name, shard, limit, newest, .. } => {
            let shard = shard.as_deref().map(id).transpose()?;
            peek(&*log.stream(&StreamName::new(name)?)?, shard, *limit, *newest, screen)?;
        }
        StreamAction::Put(put) => self::put(&*log.stream(&StreamName::new(&put.name)?)?, put, screen).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn id(text: &str) -> Result<ShardId> {
    ShardId::parse(text).ok_or_else(|| Error::new(Code::SHARD_UNKNOWN, format!("{text:?} is no shard")))
}

/// Splits a shard in the middle.
fn half(stream: &Stream, shard: &str) -> Result<Reshard> {
    let shard = id(shard)?;
    let range = stream.state().shard(shard)?.range;
    Ok(Reshard::Split(shard, range.start + (range.end - range.start) / 2 + 1))
}

fn list(log: &Log, screen: Screen) {
    let streams = log.streams();
    if screen.json {
        let all: Vec<Value> = streams.iter().map(|stream| as_json(stream)).collect();
        screen.json(&json!({ "streams": all }));
        return;
    }
    let row = |stream: &Arc<Stream>| {
        let state = stream.state();
        let open = state.open().count().to_string();
        vec![
            state.name.to_string(),
            open,
            format!("{} h", state.retention_hours),
            format_bytes(stream.bytes()),
        ]
    };
    let rows: Vec<Vec<String>> = streams.iter().map(row).collect();
    screen.line(screen.table(&["STREAM", "OPEN SHARDS", "RETENTION", "SIZE"], &rows, &[1, 2, 3]));
}

fn as_json(stream: &Stream) -> Value {
    let state = stream.state();
    let shard = |shard: &Shard| {
        json!({
            "shard": shard.id.to_string(), "open": shard.is_open(), "parents": shard.parents.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "first_hash": shard.range.start.to_string(), "last_hash": shard.range.end.to_string(), "records": kept(stream, shard),
        })
    };
    json!({
        "stream": state.name, "created_at": timestamp_text(state.created_at * 1_000), "retention_hours": state.retention_hours,
        "bytes": stream.bytes(), "shards": state.shards.iter().map(shard).collect::<Vec<_>>(),
    })
}

/// Records of a shard that are kept.
fn kept(stream: &Stream, shard: &Shard) -> u64 {
    stream.head(shard.id).saturating_sub(stream.oldest(shard.id).unwrap_or(1))
}

fn describe(stream: &Stream, screen: Screen) {
    if screen.json {
        screen.json(&as_json(stream));
        return;
    }
    let state = stream.state();
    screen.line(format!(
        "{}: {} open shards, {} on disk, kept {} hours\n",
        state.name,
        state.open().count(),
        format_bytes(stream.bytes()),
        state.retention_hours
    ));
    let row = |shard: &Shard| {
        let parents: Vec<String> = shard.parents.iter().map(|parent| parent.0.to_string()).collect();
        let status = if shard.is_open() { "open" } else { "closed" };
        let share = (shard.range.end - shard.range.start) as f64 / u128::MAX as f64 * 100.0;
        let records = format_count(kept(stream, shard));
        vec![shard.id.to_string(), status.to_owned(), parents.join(", "), format!("{share:.1} %"), records]
    };
    let rows: Vec<Vec<String>> = state.shards.iter().map(row).collect();
    screen.line(screen.table(&["SHARD", "STATUS", "PARENTS", "SHARE OF KEYS", "RECORDS"], &rows, &[3, 4]));
}

fn peek(stream: &Stream, shard: Option<ShardId>, limit: usize, newest: bool, screen: Screen) -> Result<()> {
    let state = stream.state();
    let mut rows = Vec::new();
    for shard in state.shards.iter().filter(|known| shard.is_none_or(|wanted| wanted == known.id)) {
        let behind = if newest { stream.head(shard.id).saturating_sub(limit as u64) } else { 0 };
        let mut from = behind;
        let mut left = limit;
        while left > 0 {
            let read = stream.read(shard.id, from, left, 16 << 20)?;
            if read.records.is_empty() {
                break;
            }
            (left, from) = (left - read.records.len(), read.next);
            for record in read.records {
                let sequence = stream.sequence(shard.id, record.ordinal, record.arrived)?;
                rows.push((shard.id, sequence, record));
            }
        }
    }
    for (shard, sequence, record) in rows {
        let data = String::from_utf8_lossy(&record.data);
        let arrived = timestamp_text(record.arrived * 1_000);
        if screen.json {
            screen.json(&json!({
                "shard": shard.to_string(), "sequence": sequence.to_string(), "arrived": arrived,
                "key": record.partition_key, "data": data,
            }));
        } else {
            screen.line(format!("{shard} {} {arrived} {}: {data}", record.ordinal, record.partition_key));
        }
    }
    Ok(())
}

/// Writes the lines of standard input, each as a record.
async fn put(stream: &Stream, put: &PutArguments, screen: Screen) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(Code::INPUT_OUTPUT, "could not read standard input").because(error)
    };
    let mut total = 0;
    let mut waiting = Vec::new();
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
        waiting.push(Entry::new(key, line.into_bytes()));
        if waiting.len() >= put.batch.map_or(TOGETHER, |batch| batch as usize) {
            total += write(stream, std::mem::take(&mut waiting), put, screen).await?;
        }
    }
    total += write(stream, waiting, put, screen).await?;
    if screen.json {
        screen.json(&json!({ "records": total }));
    } else {
        screen.note(format!("{} records are written and durable", format_count(total)));
    }
    Ok(())
}

async fn write(stream: &Stream, entries: Vec<Entry>, put: &PutArguments, screen: Screen) -> Result<u64> {
    let lines: Vec<_> =
        if put.acknowledge { entries.iter().map(|entry| entry.data.clone()).collect() } else { Vec::new() };
    let appended: Vec<Appended> = stream.append(entries).await?;
    for (line, at) in lines.iter().zip(&appended) {
        screen.line(format!("{} {} {}", at.shard, at.sequence, String::from_utf8_lossy(line)));
    }
    // Whoever reads this knows that it is durable.
    let _ = std::io::stdout().flush();
    Ok(appended.len() as u64)
}

/// The text of a field of a JSON object.
fn key_of(line: &str, field: &str) -> Option<String> {
    match serde_json::from_str::<Value>(line).ok()?.get(field)? {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}
