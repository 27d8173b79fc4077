//! `catchment`: the command line.
//!
//! Parses arguments, wires the crates together and shows results. **Never**: decides anything about
//! data; every command is a call into a library crate and a way to show what came of it.

mod arguments;
mod commands;
mod pages;
mod show;
mod wiring;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let screen = show::Screen::new(arguments.json);
    match wiring::runtime(&arguments).and_then(|runtime| runtime.block_on(commands::run(&arguments, &screen)))
    {
        Ok(code) => {
            // Nobody may be left to read what is shown; that is not an error of ours.
            let _ = std::io::stdout().flush();
            code
        }
        Err(error) => {
            screen.error(&error);
            ExitCode::from(1)
        }
    }
}
