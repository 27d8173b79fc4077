//! Advice rests on what queries asked for and on the files that there are.

use serde_json::Value;

use crate::project::Project;

#[test]
fn queries_are_noted_and_tables_advised_on() {
    let project = Project::new(
        "CREATE STREAMING TABLE t.events PARTITIONED BY (part) AS SELECT id, id % 3 AS part, md5(CAST(id AS VARCHAR)) AS text
           FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT', maxFilesPerTrigger => 1);",
    );
    project.write("catchment.toml", "[maintenance]\nminimum_files = 1000\n");
    for file in 0..6 {
        let lines: String = (0..10).map(|row| format!("{{\"id\":{}}}\n", file * 10 + row)).collect();
        project.write(&format!("in/{file}.jsonl"), lines);
    }
    project.run();
    for _ in 0..12 {
        project.query("SELECT count(*) FROM t.events e WHERE e.id > 30 AND text <> 'x'");
    }
    // Nothing is noted of what fails, and of what reads no table.
    project.call(&["sql", "SELECT nothing FROM t.events"]).exits(1);
    project.query("SELECT 1");
    let noted = project
        .query("SELECT table_name, filters, CAST(count(*) AS INT) AS n FROM system.queries GROUP BY 1, 2");
    let expected = serde_json::json!([{ "table_name": "t.events", "filters": "id, text", "n": 12 }]);
    assert_eq!(noted, expected);
    let advice = project.call(&["advise", "--json"]).exits(0).json();
    let found: Vec<&str> =
        advice.as_array().unwrap().iter().map(|advice| advice["finding"].as_str().unwrap()).collect();
    assert_eq!(found, ["small files", "unused partition columns"]);
    let advised: &Value = &advice[0]["advice"];
    project.call(&["sql", advised.as_str().unwrap()]).exits(0);
    let advice = project.call(&["advise", "t.events", "--json"]).exits(0).json();
    assert_eq!(advice.as_array().unwrap().len(), 1, "what was advised is done: {advice}");
    let told = project.call(&["advise", "t.event"]).exits(1).err;
    assert!(told.contains("no table \"t.event\""), "{told}");
}
