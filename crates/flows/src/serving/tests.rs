//! The store against a plain map: what is read is what was written last, by key, by range and as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use catchment_core::{FlowName, Position, TableName};
use catchment_lake::schema_text;
use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use proptest::prelude::*;

use crate::records::BatchPlan;
use crate::serving::cache::StateCache;
use crate::serving::change::Change;
use crate::serving::rows::{AGE_BYTES, Layout, RowKey};
use crate::serving::store::{Described, ServingStore};
use crate::serving::table::{KeyRange, ServingTable};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("value", DataType::Utf8, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("at", DataType::Int64, true),
    ]))
}

fn key(time_to_live: Option<i64>) -> RowKey {
    RowKey { primary: vec!["name".to_owned()], sort: vec!["at".to_owned()], time_to_live }
}

/// A row: name, at, value.
type Row = (String, i64, String);

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.2))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
    let (values, names) = (text("value"), text("name"));
    let at = batch.column_by_name("at").unwrap().as_primitive::<Int64Type>();
    (0..batch.num_rows())
        .map(|row| (names.value(row).to_owned(), at.value(row), values.value(row).to_owned()))
        .collect()
}

struct Place {
    store: ServingStore,
    table: Arc<ServingTable>,
    name: TableName,
    key: RowKey,
    folder: tempfile::TempDir,
}

impl Place {
    fn new(time_to_live: Option<i64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (name, key) = (TableName::new("s", "t"), key(time_to_live));
        let store = ServingStore::open(folder.path(), 1 << 20).unwrap();
        let table = store.opened(&name, 0, Layout::new(&schema(), &key).unwrap()).unwrap();
        Self { store, table, name, key, folder }
    }

    /// Writes rows and takes away others at a time; gives how many were swept.
    fn write(&self, number: u64, now: i64, put: &[Row], removed: &[Row]) -> usize {
        let mut change = Change::new(&self.store, &self.table, now);
        let swept = change.sweep().unwrap();
        let keys = change.put(&batch(removed)).unwrap();
        keys.into_iter().for_each(|key| change.remove(key));
        change.put_latest(&batch(put), None).unwrap();
        let plan = BatchPlan::empty(FlowName::new("f"), Position::new(0, number), now);
        let schema = schema_text(&schema()).unwrap();
        let described = Described { schema, key: self.key.clone(), plan, generation: 0 };
        change.commit(&self.store, &self.name, &described, None).unwrap();
        swept
    }

    fn all(&self, now: i64) -> Vec<Row> {
        let mut all = Vec::new();
        let each = |found: RecordBatch| {
            all.extend(rows(&found));
            Ok(true)
        };
        self.table.scan(now, each).unwrap();
        all
    }
}

fn row() -> impl Strategy<Value = Row> {
    let name = prop_oneof!["[a-c]{0,3}", Just("a\0b".to_owned()), Just("ÿ\u{10ffff}".to_owned())];
    (name, -3_i64..6, "[a-z]{0,8}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_read_is_what_was_written_last(
        batches in proptest::collection::vec((proptest::collection::vec(row(), 0..12), proptest::collection::vec(row(), 0..4)), 1..6),
        (from, to, limit, descending) in (proptest::option::of(-4_i64..7), proptest::option::of(-4_i64..7), 1_usize..6, any::<bool>()),
    ) {
        let place = Place::new(None);
        let mut model: BTreeMap<(String, i64), String> = BTreeMap::new();
        for (number, (put, removed)) in batches.iter().enumerate() {
            place.write(number as u64, 1, put, removed);
            removed.iter().for_each(|row| _ = model.remove(&(row.0.clone(), row.1)));
            // Rows that come from nowhere in particular are told apart by their values.
            let mut newest: BTreeMap<(String, i64), String> = BTreeMap::new();
            for (name, at, value) in put {
                let known = newest.entry((name.clone(), *at)).or_default();
                *known = known.clone().max(value.clone());
            }
            model.extend(newest);
        }
        let expected: Vec<Row> = model.iter().map(|((name, at), value)| (name.clone(), *at, value.clone())).collect();
        prop_assert_eq!(place.all(1), expected.clone());
        let names: Vec<String> = model.keys().map(|(name, _)| name.clone()).chain(["never".to_owned()]).collect();
        for name in names {
            let range = KeyRange { from: from.map(|at| at.to_string()), to: to.map(|at| at.to_string()), limit, descending };
            let found = rows(&place.table.range(std::slice::from_ref(&name), &range, 1).unwrap());
            let wanted = expected.iter().filter(|row| {
                row.0 == name && from.is_none_or(|from| row.1 >= from) && to.is_none_or(|to| row.1 < to)
            });
            let mut wanted: Vec<Row> = wanted.cloned().collect();
            if descending {
                wanted.reverse();
            }
            wanted.truncate(limit);
            prop_assert_eq!(found, wanted);
        }
        let keys: Vec<Vec<String>> = expected.iter().map(|row| vec![row.0.clone(), row.1.to_string()]).collect();
        prop_assert_eq!(rows(&place.table.get(&keys, 1).unwrap()), expected.clone());
        // Another process finds the same, and where the flow stood.
        let Place { store, table, name, folder, .. } = place;
        drop((store, table));
        let store = ServingStore::open(folder.path(), 1 << 20).unwrap();
        prop_assert_eq!(store.described(&name).unwrap().unwrap().plan.position.number, batches.len() as u64 - 1);
        let mut again = Vec::new();
        store.table(&name).unwrap().unwrap().scan(1, |found| { again.extend(rows(&found)); Ok(true) }).unwrap();
        prop_assert_eq!(again, expected);
    }
}

