//! The README and the guides, run as a reader would: every `sh` block, in order, in one shell session's
//! folder. A `text` block behind one holds what its last command prints.

use std::path::Path;
use std::process::Command;

use crate::project::{Done, PROGRAM, copy, repository};

/// Commands that build or test the repository itself; the suite does that already.
const NOT_HERE: &[&str] = &["scripts/test"];

enum Block {
    Shell(String),
    Text(String),
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in markdown.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => open = Some((kind, String::new())),
            (Some((kind, text)), Some("")) => {
                match *kind {
                    "sh" => found.push(Block::Shell(std::mem::take(text))),
                    "text" => found.push(Block::Text(std::mem::take(text))),
                    _ => {}
                }
                open = None;
            }
            (Some((_, text)), _) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// Runs a document in a folder with the examples; `catchment` and `cargo run --` are the program.
fn run(document: &Path) {
    let folder = tempfile::tempdir().unwrap();
    copy(&repository().join("examples"), &folder.path().join("examples"));
    let tools = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(PROGRAM, tools.path().join("catchment")).unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", tools.path().display());
    let name = document.display();
    let mut printed = String::new();
    for block in blocks(&std::fs::read_to_string(document).unwrap()) {
        match block {
            Block::Shell(text) if NOT_HERE.contains(&text.trim()) => printed.clear(),
            Block::Shell(text) => {
                // 2 is what a run with something in quarantine says.
                let text = text.replace(
                    "cargo run -- run examples/lakehouse",
                    "catchment run examples/lakehouse || [ $? = 2 ]",
                );
                let script = format!("set -e\n{}", text.replace("cargo run --", "catchment"));
                let done: Done = Command::new("bash")
                    .args(["-c", &script])
                    .current_dir(folder.path())
                    .env("PATH", &path)
                    .env("NO_COLOR", "1")
                    .output()
                    .unwrap()
                    .into();
                assert_eq!(done.code, Some(0), "{name}: {text}\n{}\n{}", done.out, done.err);
                // Timings and progress go to the other stream.
                printed = if done.out.is_empty() { done.err } else { done.out };
            }
            Block::Text(expected) if printed.is_empty() => drop(expected),
            Block::Text(expected) => {
                let ends = |text: &str| -> Vec<String> {
                    text.trim().lines().map(|line| line.trim_end().to_owned()).collect()
                };
                assert_eq!(ends(&printed), ends(&expected), "{name}");
                printed.clear();
            }
        }
    }
}

#[test]
fn the_readme_does_what_it_says() {
    run(&repository().join("README.md"));
}

#[test]
fn the_guides_do_what_they_say() {
    let folder = repository().join("docs/guides");
    for entry in std::fs::read_dir(folder).unwrap() {
        run(&entry.unwrap().path());
    }
}
