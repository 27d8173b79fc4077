//! Planning: errors with places, moments, lineage.

use std::sync::Arc;

use catchment_core::{Code, Result};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Schema};
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::LogicalPlan;
use futures::TryStreamExt;

use crate::{
    Moment, Planner, SessionOptions, Sessions, SqlText, column_origins, filtered_columns, kept_columns,
    parse_single_query,
};

pub(crate) fn planner(seed: u64) -> Planner {
    let folder = std::env::temp_dir();
    let options = SessionOptions { memory_bytes: 64 << 20, threads: 2, spill_folder: folder };
    Sessions::new(&options).unwrap().planner(Moment { micros: 1_700_000_000_123_456, seed }).unwrap()
}

pub(crate) async fn plan(planner: &Planner, sql: &str) -> Result<LogicalPlan> {
    let text = SqlText::new("q.sql", sql);
    let query = parse_single_query(&text)?.bind(&text, &|_| None)?;
    for relation in &query.relations {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("amount", DataType::Float64, true),
        ]);
        planner.bind(&relation.key, Arc::new(EmptyTable::new(Arc::new(schema))))?;
    }
    let plan = planner.plan(&text, &query).await?;
    planner.check(&text, &query, &plan)?;
    Ok(plan)
}

pub(crate) async fn rows(planner: &Planner, sql: &str) -> Vec<RecordBatch> {
    let plan = plan(planner, sql).await.unwrap();
    let physical = planner.physical(&plan).await.unwrap();
    planner.run(physical).unwrap().try_collect().await.unwrap()
}

#[tokio::test]
async fn unknown_columns_have_their_place_and_a_suggestion() {
    for (sql, column) in [
        ("SELECT nam FROM t", 8),
        ("SELECT id FROM t WHERE nam = 'x'", 24),
        ("SELECT count(*) FROM t GROUP BY nam", 33),
        ("SELECT id FROM t ORDER BY nam", 27),
    ] {
        let error = plan(&planner(1), sql).await.unwrap_err();
        assert_eq!(error.code(), Code::COLUMN_UNKNOWN, "{sql}: {error:?}");
        assert_eq!(error.place().unwrap().column, column, "{sql}");
        assert_eq!(error.hint_text(), Some("did you mean \"name\"?"), "{sql}");
    }
}

#[tokio::test]
async fn two_unknown_columns_are_two_errors() {
    let error = plan(&planner(1), "SELECT nam, idd FROM t").await.unwrap_err();
    assert_eq!(error.each().count(), 2, "{error:?}");
}

#[tokio::test]
async fn types_that_do_not_fit_are_errors() {
    for sql in
        ["SELECT name + amount FROM t", "SELECT id FROM t WHERE name AND true", "SELECT abs(name) FROM t"]
    {
        let error = plan(&planner(1), sql).await.unwrap_err();
        assert_eq!(error.code(), Code::SQL_TYPE, "{sql}: {error:?}");
        assert!(error.place().is_some());
    }
}

#[tokio::test]
async fn the_moment_of_a_query_is_that_of_its_plan() {
    let found = rows(&planner(1), "SELECT CAST(now() AS VARCHAR) AS t").await;
    assert!(
        found[0].column(0).as_string::<i32>().value(0).starts_with("2023-11-14T22:13:20.123456"),
        "{found:?}"
    );
}

#[tokio::test]
async fn chance_repeats_with_its_seed_and_differs_between_rows() {
    let sql = "SELECT random() AS r, uuid() AS u FROM (VALUES (1), (2), (3))";
    let (first, again, other) =
        (rows(&planner(7), sql).await, rows(&planner(7), sql).await, rows(&planner(8), sql).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    let numbers = first[0].column(0).as_primitive::<Float64Type>();
    assert!(numbers.values().iter().all(|value| (0.0..1.0).contains(value)));
    assert_ne!(numbers.value(0), numbers.value(1));
    assert_eq!(&first[0].column(1).as_string::<i32>().value(0)[14..15], "4");
}

#[tokio::test]
async fn columns_that_are_passed_on_as_they_are_are_known() {
    let sql = "SELECT upper(both.name) AS name, both.id AS number, c.amount FROM (SELECT * FROM a WHERE id > 1) AS both
        JOIN c ON c.id = both.id";
    let kept = kept_columns(&plan(&planner(1), sql).await.unwrap());
    let texts: Vec<String> =
        kept.iter().map(|(name, (key, column))| format!("{name}: {key}.{column}")).collect();
    assert_eq!(texts, ["number: $0.id", "amount: $1.amount"]);
}

#[tokio::test]
async fn columns_that_conditions_look_at_are_known() {
    let sql = "SELECT upper(name), count(*) FROM (SELECT id AS number, name FROM a WHERE id > 1) AS both
        WHERE name = 'x' AND number + 1 < (SELECT max(amount) FROM c WHERE c.id = 3) GROUP BY name HAVING count(*) > 2";
    let found = filtered_columns(&plan(&planner(1), sql).await.unwrap());
    let texts: Vec<String> = found.iter().map(|(key, column)| format!("{key}.{column}")).collect();
    assert_eq!(texts, ["$0.id", "$0.name", "$1.id"]);
}

#[tokio::test]
async fn columns_are_traced_through_joins_groups_unions_and_windows() {
    let sql = "WITH both AS (SELECT id, name FROM a UNION ALL SELECT id, 'x' FROM b)
        SELECT upper(both.name) AS shout, sum(c.amount) AS total, row_number() OVER (ORDER BY max(both.id)) AS n, 1 AS one
        FROM both JOIN c ON c.id = both.id GROUP BY both.name";
    let origins = column_origins(&plan(&planner(1), sql).await.unwrap());
    let texts: Vec<String> = origins
        .iter()
        .map(|(name, from)| {
            format!(
                "{name}: {}",
                from.iter().map(|(key, column)| format!("{key}.{column}")).collect::<Vec<_>>().join(" ")
            )
        })
        .collect();
    assert_eq!(texts, ["shout: $0.name", "total: $2.amount", "n: $0.id $1.id", "one: "]);
}
