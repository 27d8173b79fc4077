//! What every catalog database must do, and what the SQLite one does besides.

use catchment_core::{Code, FlowName, Position, TableName};

use crate::{
    BatchRecord, ColumnSource, DatasetOutcome, DatasetStatus, Evaluation, ExpectationCount, InputVersion,
    NotificationStatus, RuleRecord, RunRecord, RunStatus, SqliteStore, Store,
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

/// What an alert's query has: rows by their keys.
fn evaluation<'a>(rows: &'a [(String, String)], targets: &'a [String], at: i64) -> Evaluation<'a> {
    Evaluation {
        alert: "main.spike",
        severity: "warning",
        targets,
        rows,
        is_whole: true,
        most: 1,
        silence: 100,
        at,
    }
}

#[test]
fn an_alert_is_raised_once_and_again_only_after_its_silence() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("catalog.sqlite")).unwrap();
    let number = std::cell::Cell::new(0);
    let new_id = || {
        number.set(number.get() + 1);
        format!("id {}", number.get())
    };
    let rows = |keys: &[&str]| -> Vec<(String, String)> {
        keys.iter().map(|key| ((*key).to_owned(), format!("row of {key}"))).collect()
    };
    let targets = ["mail".to_owned(), "hook".to_owned()];
    let see = |keys: &[&str], at: i64| {
        store.evaluate_alert(&evaluation(&rows(keys), &targets, at), &new_id).unwrap()
    };
    assert_eq!(see(&["a", "b"], 0), 2);
    // What stays is told once, however often it is looked at.
    assert_eq!(see(&["a", "b"], 10), 0);
    assert_eq!(see(&["b"], 20), 0);
    assert_eq!(store.alerts().unwrap().iter().filter(|alert| alert.resolved_at == Some(20)).count(), 1);
    // Back within its silence: the same alert, and nobody is told.
    assert_eq!(see(&["a", "b"], 99), 0);
    let again = store.alerts().unwrap().into_iter().find(|alert| alert.key == "a").unwrap();
    assert_eq!((again.repeats, again.resolved_at), (1, None));
    assert_eq!(see(&["b"], 99), 0);
    assert_eq!(see(&["a"], 100), 1);
    // What was cut off is not over, and there is no room for more.
    let some = rows(&["c"]);
    let cut = Evaluation { is_whole: false, ..evaluation(&some, &targets, 110) };
    assert_eq!(store.evaluate_alert(&cut, &new_id).unwrap(), 0);
    let open = |store: &SqliteStore| {
        store.alerts().unwrap().iter().filter(|alert| alert.resolved_at.is_none()).count()
    };
    assert_eq!(open(&store), 1);
    // An alert that is no longer declared is over.
    store.forget_alerts(&["main.spike".to_owned()], &targets, 120).unwrap();
    assert_eq!(open(&store), 1);
    store.forget_alerts(&[], &targets, 120).unwrap();
    assert_eq!(open(&store), 0);

    assert_eq!(store.notifications().unwrap().len(), 6);
    let mut due = store.due_notifications("mail", 0, 10).unwrap();
    assert_eq!(due.iter().map(|due| due.alert.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    due[0].status = NotificationStatus::Sent;
    due[1].next_at = 500;
    due[1].attempts = 1;
    due.iter().for_each(|due| store.settle_notification(due).unwrap());
    assert_eq!(store.due_notifications("mail", 99, 10).unwrap(), []);
    assert_eq!(store.due_notifications("hook", 99, 10).unwrap().len(), 2);
    let mut late = store.due_notifications("mail", 500, 10).unwrap();
    assert_eq!(late.len(), 2);
    late[1].status = NotificationStatus::Dead;
    late[1].error = Some("no".to_owned());
    store.settle_notification(&late[1]).unwrap();
    assert_eq!(store.due_notifications("mail", 500, 10).unwrap().len(), 1);
    // What waits for somebody who is not there any more is given up.
    store.forget_alerts(&[], &targets[..1], 600).unwrap();
    assert_eq!(store.due_notifications("hook", 600, 10).unwrap(), []);
    assert_eq!(store.revive_notifications(600).unwrap(), 4);
    assert_eq!(store.due_notifications("mail", 600, 10).unwrap().len(), 2);
}

#[test]
fn new_notifications_of_each_alert_come_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("catalog.sqlite")).unwrap();
    let number = std::cell::Cell::new(0);
    let new_id = || {
        number.set(number.get() + 1);
        format!("id {:02}", number.get())
    };
    let targets = ["hook".to_owned()];
    let rows = |count: usize| (0..count).map(|key| (key.to_string(), "{}".to_owned())).collect::<Vec<_>>();
    store.evaluate_alert(&evaluation(&rows(30), &targets, 0), &new_id).unwrap();
    let quick = rows(1);
    let quick = Evaluation { alert: "main.quick", ..evaluation(&quick, &targets, 50) };
    store.evaluate_alert(&quick, &new_id).unwrap();
    let due = |at| store.due_notifications("hook", at, 3).unwrap();
    let names = |at| due(at).iter().map(|due| due.alert.alert.clone()).collect::<Vec<_>>();
    assert_eq!(names(50), ["main.spike", "main.quick", "main.spike"]);
    // One that was tried waits behind all that were not.
    let mut tried = due(50).remove(1);
    (tried.attempts, tried.next_at) = (1, 0);
    store.settle_notification(&tried).unwrap();
    assert_eq!(names(50), ["main.spike", "main.spike", "main.spike"]);
}
