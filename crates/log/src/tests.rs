//! The log as a whole, against a model: what was acknowledged is there, once, in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use catchment_core::{Code, Fault, Faults, FixedClock, NoFaults};
use proptest::prelude::*;

use crate::{Entry, Log, LogOptions, Record, Reshard, ShardId, Stream, StreamName};

const SMALL: LogOptions =
    LogOptions { segment_bytes: 2_000, group_bytes: 1 << 20, waiting_bytes: 1 << 20, retention_bytes: None };
const HOUR: i64 = 3_600_000_000;

struct Place {
    folder: tempfile::TempDir,
    clock: Arc<FixedClock>,
    runtime: tokio::runtime::Runtime,
}

impl Place {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(FixedClock::new(1_700_000_000_000_000)),
            runtime,
        }
    }

    fn open(&self, options: LogOptions, faults: impl Faults + 'static) -> catchment_core::Result<Log> {
        Log::open(
            &self.folder.path().join("streams"),
            options,
            Arc::clone(&self.clock) as _,
            Arc::new(faults),
        )
    }

    fn append(&self, stream: &Stream, texts: &[&str]) -> catchment_core::Result<Vec<crate::Appended>> {
        let entries =
            texts.iter().map(|text| Entry::new(text.split('-').next().unwrap(), text.as_bytes().to_vec()));
        self.runtime.block_on(stream.append(entries.collect()))
    }

    fn newest_segment(&self) -> PathBuf {
        let folder = self.folder.path().join("streams/s.stream");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|ending| ending == "segment"));
        files.sort();
        files.pop().unwrap()
    }
}

fn name() -> StreamName {
    StreamName::new("s").unwrap()
}

fn all(stream: &Stream, shard: ShardId, at_once: usize) -> Vec<Record> {
    let (mut records, mut from) = (Vec::new(), 0);
    loop {
        let read = stream.read(shard, from, at_once, 300).unwrap();
        assert!(read.records.len() <= at_once);
        if read.records.is_empty() {
            return records;
        }
        from = read.next;
        records.extend(read.records);
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.data.to_vec()).unwrap()).collect()
}

/// The records of each key as a reader finds them that reads parents before their children.
fn by_key(stream: &Stream, at_once: usize) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for shard in &stream.state().shards {
        assert!(shard.parents.iter().all(|parent| *parent < shard.id), "children come after their parents");
        let records = all(stream, shard.id, at_once);
        assert!(
            records
                .windows(2)
                .all(|pair| pair[0].ordinal + 1 == pair[1].ordinal && pair[0].arrived <= pair[1].arrived)
        );
        for record in records {
            assert!(shard.range.contains(crate::hash_of(&record.partition_key)));
            found
                .entry(record.partition_key)
                .or_default()
                .push(String::from_utf8(record.data.to_vec()).unwrap());
        }
    }
    found
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<u8>),
    Split(usize),
    Merge(usize),
    Scale(usize),
    Open,
    Clock(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(0u8..20, 1..40).prop_map(Step::Append),
        1 => (0usize..8).prop_map(Step::Split),
        1 => (0usize..8).prop_map(Step::Merge),
        1 => (1usize..6).prop_map(Step::Scale),
        2 => Just(Step::Open),
        1 => (-5_000_000i64..5_000_000).prop_map(Step::Clock),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn records_of_a_key_are_read_once_and_in_order_after_any_history(shards in 1u32..5, steps in prop::collection::vec(step(), 1..40), at_once in 1usize..50) {
        let place = Place::new();
        let mut log = place.open(SMALL, NoFaults).unwrap();
        let mut stream = log.create(&name(), shards, |_| {}).unwrap();
        let mut model: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut numbers = Vec::new();
        let mut count = 0;
        for step in steps {
            let open: Vec<ShardId> = stream.state().open().map(|shard| shard.id).collect();
            match step {
                Step::Append(keys) => {
                    let texts: Vec<String> = keys.iter().map(|key| { count += 1; format!("{key}-{count}") }).collect();
                    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
                    numbers.extend(place.append(&stream, &borrowed).unwrap().iter().map(|appended| appended.sequence.to_string()));
                    for (key, text) in keys.iter().zip(texts) {
                        model.entry(key.to_string()).or_default().push(text);
                    }
                }
                Step::Split(which) => {
                    let id = open[which % open.len()];
                    let range = stream.state().shard(id).unwrap().range;
                    let half = range.start + (range.end - range.start) / 2;
                    let _ = place.runtime.block_on(stream.reshard(Reshard::Split(id, half)));
                }
                Step::Merge(which) => {
                    let (one, other) = (open[which % open.len()], open[(which + 1) % open.len()]);
                    let _ = place.runtime.block_on(stream.reshard(Reshard::Merge(one, other)));
                }
                Step::Scale(to) => {
                    place.runtime.block_on(stream.scale(to)).unwrap();
                    prop_assert_eq!(stream.state().open().count(), to);
                }
                Step::Open => {
                    drop(stream);
                    drop(log);
                    log = place.open(SMALL, NoFaults).unwrap();
                    stream = log.stream(&name()).unwrap();
                }
                Step::Clock(micros) => place.clock.advance(micros),
            }
        }
        prop_assert_eq!(by_key(&stream, at_once), model);
        let total = numbers.len();
        numbers.sort();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), total, "a sequence number repeats");
    }
}

