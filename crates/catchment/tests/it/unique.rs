//! The first row of a key stays, whatever the threads, the batches and the memory.

use std::collections::HashSet;

use crate::project::Project;

const QUERY: &str = "SELECT e.id, e.part, e.n FROM STREAM read_files('in', schema => 'id VARCHAR, part INT, n BIGINT', maxFilesPerTrigger => FILES) e";

/// What is written: files of lines `(id, part, n)`, numbered as they are read.
fn input(project: &Project, first_file: u64, files: u64) -> Vec<(String, i64, u64)> {
    let mut rows = Vec::new();
    for file in first_file..first_file + files {
        let mut lines = String::new();
        for line in 0..3_000_u64 {
            let n = file * 3_000 + line;
            // SplitMix64: about every second key comes again, some of them much later.
            let mixed = (n ^ 0x9e37_79b9).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20;
            let id = format!("key-{}", mixed % 12_000);
            let part = (mixed % 3) as i64;
            lines.push_str(&format!("{{\"id\":\"{id}\",\"part\":{part},\"n\":{n}}}\n"));
            rows.push((id, part, n));
        }
        project.write(&format!("in/{file:03}.jsonl"), lines);
    }
    rows
}

fn expected(rows: &[(String, i64, u64)]) -> Vec<u64> {
    let mut seen = HashSet::new();
    rows.iter().filter(|(id, ..)| seen.insert(id.clone())).map(|(.., n)| *n).collect()
}

/// Compares what stands in the table with a plain set; the message names one row and not all.
#[track_caller]
fn agree(project: &Project, rows: &[(String, i64, u64)], what: &str) {
    let stored = project.query("SELECT n FROM curated.t");
    let mut stored: Vec<u64> =
        stored.as_array().unwrap().iter().map(|row| row["n"].as_u64().unwrap()).collect();
    stored.sort_unstable();
    let expected = expected(rows);
    let first = stored.iter().zip(&expected).find(|(stored, expected)| stored != expected);
    assert!(stored == expected, "{what}: {} rows, not {}; first {first:?}", stored.len(), expected.len());
}

/// Runs twice over growing input, with a process of its own each time, and compares with a plain set.
fn first_of_each_key_stays(threads: usize, files_per_batch: usize, memory: &str, query: &str) -> u64 {
    let query = query.replace("FILES", &files_per_batch.to_string());
    let project = Project::new(&format!(
        "CREATE STREAMING TABLE curated.t (CONSTRAINT once EXPECT UNIQUE (id) ON VIOLATION DROP ROW)
         PARTITIONED BY (part) AS {query};
         CREATE MATERIALIZED VIEW raw.parts AS SELECT * FROM (VALUES (0), (1), (2), (2)) AS v (part);"
    ));
    project.write("catchment.toml", format!("[engine]\nthreads = {threads}\nmemory = \"{memory}\"\n"));
    let mut rows = input(&project, 0, 5);
    project.run();
    agree(&project, &rows, &format!("{threads} threads, {files_per_batch} files, {memory}"));
    rows.extend(input(&project, 5, 4));
    project.run();
    agree(&project, &rows, &format!("{threads} threads, {files_per_batch} files, {memory}"));
    let spilled = project.query(
        "SELECT CAST(max(spilled_bytes) AS BIGINT) AS bytes FROM system.flows WHERE flow = 'curated.t'",
    );
    spilled[0]["bytes"].as_u64().unwrap()
}

#[test]
fn whatever_the_threads_and_batches() {
    for (threads, files) in [(1, 100), (4, 100), (3, 2), (2, 1)] {
        assert_eq!(first_of_each_key_stays(threads, files, "256MB", QUERY), 0);
    }
}

#[test]
fn whatever_the_memory() {
    // A quarter is for keys: of 12,000 keys of 16 bytes only some fit.
    assert!(first_of_each_key_stays(2, 100, "1MB", QUERY) > 0);
    assert!(first_of_each_key_stays(4, 2, "600KB", QUERY) > 0);
}

#[test]
fn whatever_a_join_makes_of_the_order() {
    let joined = QUERY.replace("SELECT e.id, e.part, e.n", "SELECT e.id, p.part, e.n")
        + " JOIN raw.parts p ON p.part = e.part";
    for threads in [1, 4] {
        first_of_each_key_stays(threads, 3, "256MB", &joined);
    }
}

#[test]
fn whatever_was_staged_when_another_flow_goes_on() {
    let project = Project::new(
        "CREATE STREAMING TABLE curated.t (CONSTRAINT once EXPECT UNIQUE (id) ON VIOLATION DROP ROW);
         CREATE FLOW fa AS INSERT INTO curated.t BY NAME SELECT id FROM STREAM read_files('a', schema => 'id BIGINT');
         CREATE FLOW fb AS INSERT INTO curated.t BY NAME SELECT id FROM STREAM read_files('b', schema => 'id BIGINT');",
    );
    project.write("a/1.jsonl", "{\"id\":1}\n");
    project.write("b/1.jsonl", "{\"id\":2}\n");
    project.run();
    // The second flow stages key 3 and dies before it publishes; the first flow then reads the same key.
    project.write("b/2.jsonl", "{\"id\":3}\n");
    let mut command = project.command(&["run"]);
    let died = command.env("CATCHMENT_FAULT", "staged-written:1:abort").output().unwrap();
    assert_eq!(died.status.code(), None);
    project.write("a/2.jsonl", "{\"id\":3}\n");
    project.run();
    let ids = project.query("SELECT id, count(*) AS n FROM curated.t GROUP BY id ORDER BY id");
    assert_eq!(ids, serde_json::json!([{ "id": 1, "n": 1 }, { "id": 2, "n": 1 }, { "id": 3, "n": 1 }]));
}