#[test]
fn rows_end_when_they_were_not_written_for_their_time() {
    let place = Place::new(Some(100));
    let row = |name: &str, value: &str| (name.to_owned(), 0, value.to_owned());
    place.write(0, 1_000, &[row("a", "1"), row("b", "1")], &[]);
    place.write(1, 1_050, &[row("b", "2")], &[]);
    assert_eq!(place.all(1_099).len(), 2);
    assert_eq!(place.all(1_100), [row("b", "2")]);
    assert_eq!(place.table.get(&[vec!["a".to_owned(), "0".to_owned()]], 1_100).unwrap().num_rows(), 0);
    // It is swept with the next batch; what was written again since stays.
    assert_eq!(place.write(2, 1_120, &[], &[]), 2);
    assert_eq!(place.table.swept.load(Ordering::Relaxed), 1_021);
    assert_eq!(place.all(0), [row("b", "2")]);
    assert_eq!(place.write(3, 1_150, &[row("b", "3")], &[]), 1);
    assert_eq!(place.all(1_249), [row("b", "3")]);
    assert!(place.all(1_250).is_empty());
}

#[test]
fn a_store_has_one_owner_and_a_cleared_table_is_gone() {
    let place = Place::new(None);
    place.write(0, 1, &[("a".to_owned(), 1, "x".to_owned())], &[]);
    // It is one table for all who ask: what it has swept is known to the next batch.
    assert!(Arc::ptr_eq(&place.store.table(&place.name).unwrap().unwrap(), &place.table));
    let other = ServingStore::open(place.folder.path(), 0).unwrap_err();
    assert_eq!(other.code(), catchment_core::Code::SERVING_OWNED);
    place.store.clear(&place.name).unwrap();
    assert!(place.store.table(&place.name).unwrap().is_none());
    assert!(place.all(1).is_empty());
}

proptest! {
    /// States that are remembered are those that were written last, of their own table; how many are is up to the memory.
    #[test]
    fn a_state_that_is_remembered_is_the_last_one(
        steps in proptest::collection::vec((0_u8..40, any::<bool>(), proptest::option::weighted(0.8, "[a-z]{0,90}")), 1..300),
        bytes in prop_oneof![Just(0_u64), Just(2_000), Just(1 << 20)],
    ) {
        let cache = StateCache::new(bytes);
        let (first, second) = (cache.table(), cache.table());
        let mut model: BTreeMap<(bool, u8), Option<Vec<u8>>> = BTreeMap::new();
        for (group, is_first, state) in steps {
            // A state begins with its age and its group.
            let state = state.map(|state| [&[0; AGE_BYTES], [group].as_slice(), state.as_bytes()].concat());
            let table = if is_first { &first } else { &second };
            table.set(&[(&[group], state.as_deref())]);
            model.insert((is_first, group), state);
            for (table, of_first) in [(&first, true), (&second, false)] {
                let of_table: Vec<_> = model.iter().filter(|((is_first, _), _)| *is_first == of_first).collect();
                let groups: Vec<[u8; 1]> = of_table.iter().map(|((_, group), _)| [*group]).collect();
                let found = table.get(&groups.iter().map(<[u8; 1]>::as_slice).collect::<Vec<_>>());
                for ((_, state), found) in of_table.iter().zip(&found) {
                    if let Some(found) = found {
                        prop_assert_eq!(Some(found.as_ref()), state.as_deref());
                    }
                    prop_assert!(bytes < 1 << 20 || found.is_some() == state.is_some());
                }
            }
        }
    }
}
