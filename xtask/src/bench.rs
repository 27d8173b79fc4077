//! Benchmarks: ours and a peer in one run, CPU seconds and peak memory of whole processes.

use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::repository::{command, program, root, target};

/// What the peers are, as packages.
const PEERS: &str = "duckdb==1.5.5 polars pyspark>=4,<5 pandas<3 pyarrow";

/// Raw to curated over generated events, beside the peers that are named.
pub(crate) fn lakehouse(rows: u64, peers: &str) -> Outcome {
    let program = program(true)?;
    python("lakehouse.py", &[program.to_string_lossy().as_ref(), &rows.to_string(), peers])
}

/// Windows over a stream of generated events, beside the peers that are named.
pub(crate) fn streams(rows: u64, peers: &str) -> Outcome {
    let program = program(true)?;
    python("streams.py", &[program.to_string_lossy().as_ref(), &rows.to_string(), peers])
}

/// Layouts of one table: what they cost, and how little is read then.
pub(crate) fn layout(rows: u64) -> Outcome {
    let program = program(true)?;
    python("layout.py", &[program.to_string_lossy().as_ref(), &rows.to_string()])
}

/// PutRecords beside other Kinesis endpoints, for so many seconds each.
pub(crate) fn log(seconds: u64) -> Outcome {
    // Without the engine: the log and its endpoint are all that is measured.
    command("cargo", &["build", "--release", "--quiet", "--package", "catchment-server", "--examples"])?;
    let folder = root().join("target/bench-node");
    if !folder.join("node_modules/kinesis-local").exists() {
        std::fs::create_dir_all(&folder)?;
        let prefix = folder.to_string_lossy().into_owned();
        command(
            "npm",
            &[
                "install",
                "--silent",
                "--no-fund",
                "--no-audit",
                "--prefix",
                &prefix,
                "kinesalite",
                "kinesis-local",
            ],
        )?;
    }
    let python = environment()?;
    command(
        python.to_string_lossy().as_ref(),
        &["-m", "pip", "install", "--quiet", "boto3", "moto[server]"],
    )?;
    let examples = target()?.join("release/examples");
    let example = |name: &str| examples.join(name).to_string_lossy().into_owned();
    self::python("log.py", &[&example("log_server"), &example("load"), &seconds.to_string()])
}

/// Commits to one table at full speed, the maintainer running.
pub(crate) fn commits(commits: u64) -> Outcome {
    command(&commits_example()?, &[&commits.to_string()])
}

/// From PutRecords to the row in Delta, on a table with so many commits.
pub(crate) fn latency(commits: u64, seconds: u64, rate: u64) -> Outcome {
    let (program, example) = (program(true)?, commits_example()?);
    let numbers = [commits, seconds, rate].map(|number| number.to_string());
    let [commits, seconds, rate] = numbers.each_ref().map(String::as_str);
    python("latency.py", &[program.to_string_lossy().as_ref(), &example, commits, seconds, rate])
}

/// Batches, reads by key and freshness of serving tables with so many groups.
pub(crate) fn serving(groups: u64, rate: u64, seconds: u64) -> Outcome {
    let (program, example) = (program(true)?, example("catchment-flows", "serving_reads")?);
    let numbers = [groups, rate, seconds].map(|number| number.to_string());
    let [groups, rate, seconds] = numbers.each_ref().map(String::as_str);
    python("serving.py", &[program.to_string_lossy().as_ref(), &example, groups, rate, seconds])
}

/// Builds the example that makes commits.
fn commits_example() -> Result<String, Box<dyn std::error::Error>> {
    example("catchment-lake", "commits")
}

/// Builds an example.
fn example(package: &str, name: &str) -> Result<String, Box<dyn std::error::Error>> {
    // Together with the program, so that dependencies have the features that they have there.
    let packages = ["--package", "catchment", "--package", package];
    let mut arguments = vec!["build", "--release", "--quiet", "--example", name];
    arguments.extend(packages);
    command("cargo", &arguments)?;
    let example = program(true)?.with_file_name("examples").join(name);
    Ok(example.to_string_lossy().into_owned())
}

/// The Python with the peers: `CATCHMENT_BENCH_PYTHON`, or one that is made in the target folder.
fn environment() -> Result<std::path::PathBuf, Box<dyn std::error::Error>> {
    if let Some(python) = std::env::var_os("CATCHMENT_BENCH_PYTHON") {
        return Ok(python.into());
    }
    let folder = root().join("target/bench-python");
    let python = folder.join("bin/python");
    if !python.exists() {
        command("python3", &["-m", "venv", folder.to_string_lossy().as_ref()])?;
        let mut install = vec!["-m", "pip", "install", "--quiet"];
        install.extend(PEERS.split(' '));
        command(python.to_string_lossy().as_ref(), &install)?;
    }
    Ok(python)
}

fn python(script: &str, arguments: &[&str]) -> Outcome {
    let environment = environment()?;
    let script = root().join("xtask/bench").join(script);
    let status =
        Command::new(Path::new(&environment)).arg(script).args(arguments).current_dir(root()).status()?;
    if status.success() { Ok(()) } else { Err("the benchmark failed".into()) }
}
