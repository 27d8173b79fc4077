//! The traps of the library below, each as a test of our own writer.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use catchment_core::{
    Clock, Code, Fault, FaultPoint, Faults, FixedClock, FlowName, NoFaults, Position, TableName,
};
use datafusion::prelude::SessionContext;
use deltalake::delta_datafusion::planner::DeltaPlanner;
use serde_json::json;

use crate::{
    FileOptions, Lake, Maintenance, MaintenanceOptions, Merge, Outcome, Owner, Publication, TableSpec,
    TableWriter,
};

struct World {
    lake: Arc<Lake>,
    folder: tempfile::TempDir,
}

fn world_with(faults: Arc<dyn Faults>) -> World {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(FixedClock::new(1_700_000_000_000_000));
    let lake = Lake::open(folder.path(), clock, faults).unwrap();
    World { lake, folder }
}

fn world() -> World {
    world_with(Arc::new(NoFaults))
}

fn name() -> TableName {
    TableName::new("raw", "t")
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("day", DataType::Utf8, true),
    ]))
}

fn spec() -> TableSpec {
    TableSpec {
        schema: schema(),
        partition_columns: vec!["day".to_owned()],
        comment: Some("events".to_owned()),
        properties: Vec::new(),
    }
}

fn batch(ids: &[i64], day: &str) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    let days: ArrayRef = Arc::new(StringArray::from(vec![day; ids.len()]));
    RecordBatch::try_new(schema(), vec![ids, days]).unwrap()
}

async fn write(writer: &TableWriter, rows: &RecordBatch) -> Vec<crate::Add> {
    let mut files = writer.files(FileOptions::of(&name(), &spec(), 1 << 20)).unwrap();
    files.write(rows).await.unwrap();
    files.finish().await.unwrap().adds
}

async fn table_with(owner: &Owner, appends: i64) -> Arc<TableWriter> {
    let writer = owner.writer(&name());
    writer.ensure(&spec()).await.unwrap();
    for id in 0..appends {
        let adds = write(&writer, &batch(&[id], "2013-01-01")).await;
        writer.append(Publication { adds, ..at(Position::new(0, id as u64)) }).await.unwrap();
    }
    writer
}

fn flow() -> FlowName {
    FlowName::new("raw.t")
}

fn at(position: Position) -> Publication {
    Publication { position: Some((flow(), position)), ..Publication::default() }
}

fn session() -> SessionContext {
    #[expect(clippy::disallowed_methods, reason = "a test of tables has no session maker")]
    SessionContext::new()
}

