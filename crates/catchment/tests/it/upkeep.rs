//! Upkeep of tables changes no row, so nothing that reads them is computed again.

use crate::project::{Project, dataset};

#[test]
fn a_compaction_is_passed_by_those_that_read_the_table() {
    let project = Project::new(
        "CREATE STREAMING TABLE raw.t AS SELECT id FROM STREAM read_files('in', format => 'json',
           schema => 'id BIGINT', maxFilesPerTrigger => 1);
         CREATE STREAMING TABLE curated.t AS SELECT id FROM STREAM raw.t;
         CREATE MATERIALIZED VIEW enriched.n AS SELECT count(*) AS n FROM raw.t;",
    );
    project.write("catchment.toml", "[maintenance]\ncheckpoint_after = 3\nminimum_files = 2\n");
    for id in 0..6 {
        project.write(&format!("in/{id}.jsonl"), format!("{{\"id\":{id}}}\n"));
    }
    project.run();
    let compacted = project.query("SELECT count(*) AS n FROM system.flows WHERE flow = 'raw.t'");
    assert_eq!(compacted[0]["n"], 6);
    let history = project.call(&["history", "raw.t", "--json"]).exits(0).json();
    let operations: Vec<_> = history.as_array().unwrap().iter().map(|entry| &entry["operation"]).collect();
    assert!(operations.iter().any(|operation| *operation == "OPTIMIZE"), "{history}");
    // The compaction came after its readers had been planned, or before; either way nothing is due.
    for _ in 0..2 {
        let report = project.run();
        for name in ["raw.t", "curated.t", "enriched.n"] {
            assert_eq!(dataset(&report, name)["status"], "up to date", "{report}");
        }
    }
    project.write("in/7.jsonl", "{\"id\":7}\n");
    let report = project.run();
    assert_eq!(dataset(&report, "curated.t")["rows_in"], 1);
    assert_eq!(project.query("SELECT n FROM enriched.n")[0]["n"], 7);
}
