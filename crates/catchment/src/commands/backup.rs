//! `catchment backup`, `restore` and `recover`

use std::process::ExitCode;

use catchment_core::{Result, format_count};
use catchment_pipelines::Workspace;
use serde_json::json;

use crate::arguments::{Arguments, BackupArguments, ProjectArguments, RestoreArguments};
use crate::show::Screen;
use crate::wiring;

pub(crate) fn run(arguments: &Arguments, command: &BackupArguments, screen: Screen) -> Result<ExitCode> {
    wiring::workspace(&command.project, arguments)?.backup(&command.file)?;
    if screen.json {
        screen.json(&json!({ "file": command.file }));
    } else {
        screen.line(format!("wrote {}", command.file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn restore(
    arguments: &Arguments,
    command: &RestoreArguments,
    screen: Screen,
) -> Result<ExitCode> {
    let workspace =
        wiring::workspace_from_backup(&command.project, arguments, &command.file, command.replace)?;
    rebuild(&workspace, screen).await
}

pub(crate) async fn recover(
    arguments: &Arguments,
    command: &ProjectArguments,
    screen: Screen,
) -> Result<ExitCode> {
    rebuild(&wiring::workspace(&command.project, arguments)?, screen).await
}

async fn rebuild(workspace: &Workspace, screen: Screen) -> Result<ExitCode> {
    let batches = workspace.recover().await?;
    if screen.json {
        screen.json(&json!({ "batches": batches }));
    } else {
        screen.line(format!(
            "the lake tells of {} published batches; the catalog has them",
            format_count(batches)
        ));
    }
    Ok(ExitCode::SUCCESS)
}
