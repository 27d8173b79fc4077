//! What every catalog database must do, and what the SQLite one does besides.

use catchment_core::{Code, FlowName, Position, TableName};

use crate::{
    BatchRecord, ColumnSource, DatasetOutcome, DatasetStatus, ExpectationCount, InputVersion, RuleRecord,
    RunRecord, RunStatus, SqliteStore, Store,
};

fn run(id: &str, status: RunStatus) -> RunRecord {
    RunRecord { id: id.to_owned(), status, started_at: 10, finished_at: None, error: None }
}

fn batch(number: u64) -> BatchRecord {
    BatchRecord {
        flow: FlowName::new("curated.flights"),
        dataset: TableName::new("curated", "flights"),
        position: Position::new(0, number),
        version: number + 1,
        run: Some("r1".to_owned()),
        rows_in: 10,
        rows_out: 9,
        quarantined: 1,
        dropped: 0,
        spilled_bytes: 0,
        files: 2,
        planned_at: 100,
        committed_at: 200 + number as i64,
        inputs: vec![
            InputVersion { name: "raw.flights".to_owned(), version: Some(4) },
            InputVersion { name: "raw.planes".to_owned(), version: Some(1) },
        ],
        columns: vec![ColumnSource {
            column: "day".to_owned(),
            input: "raw.flights".to_owned(),
            input_column: "time_hour".to_owned(),
        }],
        expectations: vec![ExpectationCount {
            name: "e".to_owned(),
            rule: "day > 0".to_owned(),
            action: "warn".to_owned(),
            passed: 8,
            failed: 2,
        }],
        rules: vec![RuleRecord {
            rule: "RowCount > 0".to_owned(),
            passed: true,
            value: Some(9.0),
            action: "warn".to_owned(),
        }],
        undone: false,
    }
}

/// The contract of [`Store`], for any implementation.
fn store_suite(store: &dyn Store) {
    store.put_run(&run("r1", RunStatus::Running)).unwrap();
    store.put_run(&run("r2", RunStatus::Running)).unwrap();
    store.put_run(&run("r1", RunStatus::Failed)).unwrap();
    let runs = store.runs(10).unwrap();
    assert_eq!(
        runs.iter().map(|run| run.status).collect::<Vec<_>>(),
        [RunStatus::Running, RunStatus::Failed]
    );
    assert_eq!(store.runs(1).unwrap().len(), 1);

    let flow = FlowName::new("curated.flights");
    assert_eq!(store.last_position(&flow).unwrap(), None);
    store.put_batch(&batch(0)).unwrap();
    store.put_batch(&batch(1)).unwrap();
    store.put_batch(&BatchRecord { rows_in: 99, ..batch(1) }).unwrap();
    assert_eq!(store.last_position(&flow).unwrap(), Some(Position::new(0, 1)));
    assert_eq!(store.batches(10).unwrap(), [batch(1), batch(0)]);

    let undone = |wanted: fn(u64) -> bool| {
        store.mark_undone(&batch(0).dataset, &wanted).unwrap();
        let batches = store.batches(10).unwrap();
        batches.iter().map(|batch| batch.undone).collect::<Vec<_>>()
    };
    let second = batch(1).version;
    assert_ne!(batch(0).version, second);
    assert_eq!(undone(|_| true), [true, true]);
    assert_eq!(undone(|_| false), [false, false]);
    store.mark_undone(&TableName::new("curated", "others"), &|_| true).unwrap();
    assert_eq!(store.batches(10).unwrap(), [batch(1), batch(0)]);

    let lineage = store.lineage().unwrap();
    assert_eq!(lineage.len(), 4);
    assert_eq!(lineage[0].input_version, Some(4));
    assert_eq!((lineage[1].input.as_str(), lineage[1].column.as_deref()), ("raw.planes", None));

    let outcome = DatasetOutcome {
        run: "r1".to_owned(),
        dataset: TableName::new("curated", "flights"),
        status: DatasetStatus::UpToDate,
        rows_in: 1,
        rows_out: 2,
        quarantined: 3,
        dropped: 4,
        version: Some(7),
        milliseconds: 12,
        error: Some("x".to_owned()),
    };
    store.put_outcomes(std::slice::from_ref(&outcome)).unwrap();
    assert_eq!(store.outcomes().unwrap(), [outcome]);
}

#[test]
fn sqlite_keeps_the_contract_and_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/catalog.sqlite");
    store_suite(&SqliteStore::open(&path).unwrap());
    assert_eq!(SqliteStore::open(&path).unwrap().batches(10).unwrap().len(), 2);
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    #[expect(clippy::disallowed_methods, reason = "the test makes a broken file on purpose")]
    std::fs::write(&path, "this is not a database, and long enough to be taken for one".repeat(20)).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert_eq!(error.code(), Code::CATALOG);
    assert!(error.message().contains("catalog.sqlite"));
}