async fn ids(lake: &Lake) -> Vec<i64> {
    let table = lake.table(&name()).existing().await.unwrap().provider().await.unwrap();
    let rows = session().read_table(table).unwrap().collect().await.unwrap();
    let mut ids: Vec<i64> = rows
        .iter()
        .flat_map(|rows| rows.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec())
        .collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn two_compactions_and_appends_at_once_duplicate_no_row() {
    let world = world();
    let owner = world.lake.own().await.unwrap();
    let writer = table_with(&owner, 20).await;
    let compactions = (0..3).map(|_| {
        let writer = Arc::clone(&writer);
        tokio::spawn(async move { writer.compact(2, 1 << 20).await.unwrap() })
    });
    let appends = (20..40).map(|id: i64| {
        let writer = Arc::clone(&writer);
        tokio::spawn(async move {
            let adds = write(&writer, &batch(&[id], "2013-01-01")).await;
            writer.append(Publication { adds, ..Publication::default() }).await.unwrap();
            crate::compact::Compacted::default()
        })
    });
    let tasks: Vec<_> = compactions.chain(appends).collect();
    let mut removed = 0;
    for task in tasks {
        removed += task.await.unwrap().removed;
    }
    assert!(removed >= 20);
    assert_eq!(ids(&world.lake).await, (0..40).collect::<Vec<_>>());
}

/// Stops a compaction when its files are written, until it may go on.
#[derive(Debug)]
struct Halt {
    written: std::sync::mpsc::Sender<()>,
    go_on: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Faults for Halt {
    fn reach(&self, point: FaultPoint) -> catchment_core::Result<()> {
        if point == FaultPoint::CompactionWritten {
            self.written.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_added_while_files_are_joined() {
    let (written, is_written) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel();
    let world = world_with(Arc::new(Halt { written, go_on: std::sync::Mutex::new(may_go_on) }));
    let owner = world.lake.own().await.unwrap();
    let writer = table_with(&owner, 4).await;
    let joining = tokio::spawn({
        let writer = Arc::clone(&writer);
        async move { writer.compact(2, 1 << 20).await.unwrap() }
    });
    tokio::task::spawn_blocking(move || is_written.recv().unwrap()).await.unwrap();
    writer.ensure(&spec()).await.unwrap();
    let adds = write(&writer, &batch(&[4], "2013-01-01")).await;
    writer.append(Publication { adds, ..at(Position::new(0, 4)) }).await.unwrap();
    go_on.send(()).unwrap();
    assert_eq!(joining.await.unwrap().removed, 4);
    assert_eq!(ids(&world.lake).await, [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_beside_a_full_overwrite_duplicates_no_row() {
    let world = world();
    let owner = world.lake.own().await.unwrap();
    let writer = table_with(&owner, 20).await;
    let adds = write(&writer, &batch(&[100, 101], "2013-01-02")).await;
    let spec = spec();
    let (compacted, overwritten) = tokio::join!(
        writer.compact(2, 1 << 20),
        writer.overwrite(&spec, Publication { adds, ..at(Position::new(0, 99)) })
    );
    compacted.unwrap();
    assert!(matches!(overwritten.unwrap(), Outcome::Committed(_)));
    assert_eq!(ids(&world.lake).await, [100, 101]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_carries_the_positions_it_is_given() {
    let world = world();
    let owner = world.lake.own().await.unwrap();
    let writer = table_with(&owner, 5).await;
    let restored = writer.restore(3, at(Position::new(1, 0))).await.unwrap();
    assert_eq!(restored, Outcome::Committed(6));
    assert_eq!(ids(&world.lake).await, [0, 1, 2]);
    assert_eq!(writer.position(&flow()).await.unwrap(), Some(Position::new(1, 0)));
    // A new process reads the same position from the log, not the one of version 3.
    let fresh = world.lake.table(&name()).at(6).await.unwrap();
    assert_eq!(fresh.position("raw.t").await.unwrap(), Some(Position::new(1, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_changes_nothing_still_commits_the_position() {
    let world = world();
    let owner = world.lake.own().await.unwrap();
    let writer = table_with(&owner, 2).await;
    let state = datafusion::execution::SessionStateBuilder::new_from_existing(session().state())
        .with_query_planner(DeltaPlanner::new())
        .build();
    let merge = |rows: RecordBatch| Merge {
        session: state.clone(),
        source: session().read_batch(rows).unwrap(),
        keys: vec!["id".to_owned()],
    };
    let nothing = merge(batch(&[], "x"));
    let outcome = writer.merge(nothing, at(Position::new(0, 7))).await.unwrap();
    assert_eq!(outcome, Outcome::Committed(3));
    assert_eq!(writer.position(&flow()).await.unwrap(), Some(Position::new(0, 7)));
    let outcome = writer.merge(merge(batch(&[1, 9], "2013-01-05")), at(Position::new(0, 8))).await.unwrap();
    assert_eq!(outcome, Outcome::Committed(4));
    assert_eq!(ids(&world.lake).await, [0, 1, 9]);
    let again = writer.merge(merge(batch(&[1, 9], "2013-01-05")), at(Position::new(0, 8))).await.unwrap();
    assert_eq!(again, Outcome::AlreadyPublished);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_a_durable_commit_is_not_a_failure() {
    // The first commit creates the table, the second appends: its error comes after the write.
    for point in ["commit-written", "file-renamed"] {
        let fault = Fault::parse(&format!("{point}:3:fail")).unwrap();
        let world = world_with(Arc::new(fault));
        let owner = world.lake.own().await.unwrap();
        let writer = owner.writer(&name());
        writer.ensure(&spec()).await.unwrap();
        let first = writer.append(at(Position::new(0, 0))).await.unwrap();
        assert_eq!(first, Outcome::Committed(1), "{point}");
        let second = writer.append(at(Position::new(0, 1))).await.unwrap();
        assert_eq!(second, Outcome::Committed(2), "{point}");
        assert_eq!(world.lake.table(&name()).existing().await.unwrap().version(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_published_once() {
    let world = world();
    let owner = world.lake.own().await.unwrap();
    let writer = table_with(&owner, 3).await;
    assert_eq!(writer.append(at(Position::new(0, 1))).await.unwrap(), Outcome::AlreadyPublished);
    assert_eq!(writer.append(at(Position::new(0, 3))).await.unwrap(), Outcome::Committed(4));
    drop((writer, owner));
    // A process that starts anew reads the position from the log.
    let owner = world.lake.own().await.unwrap();
    let writer = owner.writer(&name());
    assert_eq!(writer.append(at(Position::new(0, 3))).await.unwrap(), Outcome::AlreadyPublished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_owner_cannot_commit() {
    let world = world();
    let former = world.lake.own().await.unwrap();
    let writer = table_with(&former, 2).await;
    // The lock does not reach another machine: there it looks as if nobody held it.
    std::fs::remove_file(world.lake.layout().folder().unwrap().join("_catchment/lease.lock")).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(FixedClock::new(1_700_000_000_000_000));
    let elsewhere = Lake::open(world.folder.path(), clock, Arc::new(NoFaults)).unwrap();
    let owner = elsewhere.own().await.unwrap();
    owner.writer(&name()).append(at(Position::new(0, 2))).await.unwrap();
    let error = writer.append(at(Position::new(0, 3))).await.unwrap_err();
    assert_eq!(error.code(), Code::LEASE_LOST);
    assert_eq!(writer.append(at(Position::new(0, 4))).await.unwrap_err().code(), Code::LEASE_LOST);
    assert_eq!(world.lake.table(&name()).existing().await.unwrap().version(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_does_not_grow_with_the_commits() {
    let world = world();
    let owner = world.lake.own().await.unwrap();
    let writer = owner.writer(&name());
    writer.ensure(&spec()).await.unwrap();
    let options = MaintenanceOptions { checkpoint_after: 50, minimum_files: 4, target_bytes: 1 << 20 };
    let mut maintained = 0;
    for id in 0..230 {
        let adds = write(&writer, &batch(&[id], "2013-01-01")).await;
        let outcome = writer.append(Publication { adds, ..at(Position::new(0, id as u64)) }).await.unwrap();
        let Outcome::Committed(version) = outcome else { panic!("{outcome:?}") };
        if id % 50 == 49 {
            // Each round a new maintainer, so that none of them rests.
            let mut maintenance = Maintenance::new(Arc::clone(&writer), options);
            maintained += u32::from(maintenance.tick(version).await.unwrap());
        }
    }
    assert_eq!(maintained, 4, "one for each fifty commits");
    let snapshot = world.lake.table(&name()).existing().await.unwrap();
    assert!(snapshot.files().unwrap().len() < 60, "{} files", snapshot.files().unwrap().len());
    assert_eq!(ids(&world.lake).await.len(), 230);
    let log = world.folder.path().join("raw/t/_delta_log");
    assert!(log.join("_last_checkpoint").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_last_entry_is_named() {
    let world = world();
    let owner = world.lake.own().await.unwrap();
    table_with(&owner, 2).await;
    drop(owner);
    let entry = world.folder.path().join("raw/t/_delta_log/00000000000000000002.json");
    #[expect(clippy::disallowed_methods, reason = "the test damages the file on purpose")]
    std::fs::write(&entry, b"{\"commitInfo\":{\"timest").unwrap();
    let clock: Arc<dyn Clock> = Arc::new(FixedClock::default());
    let lake = Lake::open(world.folder.path(), clock, Arc::new(NoFaults)).unwrap();
    let error = lake.table(&name()).existing().await.unwrap_err();
    assert_eq!(error.code(), Code::LOG_CORRUPT, "{error:?}");
    assert!(error.message().contains("raw.t"));
    let owner = lake.own().await.unwrap();
    let error = owner.writer(&name()).append(at(Position::new(0, 9))).await.unwrap_err();
    assert_eq!(error.code(), Code::LOG_CORRUPT, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_bound_every_value_and_partitions_split_files() {
    let world = world();
    let owner = world.lake.own().await.unwrap();
    let writer = table_with(&owner, 0).await;
    let rows = arrow::compute::concat_batches(
        &schema(),
        &[batch(&[3, 1], "b"), batch(&[2], "a/../c"), batch(&[7], "")],
    )
    .unwrap();
    let adds = write(&writer, &rows).await;
    assert_eq!(adds.len(), 3);
    let stats: Vec<serde_json::Value> =
        adds.iter().map(|add| serde_json::from_str(add.stats.as_ref().unwrap()).unwrap()).collect();
    assert_eq!(
        stats[2],
        json!({"numRecords": 2, "minValues": {"id": 1}, "maxValues": {"id": 3}, "nullCount": {"id": 0}})
    );
    assert_eq!(adds[0].partition_values["day"], None);
    assert_eq!(adds[1].partition_values["day"].as_deref(), Some("a/../c"));
    assert!(adds.iter().all(|add| !add.path.contains("/../")), "{adds:?}");
    writer.append(Publication { adds, ..Publication::default() }).await.unwrap();
    assert_eq!(ids(&world.lake).await, [1, 2, 3, 7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_beside_a_fast_writer_sees_no_gap() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        Lake::open(folder.path(), Arc::new(FixedClock::new(1_700_000_000_000_000)), Arc::new(NoFaults))
            .unwrap()
    };
    let owner = open().own().await.unwrap();
    let writer = owner.writer(&name());
    writer.ensure(&spec()).await.unwrap();
    let writing = tokio::spawn(async move {
        for number in 0..300 {
            writer.append(at(Position::new(0, number))).await.unwrap();
        }
    });
    let mut versions = 0;
    while !writing.is_finished() {
        // Another process lists the log each time.
        let version = open().table(&name()).existing().await.unwrap().version();
        assert!(version >= versions);
        versions = version;
    }
    writing.await.unwrap();
}