/// A stream with ten acknowledged records, and the bytes of its segment before and after one group more.
fn with_a_last_group(place: &Place) -> (PathBuf, Vec<u8>, Vec<u8>) {
    let log = place.open(LogOptions::default(), NoFaults).unwrap();
    let stream = log.create(&name(), 2, |_| {}).unwrap();
    for number in 0..5 {
        place.append(&stream, &[&format!("a-{number}"), &format!("b-{number}")]).unwrap();
    }
    let path = place.newest_segment();
    let before = std::fs::read(&path).unwrap();
    place.append(&stream, &["a-last", "b-last", "c-last", "d-last"]).unwrap();
    let after = std::fs::read(&path).unwrap();
    (path, before, after)
}

#[expect(clippy::disallowed_methods, reason = "the test damages a file")]
fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_torn_end_is_dropped_and_nothing_else() {
    let place = Place::new();
    let (path, before, after) = with_a_last_group(&place);
    let mut damaged: Vec<Vec<u8>> =
        (before.len()..after.len()).step_by(7).map(|length| after[..length].to_vec()).collect();
    // Pages of what was not synced may be missing anywhere in it.
    damaged.extend((before.len()..after.len()).step_by(5).map(|at| {
        let mut bytes = after.clone();
        bytes[at..].iter_mut().take(20).for_each(|byte| *byte = 0);
        bytes
    }));
    damaged.push([before.clone(), vec![0; 5_000]].concat());
    for bytes in damaged {
        put(&path, &bytes);
        let log = place.open(LogOptions::default(), NoFaults).unwrap();
        let stream = log.stream(&name()).unwrap();
        let found = by_key(&stream, 100);
        for key in ["a", "b"] {
            let acknowledged: Vec<String> = (0..5).map(|number| format!("{key}-{number}")).collect();
            assert_eq!(found[key][..5], acknowledged);
        }
        assert!(found.values().map(Vec::len).sum::<usize>() <= 14);
        // What is written next goes on behind it.
        let appended = place.append(&stream, &["a-next"]).unwrap();
        let shard = all(&stream, appended[0].shard, 100);
        assert_eq!(shard.last().unwrap().data, Bytes::from("a-next"));
    }
}

#[test]
fn damage_to_what_was_acknowledged_is_an_error() {
    let place = Place::new();
    let (path, before, after) = with_a_last_group(&place);
    for at in (0..before.len() - 150).step_by(31) {
        let mut bytes = after.clone();
        bytes[at] ^= 0x55;
        put(&path, &bytes);
        let error = place.open(LogOptions::default(), NoFaults).unwrap_err();
        assert_eq!(error.code(), Code::STREAM_CORRUPT, "byte {at}");
    }
    put(&path, &after);
    assert_eq!(place.open(LogOptions::default(), NoFaults).unwrap().streams().len(), 1);
}

#[test]
fn one_process_has_the_log() {
    let place = Place::new();
    let _log = place.open(SMALL, NoFaults).unwrap();
    assert_eq!(place.open(SMALL, NoFaults).unwrap_err().code(), Code::STREAM_OWNED);
}

#[test]
fn streams_are_made_once_and_deleted_with_their_records() {
    let place = Place::new();
    let log = place.open(SMALL, NoFaults).unwrap();
    for name in ["..", ".", "a_b.C-1"] {
        log.create(&StreamName::new(name).unwrap(), 1, |_| {}).unwrap();
    }
    let stream = log.create(&name(), 1, |_| {}).unwrap();
    place.append(&stream, &["a-1"]).unwrap();
    assert_eq!(log.create(&name(), 1, |_| {}).unwrap_err().code(), Code::STREAM_EXISTS);
    log.delete(&name()).unwrap();
    assert_eq!(place.append(&stream, &["a-2"]).unwrap_err().code(), Code::STREAM_UNKNOWN);
    assert_eq!(log.delete(&name()).unwrap_err().code(), Code::STREAM_UNKNOWN);
    let again = log.create(&name(), 1, |_| {}).unwrap();
    assert_eq!(by_key(&again, 10), BTreeMap::new());
    drop(log);
    assert_eq!(place.open(SMALL, NoFaults).unwrap().streams().len(), 4);
    for wrong in ["", "a/b", "ä", &"a".repeat(129)] {
        assert_eq!(StreamName::new(wrong).unwrap_err().code(), Code::NAME_INVALID);
    }
}

