//! Tasks of the repository: `cargo xtask tidy | generate | crash | mutate | bench`.
//!
//! **Never**: links a crate of the product; it runs the built program as a user would.

mod bench;
mod crash;
mod generate;
mod mutate;
mod repository;
mod tidy;

use std::process::ExitCode;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const HELP: &str = "cargo xtask TASK

  tidy                      house rules: crate edges, file length, head lines, features, error pages
  generate [--check]        pages made from the program: error pages, command line
  crash --kills N           kills and power cuts at random steps; each must lose and repeat nothing
  mutate [NAME]             takes safety out of the code, one piece at a time; a named test must fail
  bench lakehouse [--rows N] [--peers duckdb,polars,pyspark]   raw to curated beside its peers
  bench streams [--rows N] [--peers duckdb,pyspark,flink]      windows over a stream beside its peers
  bench log [--seconds N]   PutRecords beside other Kinesis endpoints
  bench layout [--rows N]   OPTIMIZE beside DuckDB, bytes that filters read, a rollback
  bench commits [--commits N]  whether commits to one table get slower
  bench latency [--commits N] [--seconds S] [--rate R]
                               from PutRecords to the row in Delta, on a table with many commits
  bench serving [--groups N] [--rate R] [--seconds S]
                               batches, reads by key and freshness of serving tables
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["tidy"] => tidy::run(),
        ["generate"] => generate::run(false),
        ["generate", "--check"] => generate::run(true),
        ["crash", rest @ ..] => crash::run(number(rest, "--kills", 100)),
        ["mutate"] => mutate::run(""),
        ["mutate", name] => mutate::run(name),
        ["bench", "lakehouse", rest @ ..] => {
            let peers = word(rest, "--peers", "duckdb,polars,pyspark");
            bench::lakehouse(number(rest, "--rows", 10_000_000), peers)
        }
        ["bench", "streams", rest @ ..] => {
            bench::streams(number(rest, "--rows", 10_000_000), word(rest, "--peers", "duckdb,pyspark,flink"))
        }
        ["bench", "log", rest @ ..] => bench::log(number(rest, "--seconds", 15)),
        ["bench", "layout", rest @ ..] => bench::layout(number(rest, "--rows", 10_000_000)),
        ["bench", "commits", rest @ ..] => bench::commits(number(rest, "--commits", 100_000)),
        ["bench", "latency", rest @ ..] => bench::latency(
            number(rest, "--commits", 100_000),
            number(rest, "--seconds", 60),
            number(rest, "--rate", 20_000),
        ),
        ["bench", "serving", rest @ ..] => bench::serving(
            number(rest, "--groups", 5_000_000),
            number(rest, "--rate", 20_000),
            number(rest, "--seconds", 20),
        ),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The word that follows a flag.
fn word<'a>(words: &[&'a str], flag: &str, otherwise: &'a str) -> &'a str {
    words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1)).unwrap_or(&otherwise)
}

/// The number that follows a flag.
fn number(words: &[&str], flag: &str, otherwise: u64) -> u64 {
    let value = words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1));
    value.and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}
