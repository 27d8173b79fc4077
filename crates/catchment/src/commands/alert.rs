//! `catchment alert`

use std::path::PathBuf;
use std::process::ExitCode;

use catchment_core::{Code, Error, Result};
use catchment_pipelines::Workspace;
use catchment_server::{RecordPlace, StreamCommand, Streams};
use clap::Subcommand;
use serde_json::json;

use crate::arguments::Arguments;
use crate::show::Screen;
use crate::wiring;

/// What is done with alerts.
#[derive(Debug, Subcommand)]
pub(crate) enum AlertAction {
    /// Send a test message to a target, and wait until it has taken it.
    #[command(after_help = "Example:
  catchment alert test ops -p shop")]
    Test {
        /// The target, a name under [notify] in catchment.toml.
        target: String,
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
    /// Let notifications that were given up be sent again.
    ///
    /// `catchment serve` sends them at once, `catchment run` when it runs next. Those that are not taken then are
    /// given up again.
    Retry {
        /// The project's folder.
        #[arg(short, long, default_value = ".")]
        project: PathBuf,
    },
}

pub(crate) async fn run(arguments: &Arguments, action: &AlertAction, screen: Screen) -> Result<ExitCode> {
    let (AlertAction::Test { project, .. } | AlertAction::Retry { project }) = action;
    let workspace = wiring::workspace(project, arguments)?;
    match action {
        AlertAction::Test { target, .. } => {
            let id = match workspace.test_target(target).await {
                Err(error) if error.code() == Code::STREAM_OWNED => {
                    test_stream(&workspace, target, error).await?
                }
                sent => sent?.id,
            };
            match screen.json {
                true => screen.json(&json!({ "target": target, "id": id })),
                false => screen.line(format!("target \"{target}\" has taken message {id}")),
            }
        }
        AlertAction::Retry { .. } => {
            let count = workspace.retry_notifications()?;
            match screen.json {
                true => screen.json(&json!({ "retried": count })),
                false => screen.line(format!("{count} notifications are to be sent again")),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the service write to the stream that a target is; `error` says that somebody has the streams.
async fn test_stream(workspace: &Workspace, target: &str, error: Error) -> Result<String> {
    let config = &workspace.project.config;
    let Some(mut service) = Streams::there(&config.commands()).await else { return Err(error) };
    let stream = config.config.notify.get(target).map(|target| target.stream.clone()).unwrap_or_default();
    let message = workspace.test_message(target);
    let records = vec![(message.alert.clone(), message.json())];
    let _: Vec<RecordPlace> = service.perform(StreamCommand::Put { name: stream, records }).await?;
    Ok(message.id)
}