#[test]
fn a_write_that_fails_leaves_nothing_and_the_next_one_works() {
    for fault in ["log-written:2:fail", "log-sealed:2:fail"] {
        let place = Place::new();
        let log = place.open(SMALL, Fault::parse(fault).unwrap()).unwrap();
        let stream = log.create(&name(), 1, |_| {}).unwrap();
        let mut acknowledged = Vec::new();
        let mut failures = 0;
        for number in 0..60 {
            let text = format!("a-{number}");
            match place.append(&stream, &[&text, &text]) {
                Ok(_) => acknowledged.extend([text.clone(), text]),
                Err(error) => {
                    assert_eq!(error.code(), Code::FAULT_INJECTED);
                    failures += 1;
                }
            }
        }
        assert_eq!((failures, texts(&all(&stream, ShardId(0), 100))), (1, acknowledged.clone()), "{fault}");
        drop((stream, log));
        let log = place.open(SMALL, NoFaults).unwrap();
        assert_eq!(texts(&all(&log.stream(&name()).unwrap(), ShardId(0), 100)), acknowledged);
    }
}

#[test]
fn more_than_may_wait_is_refused_whole() {
    let place = Place::new();
    let options = LogOptions { waiting_bytes: 2_000, ..SMALL };
    let log = place.open(options, NoFaults).unwrap();
    let stream = log.create(&name(), 1, |_| {}).unwrap();
    let large =
        |number: usize| vec![Entry::new("k", vec![0; 600]), Entry::new(format!("{number}"), vec![0; 600])];
    let results = place.runtime.block_on(async {
        let mut all = Vec::new();
        for number in 0..200 {
            all.push(Box::pin(stream.append(large(number))));
        }
        let mut done = Vec::new();
        // Polled once each, so that many wait together.
        for one in &mut all {
            done.push(tokio::time::timeout(std::time::Duration::ZERO, one).await);
        }
        let mut results = Vec::new();
        for (early, late) in done.into_iter().zip(all) {
            results.push(match early {
                Ok(result) => result,
                Err(_) => late.await,
            });
        }
        results
    });
    let kept = results.iter().filter(|result| result.is_ok()).count();
    let refused = results
        .iter()
        .filter(|result| result.as_ref().is_err_and(|error| error.code() == Code::STREAM_BUSY))
        .count();
    assert_eq!(kept + refused, 200);
    assert!(kept > 0);
    assert_eq!(all(&stream, ShardId(0), 1_000).len(), kept * 2);
}

#[test]
fn what_is_older_than_kept_goes_and_numbers_go_on() {
    let place = Place::new();
    let log = place.open(SMALL, NoFaults).unwrap();
    let stream = log.create(&name(), 1, |_| {}).unwrap();
    let retain = || place.runtime.block_on(stream.retain()).unwrap();
    for hour in 0..30 {
        place.append(&stream, &[&format!("a-{hour}"), &format!("b-{hour}")]).unwrap();
        place.clock.advance(HOUR);
        retain();
    }
    let kept = all(&stream, ShardId(0), 100);
    // The record of hour 5 is 25 hours old, that of hour 6 just 24.
    assert_eq!((kept[0].data.clone(), kept.len()), (Bytes::from("a-6"), 48));
    assert_eq!(stream.since(ShardId(0), kept[10].arrived).unwrap(), kept[10].ordinal);
    assert_eq!(stream.since(ShardId(0), kept[9].arrived + 1).unwrap(), kept[10].ordinal);
    place.runtime.block_on(stream.reshard(Reshard::Split(ShardId(0), 1 << 100))).unwrap();
    place.clock.advance(25 * HOUR);
    retain();
    retain();
    assert_eq!(stream.read(ShardId(0), 0, 10, 1_000).unwrap_err().code(), Code::SHARD_UNKNOWN);
    assert!(stream.bytes() < 1_000, "{}", stream.bytes());
    let number = place.append(&stream, &["a-again"]).unwrap()[0];
    assert!(number.shard > ShardId(0));
    drop((stream, log));
    let log = place.open(SMALL, NoFaults).unwrap();
    let stream = log.stream(&name()).unwrap();
    assert_eq!(texts(&all(&stream, number.shard, 10)), ["a-again"]);
}

