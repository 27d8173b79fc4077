//! A stream read in ranges gives every record once, each key's in order, whatever the limits and the reshards.

use std::collections::BTreeMap;
use std::sync::Arc;

use catchment_core::{Code, FixedClock, NoFaults};
use catchment_log::{Entry, Log, LogOptions, StreamName};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{Int64Type, UInt64Type};
use datafusion::physical_plan::common::collect;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::decode::Codec;
use super::{Connections, InitialPosition, OpenLog, Origin, ReadStream, StreamSource};
use crate::rejects::Rejects;
use crate::source::{Limits, Range, Source, Standing, StreamPosition};
use crate::types::parse_schema;

#[derive(Debug)]
struct Opened(Arc<Log>);

impl OpenLog for Opened {
    fn log(&self) -> catchment_core::Result<Arc<Log>> {
        Ok(Arc::clone(&self.0))
    }
}

impl Connections for Opened {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn now_millis(&self) -> i64 {
        0
    }
}

struct Place {
    _folder: tempfile::TempDir,
    clock: Arc<FixedClock>,
    log: Arc<Log>,
}

impl Place {
    fn new(shards: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(FixedClock::new(1_700_000_000_000_000));
        let options = LogOptions { segment_bytes: 3_000, ..LogOptions::default() };
        let log = Log::open(folder.path(), options, Arc::clone(&clock) as _, Arc::new(NoFaults)).unwrap();
        log.create(&name(), shards, |_| {}).unwrap();
        Self { _folder: folder, clock, log: Arc::new(log) }
    }

    fn source(&self, initial: InitialPosition, fails_on_loss: bool) -> StreamSource {
        let options = ReadStream {
            origin: Origin::Log(name()),
            codec: Arc::new(Codec::Json(None)),
            columns: parse_schema("k BIGINT, n BIGINT").unwrap(),
            rescue: None,
            initial,
            fails_on_loss,
            limits: Limits::NONE,
        };
        StreamSource::new(options, Arc::new(Opened(Arc::clone(&self.log))))
    }

    async fn put(&self, keys: &[u8], count: &mut i64) {
        let entries = keys.iter().map(|key| {
            *count += 1;
            Entry::new(key.to_string(), format!("{{\"k\":{key},\"n\":{count}}}"))
        });
        let stream = self.log.stream(&name()).unwrap();
        stream.append(entries.collect()).await.unwrap();
    }
}

