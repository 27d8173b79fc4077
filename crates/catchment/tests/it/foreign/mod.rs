//! Streams of others: Kinesis endpoints and Kafka brokers that nobody here wrote, read into tables.

mod kafka;
pub(crate) mod kinesis;
mod messages;

use crate::kinesis::flows::check;
use crate::project::Project;

/// The tables that [`check`] looks at, over a source.
fn pipeline(source: &str, sequence: &str) -> String {
    format!(
        "
CREATE STREAMING TABLE raw.clicks (CONSTRAINT known EXPECT (k < 6) ON VIOLATION QUARANTINE) PARTITIONED BY (k) AS
  SELECT n, k, {sequence} AS sequence_number FROM STREAM {source};
CREATE STREAMING TABLE curated.clicks AS SELECT n, k * 10 AS k FROM STREAM raw.clicks;"
    )
}

const CONFIG: &str = "[engine]\nthreads = 2\nretries = 3\n[maintenance]\ncheckpoint_after = 4\nminimum_files = 3\nkept_plans = 4\n";

/// Numbers and keys are put, and a project that reads them is killed over and over: all are in its tables, once.
fn survive(project: &Project, rounds: i64, mut put: impl FnMut(i64, std::ops::Range<i64>)) {
    project.write("catchment.toml", CONFIG);
    let run = |fault: Option<String>| {
        let mut command = project.command(&["run"]);
        command.env("AWS_ACCESS_KEY_ID", "tester").env("AWS_SECRET_ACCESS_KEY", "tester-secret");
        command.envs(fault.map(|fault| ("CATCHMENT_FAULT", fault))).output().unwrap()
    };
    let (mut count, mut kills) = (0, 0);
    for round in 0..rounds {
        put(round, count..count + 60);
        count += 60;
        kills += i64::from(run(Some(format!("any:{}:abort", 3 + (round * 17) % 40))).status.code().is_none());
        if round % 4 == 3 {
            let done = run(None);
            assert!(matches!(done.status.code(), Some(0 | 2)), "{}", String::from_utf8_lossy(&done.stderr));
            check(project, count, &format!("round {round}"));
        }
    }
    assert!(kills > rounds / 2, "{kills} kills in {rounds} rounds");
    let done = run(None);
    assert!(matches!(done.status.code(), Some(0 | 2)), "{}", String::from_utf8_lossy(&done.stderr));
    check(project, count, "the end");
}
