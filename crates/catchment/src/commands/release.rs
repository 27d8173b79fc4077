//! `catchment release`

use std::process::ExitCode;

use catchment_core::{Result, format_count, timestamp_text};
use catchment_pipelines::Release;
use serde_json::json;

use crate::arguments::{Arguments, ReleaseArguments};
use crate::show::Screen;
use crate::wiring;

pub(crate) async fn run(
    arguments: &Arguments,
    command: &ReleaseArguments,
    screen: Screen,
) -> Result<ExitCode> {
    let workspace = wiring::workspace(&command.project, arguments)?;
    let releases = match &command.name {
        Some(name) => vec![workspace.release(name, &command.select).await?],
        None => workspace.lake.releases().await?,
    };
    if screen.json {
        screen.json(&json!(releases.iter().map(as_json).collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = releases
        .iter()
        .map(|release| {
            let datasets = format_count(release.versions.len() as u64);
            vec![release.name.clone(), timestamp_text(release.created_at), datasets]
        })
        .collect();
    screen.line(screen.table(&["RELEASE", "CREATED", "DATASETS"], &rows, &[2]));
    Ok(ExitCode::SUCCESS)
}

fn as_json(release: &Release) -> serde_json::Value {
    json!({ "name": release.name, "created_at": timestamp_text(release.created_at), "versions": release.versions })
}
