//! What a changed query keeps, and why it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::empty::EmptyTable;

use super::{DefinedInput, Definition, Kept};
use crate::tests::planner;
use crate::{SqlText, parse_single_query};

/// Columns by name, with their types.
type Columns<'a> = &'a [(&'a str, DataType)];

async fn definition(sql: &str, columns: Columns<'_>) -> Definition {
    let planner = planner(1);
    let text = SqlText::new("q.sql", sql);
    let query = parse_single_query(&text).unwrap().bind(&text, &|_| None).unwrap();
    let fields: Vec<Field> =
        columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
    let mut relations = BTreeMap::new();
    for relation in &query.relations {
        planner
            .bind(&relation.key, Arc::new(EmptyTable::new(Arc::new(Schema::new(fields.clone())))))
            .unwrap();
        let (name, kind) = (format!("{:?}", relation.target), "stream".to_owned());
        relations
            .insert(relation.key.clone(), DefinedInput { name, kind, grows: true, columns: BTreeSet::new() });
    }
    Definition::of(&planner.plan(&text, &query).await.unwrap(), &relations)
}

const OLD: Columns<'static> = &[("k", DataType::Utf8), ("v", DataType::Int32), ("f", DataType::Float32)];
const NEW: Columns<'static> =
    &[("k", DataType::Utf8), ("w", DataType::Int64), ("v", DataType::Int64), ("f", DataType::Float64)];

async fn kept(before: &str, now: &str) -> Result<Kept, String> {
    definition(now, NEW).await.kept_from(&definition(before, OLD).await)
}

#[tokio::test]
async fn what_is_computed_from_the_same_columns_is_kept_whatever_it_goes_through() {
    let before = "SELECT k, sum(v) AS s, count(*) AS n FROM e WHERE v > 3 GROUP BY k";
    for (now, aggregates, all) in [
        (before, vec![Some(0), Some(1)], true),
        (
            "SELECT y.k, sum(y.v) AS s, count(*) AS n FROM (SELECT k, w, v FROM (SELECT * FROM e) x WHERE x.v > 3) y GROUP BY y.k",
            vec![Some(0), Some(1)],
            true,
        ),
        ("SELECT k, count(*) AS n FROM e WHERE v > 3 GROUP BY k HAVING count(*) > 1", vec![Some(1)], false),
        (
            "SELECT k, count(*) AS n, count(*) * 2 AS twice, sum(w) AS w, sum(v) AS s FROM e WHERE v > 3 GROUP BY k",
            vec![Some(1), None, Some(0)],
            false,
        ),
    ] {
        let kept = kept(before, now).await.unwrap();
        assert_eq!((kept.aggregates, kept.all), (aggregates, all), "{now}");
    }
    let rows = kept("SELECT k, v FROM e", "SELECT v AS value, k, w FROM e").await.unwrap();
    assert_eq!((rows.results, rows.all), (vec![Some(1), Some(0), None], false));
}

#[tokio::test]
async fn what_cannot_be_kept_is_named() {
    let counts = "SELECT k, count(*) AS n, sum(v) AS s, approx_distinct(v) AS d FROM e GROUP BY k";
    let floats = "SELECT k, sum(f) AS s FROM e GROUP BY k";
    for (before, now, why) in [
        (counts, "SELECT k, count(*) AS n FROM e WHERE v > 1 GROUP BY k", "chooses rows otherwise"),
        (counts, "SELECT w, count(*) AS n FROM e GROUP BY w", "groups by something else"),
        (counts, "SELECT k, min(v) AS n FROM e GROUP BY k", "min(v) was not kept"),
        (counts, "SELECT k, sum(w + v) AS n FROM e GROUP BY k", "was Int32 and is Int64"),
        (counts, "SELECT k, array_agg(w) AS n FROM e GROUP BY k", "was not kept"),
        (counts, "SELECT k, sum(coalesce(w, 0)) AS n FROM e GROUP BY k", "was not kept"),
        (counts, counts, "approx_distinct(v) cannot be kept when types change"),
        // Finer values come to other sums where something is computed with them.
        (
            "SELECT k, sum(f * f) AS s FROM e GROUP BY k",
            "SELECT k, sum(f * f) AS s FROM e GROUP BY k",
            "was Float32 and is Float64",
        ),
        ("SELECT k, v FROM e", "SELECT k, v, f FROM e", "column \"f\" was not kept"),
        ("SELECT k, v FROM e", "SELECT k, v, w + 1 AS w FROM e", "column \"w\" was not kept"),
        ("SELECT DISTINCT k FROM e", "SELECT DISTINCT k, w FROM e", "it is not known of such a query"),
        (
            "SELECT a.k, b.v FROM e a JOIN e b ON a.k = b.k WHERE a.v > 1",
            "SELECT a.k, b.v FROM e a JOIN e b ON a.k = b.k WHERE b.v > 1",
            "chooses rows otherwise",
        ),
    ] {
        let told = kept(before, now).await.unwrap_err();
        assert!(told.contains(why), "{now}: {told}");
    }
    assert!(kept(floats, floats).await.is_ok());
}
