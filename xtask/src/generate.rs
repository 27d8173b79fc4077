//! Pages and tables that are made from the program, so that they cannot be out of date.

use std::fmt::Write;

use crate::Outcome;
use crate::repository::{output, program, root};
use crate::tidy::codes;

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
    // A command, then those below it.
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(command) = commands.pop() {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = output(&program, &arguments)?;
        arguments.pop();
        let names = below(&help).into_iter().rev();
        commands.extend(names.map(|name| command.iter().cloned().chain([name]).collect()));
        let name = std::iter::once("catchment").chain(arguments).collect::<Vec<_>>().join(" ");
        let help: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.trim_end())?;
    }
    Ok(text)
}

/// The commands that a help lists.
fn below(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // What a command does may go on in a second line, which begins further to the right.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(ToOwned::to_owned).collect()
}
