//! Whatever stands in a file, parsing it ends, without a panic, and errors stand within the file.

use std::sync::Arc;

use catchment_sql::SqlText;
use proptest::prelude::{Strategy, any, prop, prop_assert, proptest};

use crate::parse_statements;

const SEEDS: &[&str] = &[
    "CREATE OR REFRESH STREAMING TABLE a.b (id BIGINT COMMENT 'x', CONSTRAINT c EXPECT (id > 0) ON VIOLATION DROP ROW)
     PARTITIONED BY (id) TBLPROPERTIES ('k' = 'v') AS SELECT * FROM STREAM(read_files('in', format => 'json'));",
    "CREATE MATERIALIZED VIEW v REFRESH POLICY FULL AS SELECT a, count(*) FROM t VERSION AS OF 3 GROUP BY 1;",
    "CREATE TEMPORARY VIEW w AS WITH x AS (SELECT 1) SELECT * FROM x JOIN STREAM s ON x.a = s.`b c`;",
    "CREATE FLOW f COMMENT 'c' AS INSERT ONCE INTO a.b BY NAME SELECT '\'' || $$ | /* open",
];

/// A seed with pieces cut out, doubled, swapped and overwritten.
fn mangled() -> impl Strategy<Value = String> {
    let cut = (0..SEEDS.len(), any::<usize>(), any::<usize>(), ".{0,6}");
    prop::collection::vec(cut, 1..6).prop_map(|cuts| {
        let mut text = String::new();
        for (seed, from, to, between) in cuts {
            let seed = SEEDS[seed];
            let at =
                |place: usize| (0..=place % (seed.len() + 1)).rev().find(|at| seed.is_char_boundary(*at));
            let (from, to) = (at(from).unwrap_or(0), at(to).unwrap_or(0));
            text.push_str(&seed[from.min(to)..from.max(to)]);
            text.push_str(&between);
        }
        text
    })
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_is_parsed_or_refused_with_a_place(text in mangled()) {
        let lines = text.lines().count().max(1);
        let text = Arc::new(SqlText::new("f.sql", text));
        let (_, errors) = parse_statements(&text, "main");
        for error in errors {
            let place = error.place().expect("a syntax error has a place");
            prop_assert!((1..=lines + 1).contains(&(place.line as usize)), "{error:?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_overflows_nothing(depth in 1_usize..3_000) {
        let nested = format!("CREATE VIEW v AS SELECT {}1{}", "(".repeat(depth), ")".repeat(depth));
        let (statements, errors) = parse_statements(&Arc::new(SqlText::new("f.sql", nested)), "main");
        prop_assert!(statements.len() + errors.len() == 1);
    }
}
