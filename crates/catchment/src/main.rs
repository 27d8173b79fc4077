//! `catchment`: the command line.
//!
//! Parses arguments, wires the crates together and shows results. **Never**: decides anything about
//! data; every command is a call into a library crate and a way to show what came of it.

mod arguments;
mod commands;
mod pages;
mod show;
mod traces;
mod wiring;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;

/// With states of millions of groups, the C library's allocator takes half the time of a batch and half as much memory again.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let screen = show::Screen::new(arguments.json);
    let result = wiring::runtime(&arguments).and_then(|runtime| {
        let traces = wiring::traces()?;
        let result = runtime.block_on(commands::run(&arguments, &screen));
        if let Some(traces) = traces {
            traces.end();
        }
        result
    });
    match result {
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
