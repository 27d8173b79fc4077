//! Commits to one table at full speed, with the maintainer running: do they get slower?
//!
//! `cargo xtask bench commits --commits 100000` runs this and compares the last thousand with the first. A second argument is the folder of a lake that is kept.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use catchment_core::{Clock, Code, Error, FlowName, NoFaults, Position, Result, SystemClock, TableName};
use catchment_lake::{FileOptions, Lake, MaintenanceOptions, Outcome, Publication, TableSpec};

/// Commits that are compared with each other.
const WINDOW: usize = 1_000;

#[tokio::main]
async fn main() -> Result<()> {
    let commits: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let kept = std::env::args().nth(2).map(std::path::PathBuf::from);
    let temporary = std::env::temp_dir().join(format!("catchment-commits-{}", std::process::id()));
    let times = measure(kept.as_ref().unwrap_or(&temporary), commits).await;
    if kept.is_none() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    let times = times?;
    let sum = |part: &[Duration]| part.iter().sum::<Duration>().as_secs_f64();
    let (first, last) = (sum(&times[..WINDOW]), sum(&times[times.len() - WINDOW..]));
    println!("{commits} commits in {:.1} s", sum(&times));
    println!("first {WINDOW}: {first:.3} s, last {WINDOW}: {last:.3} s, ratio {:.2}", last / first);
    Ok(())
}

async fn measure(folder: &std::path::Path, commits: usize) -> Result<Vec<Duration>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let lake = Lake::open(folder, clock, Arc::new(NoFaults))?;
    let owner = lake.own().await?;
    let table = TableName::new("raw", "t");
    let writer = owner.writer(&table);
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let spec = TableSpec {
        schema: Arc::clone(&schema),
        partition_columns: Vec::new(),
        comment: None,
        properties: Vec::new(),
    };
    writer.ensure(&spec).await?;

    let flow = FlowName::new("commits");
    let mut times = Vec::with_capacity(commits);
    for number in 0..commits {
        let started = Instant::now();
        let rows =
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![number as i64]))])
                .map_err(|error| Error::new(Code::INTERNAL, "could not make a row").because(error))?;
        let mut files = writer.files(FileOptions::of(&table, &spec, 1 << 20))?;
        files.write(&rows).await?;
        let adds = files.finish().await?.adds;
        let position = Some((flow.clone(), Position::new(0, number as u64)));
        let outcome = writer.append(Publication { position, adds, ..Publication::default() }).await?;
        times.push(started.elapsed());
        if let Outcome::Committed(version) = outcome {
            owner.look_after(&table, version, MaintenanceOptions::default());
        }
    }
    owner.end_upkeep(Duration::from_secs(3_600)).await;
    Ok(times)
}