#[test]
fn the_oldest_go_when_there_are_too_many_bytes() {
    let place = Place::new();
    let log = place.open(LogOptions { retention_bytes: Some(10_000), ..SMALL }, NoFaults).unwrap();
    let stream = log.create(&name(), 3, |_| {}).unwrap();
    for number in 0..500 {
        place.append(&stream, &[&format!("{number}-x")]).unwrap();
    }
    place.runtime.block_on(stream.retain()).unwrap();
    assert!((7_000..=12_000).contains(&stream.bytes()), "{}", stream.bytes());
    let kept: Vec<String> = by_key(&stream, 100).into_values().flatten().collect();
    let oldest = kept.iter().map(|text| text[..text.len() - 2].parse::<usize>().unwrap()).min().unwrap();
    assert_eq!(kept.len(), 500 - oldest);
}

#[test]
fn a_record_that_looks_like_a_block_does_not_hide_a_torn_end() {
    let place = Place::new();
    let log = place.open(LogOptions::default(), NoFaults).unwrap();
    let stream = log.create(&name(), 1, |_| {}).unwrap();
    place.append(&stream, &["a-1", "a-2"]).unwrap();
    let path = place.newest_segment();
    // Blocks as another segment has them, of a group that would come later: all but the salt is right.
    let blocks = block_of_a_later_group();
    let data = [blocks, vec![7; 3_000]].concat();
    place.runtime.block_on(stream.append(vec![Entry::new("b", data)])).unwrap();
    drop((stream, log));
    let bytes = std::fs::read(&path).unwrap();
    put(&path, &bytes[..bytes.len() - 1_000]);
    let log = place.open(LogOptions::default(), NoFaults).unwrap();
    assert_eq!(texts(&all(&log.stream(&name()).unwrap(), ShardId(0), 10)), ["a-1", "a-2"]);
}

fn block_of_a_later_group() -> Vec<u8> {
    let mut block = crate::block::Builder::default();
    block.push("x", b"forged");
    block.finish(crate::block::Kind::Records, ShardId(0), 9, 0, (1 << 40, 12_345)).1
}

#[test]
fn a_stream_that_is_made_while_its_namesake_is_deleted_is_there() {
    let place = Place::new();
    let log = place.open(SMALL, NoFaults).unwrap();
    for round in 0..20 {
        let first = log.create(&name(), 1, |_| {}).unwrap();
        let text = format!("a-{round}");
        let second = std::thread::scope(|scope| {
            scope.spawn(|| log.delete(&name()).unwrap());
            let made = scope.spawn(|| {
                loop {
                    if let Ok(stream) = log.create(&name(), 1, |_| {}) {
                        return stream;
                    }
                    std::thread::yield_now();
                }
            });
            made.join().unwrap()
        });
        place.append(&second, &[&text]).unwrap();
        assert!(first.is_closed());
        assert_eq!(texts(&all(&log.stream(&name()).unwrap(), ShardId(0), 10)), [text]);
        assert!(place.newest_segment().exists());
        log.delete(&name()).unwrap();
    }
}

#[test]
fn records_that_are_too_large_are_refused_and_nothing_is_lost() {
    let place = Place::new();
    let log = place.open(LogOptions::default(), NoFaults).unwrap();
    let stream = log.create(&name(), 1, |_| {}).unwrap();
    let append = |entries: Vec<Entry>| place.runtime.block_on(stream.append(entries));
    let small = || Entry::new("a", "a-1");
    for large in [Entry::new("k".repeat(70_000), "x"), Entry::new("k", vec![0; 1 << 20])] {
        assert_eq!(append(vec![small(), large, small()]).unwrap_err().code(), Code::RECORD_LARGE);
    }
    let many = vec![small(); 2_000_000];
    assert_eq!(append(many).unwrap_err().code(), Code::RECORD_LARGE);
    // Many records make many blocks, and reading goes on within them.
    append(vec![small(); 30_000]).unwrap();
    let mut from = 0;
    let mut count = 0;
    loop {
        let read = stream.read(ShardId(0), from, 5_000, 1 << 20).unwrap();
        if read.records.is_empty() {
            break;
        }
        (from, count) = (read.next, count + read.records.len());
    }
    assert_eq!(count, 30_000);
}
