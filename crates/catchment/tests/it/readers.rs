//! After every kind of commit other readers see the same rows.

use std::path::Path;
use std::sync::Arc;

use catchment_core::{Clock, FlowName, NoFaults, Position, SystemClock, TableName};
use catchment_lake::{
    FileOptions, Lake, Maintenance, MaintenanceOptions, Merge, Outcome, Publication, TableSpec, TableWriter,
};
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::prelude::SessionContext;

use crate::project::{oracle, python};

fn schema(wide: bool) -> SchemaRef {
    let mut fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("day", DataType::Utf8, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("local", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ];
    if wide {
        fields.push(Field::new("note", DataType::Utf8, true));
    }
    Arc::new(Schema::new(fields))
}

fn rows(ids: &[i64], wide: bool) -> RecordBatch {
    let texts = |text: &str| Arc::new(StringArray::from(vec![text; ids.len()])) as ArrayRef;
    let times = || TimestampMicrosecondArray::from(ids.iter().map(|id| id * 1_234_567).collect::<Vec<_>>());
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.to_vec())),
        texts("a b/c=d%é"),
        Arc::new(times().with_timezone("UTC")),
        Arc::new(times()),
    ];
    if wide {
        columns.push(texts("x"));
    }
    RecordBatch::try_new(schema(wide), columns).unwrap()
}

fn spec(wide: bool) -> TableSpec {
    TableSpec {
        schema: schema(wide),
        partition_columns: vec!["day".into()],
        comment: None,
        properties: Vec::new(),
    }
}

async fn publication(writer: &TableWriter, ids: &[i64], wide: bool, number: u64) -> Publication {
    let options = FileOptions::of(writer.table().name(), &spec(wide), 1 << 20);
    let mut files = writer.files(options).unwrap();
    files.write(&rows(ids, wide)).await.unwrap();
    let position = Some((FlowName::new("f"), Position::new(0, number)));
    Publication { position, adds: files.finish().await.unwrap().adds, ..Publication::default() }
}

fn seen(python: &Path, lake: &Path) -> String {
    oracle(python, "readers.py", &[lake.to_str().unwrap()])
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_read_alike_after_every_kind_of_commit() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let lake = Lake::open(folder.path(), clock, Arc::new(NoFaults)).unwrap();
    let owner = lake.own().await.unwrap();
    let writer = owner.writer(&TableName::new("raw", "t"));
    let see = || seen(&python, folder.path());

    writer.ensure(&spec(false)).await.unwrap();
    assert_eq!(see(), "raw.t 0 0\n", "created");
    for number in 0..5 {
        let part = publication(&writer, &[number * 2 + 1, number * 2 + 2], false, number as u64).await;
        writer.append(part).await.unwrap();
    }
    assert_eq!(see(), "raw.t 10 55\n", "appended");
    let nothing =
        Publication { position: Some((FlowName::new("f"), Position::new(0, 5))), ..Publication::default() };
    writer.append(nothing).await.unwrap();
    assert_eq!(see(), "raw.t 10 55\n", "an empty commit");
    writer.ensure(&spec(true)).await.unwrap();
    let part = publication(&writer, &[11], true, 6).await;
    writer.append(part).await.unwrap();
    assert_eq!(see(), "raw.t 11 66\n", "a column more");
    let options = MaintenanceOptions { checkpoint_after: 1, minimum_files: 2, target_bytes: 1 << 20 };
    let newest = writer.table().existing().await.unwrap().version();
    assert!(Maintenance::new(Arc::clone(&writer), options).tick(newest).await.unwrap());
    assert_eq!(see(), "raw.t 11 66\n", "compacted, with a checkpoint");
    let planner = deltalake_planner();
    let merge = Merge {
        session: planner,
        source: context().read_batch(rows(&[11, 12], true)).unwrap(),
        keys: vec!["id".into()],
    };
    let at = |number| Publication {
        position: Some((FlowName::new("f"), Position::new(0, number))),
        ..Publication::default()
    };
    assert!(matches!(writer.merge(merge, at(7)).await.unwrap(), Outcome::Committed(_)));
    assert_eq!(see(), "raw.t 12 78\n", "merged");
    let part = publication(&writer, &[100], true, 8).await;
    writer.overwrite(&spec(true), part).await.unwrap();
    assert_eq!(see(), "raw.t 1 100\n", "overwritten");
    writer.restore(3, at(9)).await.unwrap();
    assert_eq!(see(), "raw.t 6 21\n", "restored");
    writer.checkpoint().await.unwrap();
    assert_eq!(see(), "raw.t 6 21\n", "with a checkpoint after all");
}

#[expect(clippy::disallowed_methods, reason = "a test of tables has no session maker")]
fn context() -> SessionContext {
    SessionContext::new()
}

fn deltalake_planner() -> datafusion::execution::SessionState {
    datafusion::execution::SessionStateBuilder::new_from_existing(context().state())
        .with_query_planner(catchment_lake::merge_planner())
        .build()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_read_alike_after_its_columns_became_wider() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path(), Arc::new(SystemClock), Arc::new(NoFaults)).unwrap();
    let owner = lake.own().await.unwrap();
    let writer = owner.writer(&TableName::new("raw", "t"));
    let spec = |id: DataType| TableSpec {
        schema: Arc::new(Schema::new(vec![
            Field::new("id", id, true),
            Field::new("day", DataType::Utf8, true),
        ])),
        ..spec(false)
    };
    for (number, id) in [(0, DataType::Int32), (1, DataType::Int64)] {
        let spec = spec(id.clone());
        writer.ensure(&spec).await.unwrap();
        let options = FileOptions::of(writer.table().name(), &spec, 1 << 20);
        let mut files = writer.files(options).unwrap();
        let ids = Int64Array::from(vec![1 + (number << 40), 2]);
        let days = StringArray::from(vec!["a", "b"]);
        let columns = vec![datafusion::arrow::compute::cast(&ids, &id).unwrap(), Arc::new(days) as ArrayRef];
        files.write(&RecordBatch::try_new(spec.schema, columns).unwrap()).await.unwrap();
        let adds = files.finish().await.unwrap().adds;
        writer.append(Publication { adds, ..Publication::default() }).await.unwrap();
    }
    assert_eq!(seen(&python, folder.path()), format!("raw.t 4 {}\n", 6 + (1_i64 << 40)));
}
