//! Thousands of kills: the crash tests of the suite, with other seeds.

use crate::Outcome;
use crate::repository::clean_command;

/// Runs the crash tests with `kills` random kills, half of them power cuts.
pub(crate) fn run(kills: u64) -> Outcome {
    let status = clean_command("cargo")
        .args([
            "test",
            "--package",
            "catchment",
            "--test",
            "it",
            "--",
            "--nocapture",
            "--ignored",
            "crash::many",
        ])
        .env("CATCHMENT_KILLS", kills.to_string())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err("a kill lost or repeated rows; its fault is named above".into())
    }
}