#[test]
fn a_file_mended_after_a_failed_batch_is_read_once() {
    let project = Project::new(
        "CREATE STREAMING TABLE curated.t (CONSTRAINT positive EXPECT (id > 0) ON VIOLATION FAIL UPDATE) AS
         SELECT id FROM STREAM read_files('in', schema => 'id BIGINT', allowOverwrites => true);",
    );
    project.write("in/1.jsonl", "{\"id\":-1}\n");
    let done = project.call(&["run", "--json"]).exits(1);
    assert!(done.out.contains("C3006"), "{}", done.out);
    project.write("in/1.jsonl", "{\"id\":1}\n{\"id\":2}\n");
    project.run();
    project.run();
    assert_eq!(project.query("SELECT count(*) AS n FROM curated.t")[0]["n"], 2);
    assert_eq!(project.query("SELECT count(*) AS n FROM system.files WHERE size = 18")[0]["n"], 1);
}

/// Rows `(n, key, seconds)` of a file, keys and times that come again and out of order.
fn timed(project: &Project, file: u64) -> Vec<(u64, u64, i64)> {
    let rows: Vec<(u64, u64, i64)> = (file * 2_000..file * 2_000 + 2_000)
        .map(|n| {
            let mixed = (n ^ 0x9e37_79b9).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20;
            (n, mixed % 300, (n / 10) as i64 + (mixed >> 9) as i64 % 400 - 200)
        })
        .collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|(n, key, seconds)| {
            let time = chrono::DateTime::from_timestamp(1_767_225_600 + seconds, 0).unwrap();
            let key = if n % 97 == 0 { "null".to_owned() } else { key.to_string() };
            format!("{{\"n\":{n},\"id\":{key},\"ts\":\"{}\"}}", time.format("%Y-%m-%dT%H:%M:%S"))
        })
        .collect();
    project.write(&format!("in/{file:03}.jsonl"), lines.join("\n"));
    rows
}

/// Which rows stay, row by row: those that no earlier row of the table with their key is close to.
fn apart(rows: &[(u64, u64, i64)], reach: i64, keeps: bool) -> (Vec<u64>, u64) {
    let (mut stay, mut duplicates) = (Vec::new(), 0);
    let mut table: std::collections::HashMap<u64, Vec<i64>> = std::collections::HashMap::new();
    for (n, key, seconds) in rows {
        let times = table.entry(*key).or_default();
        let is_near = n % 97 != 0 && times.iter().any(|time| (time - seconds).abs() <= reach);
        duplicates += u64::from(is_near);
        if !is_near || keeps {
            stay.push(*n);
            if n % 97 != 0 {
                times.push(*seconds);
            }
        }
    }
    (stay, duplicates)
}

#[test]
fn only_rows_that_are_close_in_time_are_compared() {
    for (files, action) in [(100, "DROP ROW"), (1, "DROP ROW"), (2, "WARN"), (3, "QUARANTINE")] {
        let project = Project::new(&format!(
            "CREATE STREAMING TABLE t (CONSTRAINT once EXPECT UNIQUE (id) WITHIN INTERVAL '90' SECONDS ON VIOLATION {action}) AS
             SELECT n, id, ts FROM STREAM read_files('in', schema => 'n BIGINT, id BIGINT, ts TIMESTAMP', maxFilesPerTrigger => {files})
               WATERMARK ts DELAY OF INTERVAL '1' MINUTE;"
        ));
        let mut rows = Vec::new();
        for step in 0..3 {
            for file in step * 3..step * 3 + 3 {
                rows.extend(timed(&project, file));
            }
            let done = project.call(&["run", "--json"]);
            assert!(matches!(done.code, Some(0 | 2)), "{}{}", done.out, done.err);
        }
        let (stay, duplicates) = apart(&rows, 90, action == "WARN");
        let stored = project.query("SELECT n FROM t ORDER BY n");
        let stored: Vec<u64> =
            stored.as_array().unwrap().iter().map(|row| row["n"].as_u64().unwrap()).collect();
        assert_eq!(stored.len(), stay.len(), "{files} files, {action}");
        assert!(stored == stay, "{files} files, {action}");
        let failed = project
            .query("SELECT CAST(sum(failed) AS BIGINT) AS n FROM system.expectations WHERE NOT undone");
        assert_eq!(failed[0]["n"], duplicates, "{files} files, {action}");
        assert!(duplicates > 1_000, "{duplicates}");
    }
}

#[test]
fn a_horizon_needs_a_time_in_the_table() {
    for query in [
        "SELECT id, ts FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT, ts TIMESTAMP')",
        "SELECT id FROM STREAM read_files('in', format => 'json', schema => 'id BIGINT, ts TIMESTAMP') WATERMARK ts DELAY OF INTERVAL '1' MINUTE",
    ] {
        let project = Project::new(&format!(
            "CREATE STREAMING TABLE t (CONSTRAINT once EXPECT UNIQUE (id) WITHIN INTERVAL '1' HOUR) AS {query};"
        ));
        let refused = project.call(&["check"]).exits(1);
        assert!(refused.err.contains("no column of the dataset is that"), "{}", refused.err);
    }
}
