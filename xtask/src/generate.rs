//! Pages and tables that are made from the program, so that they cannot be out of date.

use std::fmt::Write;

use crate::Outcome;
use crate::repository::{output, program, root};
use crate::tidy::codes;

/// Commands whose help makes the reference of the command line.
const COMMANDS: &[&[&str]] = &[
    &[],
    &["check"],
    &["run"],
    &["sql"],
    &["status"],
    &["history"],
    &["explain"],
    &["config", "show"],
    &["completions"],
];

pub(crate) fn run(check: bool) -> Outcome {
    let pages = [
        ("crates/catchment/src/pages.rs", error_table()?),
        ("docs/reference/errors.md", error_list()?),
        ("docs/reference/command-line.md", command_line()?),
    ];
    let mut stale = Vec::new();
    for (path, text) in pages {
        let full = root().join(path);
        if std::fs::read_to_string(&full).is_ok_and(|old| old == text) {
            continue;
        }
        if check {
            stale.push(path);
        } else {
            std::fs::write(&full, text)?;
            println!("wrote {path}");
        }
    }
    if stale.is_empty() {
        Ok(())
    } else {
        Err(format!("run `cargo xtask generate`: {} out of date", stale.join(", ")).into())
    }
}

fn error_table() -> Result<String, Box<dyn std::error::Error>> {
    let mut text =
        "//! The pages of the error codes, made by `cargo xtask generate`.\n\n/// Each code and its page.\n\
        #[rustfmt::skip]\npub(crate) const PAGES: &[(&str, &str)] = &[\n"
            .to_owned();
    for (code, _) in codes()? {
        writeln!(text, "    (\"{code}\", include_str!(\"../../../docs/errors/{code}.md\")),")?;
    }
    text.push_str("];\n");
    Ok(text)
}

fn error_list() -> Result<String, Box<dyn std::error::Error>> {
    let mut text =
        "# Error codes\n\nMade by `cargo xtask generate`. `catchment explain CODE` prints a page.\n\n\
        | code | meaning |\n|---|---|\n"
            .to_owned();
    for (code, title) in codes()? {
        writeln!(text, "| [{code}](../errors/{code}.md) | {title} |")?;
    }
    Ok(text)
}

fn command_line() -> Result<String, Box<dyn std::error::Error>> {
    let program = program(false)?;
    let program = program.to_string_lossy();
    let mut text =
        "# The command line\n\nMade by `cargo xtask generate` from `catchment --help`.\n".to_owned();
    for command in COMMANDS {
        let mut arguments = command.to_vec();
        arguments.push("--help");
        let help = output(&program, &arguments)?;
        let name = std::iter::once("catchment").chain(command.iter().copied()).collect::<Vec<_>>().join(" ");
        let help: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.trim_end())?;
    }
    Ok(text)
}