fn name() -> StreamName {
    StreamName::new("s").unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The rows of a range: address, key, number; in the order of their addresses.
#[expect(clippy::disallowed_methods, reason = "a test of sources has no session maker")]
async fn rows(source: &StreamSource, range: &Range) -> Vec<(u64, i64, i64)> {
    let (rejects, _sink) = Rejects::channel();
    let table = source.read(range, rejects, Some(0)).unwrap();
    let session = SessionContext::new();
    let plan = session.read_table(table).unwrap().create_physical_plan().await.unwrap();
    let mut found = Vec::new();
    for part in 0..plan.properties().partitioning.partition_count() {
        for batch in collect(plan.execute(part, session.task_ctx()).unwrap()).await.unwrap() {
            let column = |name: &str| batch.column_by_name(name).unwrap();
            let (keys, numbers) =
                (column("k").as_primitive::<Int64Type>(), column("n").as_primitive::<Int64Type>());
            let addresses = column(crate::ADDRESS_COLUMN).as_primitive::<UInt64Type>();
            assert!(addresses.values().windows(2).all(|pair| pair[0] < pair[1]));
            found.extend(
                (0..batch.num_rows()).map(|row| (addresses.value(row), keys.value(row), numbers.value(row))),
            );
        }
    }
    found.sort_unstable();
    found
}

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>),
    Scale(usize),
    Read(u64),
    Bounded(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(0u8..12, 1..60).prop_map(Step::Put),
        1 => (1usize..6).prop_map(Step::Scale),
        3 => (1u64..4_000).prop_map(Step::Read),
        1 => (1u64..4_000).prop_map(Step::Bounded),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn every_record_is_read_once_and_those_of_a_key_in_order(shards in 1u32..4, steps in prop::collection::vec(step(), 1..25)) {
        runtime().block_on(async {
            let place = Place::new(shards);
            let source = place.source(InitialPosition::Earliest, true);
            let mut standing = Standing::default();
            let (mut count, mut put) = (0, BTreeMap::<i64, Vec<i64>>::new());
            let mut read = BTreeMap::<i64, Vec<i64>>::new();
            for step in steps.into_iter().chain((0..10_000).map(|_| Step::Read(2_000))) {
                let limit = match step {
                    Step::Put(keys) => {
                        let first = count + 1;
                        place.put(&keys, &mut count).await;
                        keys.iter().zip(first..).for_each(|(key, n)| put.entry((*key).into()).or_default().push(n));
                        continue;
                    }
                    Step::Scale(to) => {
                        place.log.stream(&name()).unwrap().scale(to).await.unwrap();
                        continue;
                    }
                    Step::Bounded(limit) => {
                        // What comes after the horizon is not part of the run.
                        standing.horizon = source.horizon().await.unwrap().map(Arc::new);
                        place.put(&[1, 2, 3], &mut count).await;
                        (1..=3).zip(count - 2..).for_each(|(key, n)| put.entry(key).or_default().push(n));
                        limit
                    }
                    Step::Read(limit) => limit,
                };
                let bound = standing.horizon.take();
                let limits = Limits { files: usize::MAX, bytes: limit };
                let range = source.plan(&Standing { horizon: bound.clone(), ..standing.clone() }, limits).await.unwrap();
                let Some(range) = range else {
                    if bound.is_none() && limit == 2_000 && read == put {
                        break;
                    }
                    continue;
                };
                if let (Some(bound), Range::Stream { slices, .. }) = (&bound, &range) {
                    assert!(slices.iter().all(|slice| slice.until.ordinal() <= bound.next.get(&slice.partition).map_or(Some(1), StreamPosition::ordinal)));
                }
                let found = rows(&source, &range).await;
                // The same range gives the same rows again.
                assert_eq!(rows(&source, &range).await, found);
                for (_, key, number) in found {
                    read.entry(key).or_default().push(number);
                }
                range.advance(&mut standing);
            }
            assert_eq!(read, put);
        });
    }
}

#[test]
fn records_are_found_by_their_addresses() {
    runtime().block_on(async {
        let place = Place::new(2);
        let source = place.source(InitialPosition::Earliest, true);
        let mut count = 0;
        place.put(&(0..40).collect::<Vec<_>>(), &mut count).await;
        let range = source.plan(&Standing::default(), Limits::NONE).await.unwrap().unwrap();
        let found = rows(&source, &range).await;
        let wanted: Vec<_> = found.iter().step_by(7).map(|(address, ..)| crate::Address(*address)).collect();
        let records =
            tokio::task::spawn_blocking(move || source.records(&range, 0, &wanted).unwrap()).await.unwrap();
        let numbers =
            found.iter().step_by(7).map(|(_, key, number)| format!("{{\"k\":{key},\"n\":{number}}}"));
        assert!(records.iter().map(|record| record.record.clone()).eq(numbers));
        assert!(records.iter().all(|record| record.file.starts_with("s/shardId-00000000000")));
    });
}

#[test]
fn records_that_are_gone_before_they_are_read_are_an_error_unless_that_is_fine() {
    runtime().block_on(async {
        let place = Place::new(1);
        let (strict, lenient) =
            (place.source(InitialPosition::Earliest, true), place.source(InitialPosition::Earliest, false));
        let mut count = 0;
        place.put(&[1], &mut count).await;
        let mut standing = Standing::default();
        strict.plan(&standing, Limits::NONE).await.unwrap().unwrap().advance(&mut standing);
        place.put(&[1, 2], &mut count).await;
        let planned = strict.plan(&standing, Limits::NONE).await.unwrap().unwrap();
        let hours = |hours: i64| place.clock.advance(hours * 3_600_000_000);
        hours(30);
        place.put(&[3], &mut count).await;
        assert_eq!(strict.plan(&standing, Limits::NONE).await.unwrap_err().code(), Code::HISTORY_GONE);
        let rest = lenient.plan(&standing, Limits::NONE).await.unwrap().unwrap();
        assert_eq!(rows(&lenient, &rest).await.len(), 1);
        // A whole shard may be gone, with records that nobody read.
        let stream = place.log.stream(&name()).unwrap();
        stream.scale(2).await.unwrap();
        hours(30);
        stream.retain().await.unwrap();
        stream.retain().await.unwrap();
        assert_eq!(strict.plan(&standing, Limits::NONE).await.unwrap_err().code(), Code::HISTORY_GONE);
        assert!(lenient.plan(&standing, Limits::NONE).await.is_ok());
        let (rejects, _sink) = Rejects::channel();
        let table = strict.read(&planned, rejects, None);
        assert!(table.is_ok(), "what is gone is told when it is read");
    });
}

