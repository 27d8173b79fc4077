//! Benchmarks: ours and a peer in one run, CPU seconds and peak memory of whole processes.

use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::repository::{command, program, root};

/// Raw to curated over generated events, beside DuckDB.
pub(crate) fn lakehouse(rows: u64) -> Outcome {
    let program = program(true)?;
    python("lakehouse.py", &[program.to_string_lossy().as_ref(), &rows.to_string()])
}

/// Commits to one table at full speed, the maintainer running.
pub(crate) fn commits(commits: u64) -> Outcome {
    let commits = commits.to_string();
    command(
        "cargo",
        &[
            "run",
            "--release",
            "--quiet",
            "--package",
            "catchment-lake",
            "--example",
            "commits",
            "--",
            &commits,
        ],
    )
}

fn python(script: &str, arguments: &[&str]) -> Outcome {
    let environment = std::env::var_os("CATCHMENT_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let script = root().join("xtask/bench").join(script);
    let status =
        Command::new(Path::new(&environment)).arg(script).args(arguments).current_dir(root()).status()?;
    if status.success() { Ok(()) } else { Err("the benchmark failed".into()) }
}
