//! The commands, a file each.

mod advise;
pub(crate) mod alert;
mod backfill;
mod backup;
mod check;
mod config;
mod diff;
mod explain;
mod history;
mod key;
mod metrics;
mod page;
mod release;
pub(crate) mod replay_events;
mod rollback;
mod run;
mod serve;
mod sql;
mod status;
mod stream;
mod tables;

use std::process::ExitCode;

use catchment_core::Result;
use clap::CommandFactory;

use crate::arguments::{Arguments, Command, ConfigAction};
use crate::show::Screen;

/// Runs the command that the arguments name.
pub(crate) async fn run(arguments: &Arguments, screen: &Screen) -> Result<ExitCode> {
    match &arguments.command {
        Command::Check(command) => check::run(arguments, command, *screen).await,
        Command::Run(command) => Box::pin(run::run(arguments, command, *screen)).await,
        Command::Serve(command) => Box::pin(serve::run(arguments, command, *screen)).await,
        Command::Stream { action } => Box::pin(stream::run(arguments, action, *screen)).await,
        Command::Alert { action } => Box::pin(alert::run(arguments, action, *screen)).await,
        Command::Key { action } => key::run(arguments, action, *screen),
        Command::Sql(command) => Box::pin(sql::run(arguments, command, *screen)).await,
        Command::ReplayEvents(command) => Box::pin(replay_events::run(arguments, command, *screen)).await,
        Command::Replay(command) => Box::pin(run::replay(arguments, command, *screen)).await,
        Command::Backfill(command) => Box::pin(backfill::run(arguments, command, *screen)).await,
        Command::Rollback(command) => Box::pin(rollback::run(arguments, command, *screen)).await,
        Command::Diff(command) => Box::pin(diff::run(arguments, command, *screen)).await,
        Command::Backup(command) => backup::run(arguments, command, *screen),
        Command::Restore(command) => Box::pin(backup::restore(arguments, command, *screen)).await,
        Command::Recover(command) => Box::pin(backup::recover(arguments, command, *screen)).await,
        Command::Advise(command) => Box::pin(advise::run(arguments, command, *screen)).await,
        Command::Release(command) => release::run(arguments, command, *screen).await,
        Command::Status(command) => status::run(arguments, command, *screen).await,
        Command::History(command) => history::run(arguments, command, *screen).await,
        Command::Explain { code } => explain::run(code.as_deref(), *screen),
        Command::Config { action: ConfigAction::Show(command) } => config::show(arguments, command, *screen),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "catchment", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
