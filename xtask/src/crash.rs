//! Thousands of kills: the crash tests of the suite, with other seeds.

use std::process::Command;

use crate::Outcome;
use crate::repository::root;

/// Runs the crash tests with `kills` random kills, half of them power cuts.
pub(crate) fn run(kills: u64) -> Outcome {
    let status = Command::new("cargo")
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
        .current_dir(root())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err("a kill lost or repeated rows; its fault is named above".into())
    }
}