#[test]
fn another_stream_of_the_same_name_is_told_from_the_first() {
    runtime().block_on(async {
        let place = Place::new(1);
        let (strict, lenient) =
            (place.source(InitialPosition::Earliest, true), place.source(InitialPosition::Earliest, false));
        let mut count = 0;
        place.put(&[1; 10], &mut count).await;
        let mut standing = Standing::default();
        let first = strict.plan(&standing, Limits::NONE).await.unwrap().unwrap();
        first.advance(&mut standing);
        assert!(strict.is_current(&first).await.unwrap());
        place.log.delete(&name()).unwrap();
        place.clock.advance(5_000_000);
        place.log.create(&name(), 1, |_| {}).unwrap();
        place.put(&[1; 5], &mut count).await;
        assert!(!strict.is_current(&first).await.unwrap());
        assert_eq!(strict.plan(&standing, Limits::NONE).await.unwrap_err().code(), Code::HISTORY_GONE);
        let again = lenient.plan(&standing, Limits::NONE).await.unwrap().unwrap();
        assert_eq!(rows(&lenient, &again).await.len(), 5);
    });
}

#[test]
fn shards_that_went_before_a_flow_began_or_after_it_read_them_are_no_loss() {
    runtime().block_on(async {
        let place = Place::new(1);
        let source = place.source(InitialPosition::Earliest, true);
        let stream = place.log.stream(&name()).unwrap();
        let mut count = 0;
        place.put(&[1, 2, 3], &mut count).await;
        let mut standing = Standing::default();
        source.plan(&standing, Limits::NONE).await.unwrap().unwrap().advance(&mut standing);
        // Nothing is written behind the reshard, and the flow notes all the same that the parent is read.
        stream.scale(2).await.unwrap();
        source.plan(&standing, Limits::NONE).await.unwrap().unwrap().advance(&mut standing);
        place.clock.advance(60 * 3_600_000_000);
        stream.retain().await.unwrap();
        stream.retain().await.unwrap();
        assert_eq!(stream.state().shards.len(), 2);
        place.put(&[4, 5], &mut count).await;
        let mut both = [standing, Standing::default()];
        for expected in [2, 1] {
            for standing in &mut both {
                let range = source.plan(standing, Limits::NONE).await.unwrap().unwrap();
                assert_eq!(rows(&source, &range).await.len(), expected);
                range.advance(standing);
            }
            place.put(&[6], &mut count).await;
        }
    });
}

#[test]
fn latest_begins_with_what_comes() {
    runtime().block_on(async {
        let place = Place::new(2);
        let source = place.source(InitialPosition::Latest, true);
        let mut count = 0;
        place.put(&[1, 2, 3], &mut count).await;
        let mut standing = Standing::default();
        let first = source.plan(&standing, Limits::NONE).await.unwrap().unwrap();
        assert_eq!(first.pieces(), 0);
        first.advance(&mut standing);
        place.put(&[4, 5], &mut count).await;
        let next = source.plan(&standing, Limits::NONE).await.unwrap().unwrap();
        let mut numbers: Vec<i64> = rows(&source, &next).await.iter().map(|(.., number)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [4, 5]);
        next.advance(&mut standing);
        assert_eq!(source.plan(&standing, Limits::NONE).await.unwrap(), None);
    });
}
