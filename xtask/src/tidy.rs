//! The house rules, checked.

use std::collections::BTreeMap;

use crate::Outcome;
use crate::mutate;
use crate::repository::{files, root};

/// The longest file, in lines.
const LONGEST: usize = 600;

/// Files that are longer than they should be. The list may only shrink.
const LONGER: &[(&str, usize)] = &[];

/// The layer of each crate: it may use crates of lower layers only.
const LAYERS: &[(&str, u32)] = &[
    ("core", 0),
    ("catalog", 1),
    ("lake", 1),
    ("log", 1),
    ("nexmark", 0),
    ("notify", 2),
    ("sql", 2),
    ("ingest", 3),
    ("quality", 3),
    ("flows", 4),
    ("pipelines", 6),
    ("server", 7),
    ("catchment", 8),
];

pub(crate) fn run() -> Outcome {
    let mut wrong = Vec::new();
    sources(&mut wrong)?;
    manifests(&mut wrong)?;
    error_pages(&mut wrong)?;
    wrong.extend(mutate::stale()?);
    if wrong.is_empty() {
        println!("tidy");
        return Ok(());
    }
    wrong.iter().for_each(|line| eprintln!("{line}"));
    Err(format!("{} things are not tidy", wrong.len()).into())
}

fn sources(wrong: &mut Vec<String>) -> Outcome {
    for path in files()? {
        if path.extension().is_none_or(|ending| ending != "rs") {
            continue;
        }
        let name = path.display().to_string();
        let text = std::fs::read_to_string(root().join(&path))?;
        let lines = text.lines().count();
        let allowed = LONGER.iter().find(|(file, _)| *file == name).map_or(LONGEST, |(_, lines)| *lines);
        if lines > allowed {
            wrong.push(format!("{name}: {lines} lines, {allowed} are allowed: split it by idea"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{name}: begin with a //! line that says what the file is for"));
        }
        let is_head = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
        if is_head && !text.contains("**Never**") {
            wrong.push(format!("{name}: a crate's head says what it never does, after **Never**"));
        }
        if text.contains(concat!("#[should", "_panic")) {
            wrong.push(format!("{name}: test for the error, not for a panic"));
        }
    }
    Ok(())
}

fn manifests(wrong: &mut Vec<String>) -> Outcome {
    let layers: BTreeMap<&str, u32> = LAYERS.iter().copied().collect();
    for entry in std::fs::read_dir(root().join("crates"))? {
        let folder = entry?.path();
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(layer) = layers.get(name.as_str()) else {
            wrong.push(format!("crates/{name}: give it a layer in xtask/src/tidy.rs"));
            continue;
        };
        let text = std::fs::read_to_string(folder.join("Cargo.toml"))?;
        if text.contains("features") || text.contains("version = \"") {
            wrong.push(format!(
                "crates/{name}/Cargo.toml: versions and features are set in the root manifest"
            ));
        }
        for line in text.lines() {
            let Some(used) = line.strip_prefix("catchment-").and_then(|rest| rest.split('.').next()) else {
                continue;
            };
            if layers.get(used).is_none_or(|below| below >= layer) {
                wrong.push(format!("crates/{name} uses {used}: arrows point down only"));
            }
        }
        let links_engine = text.lines().any(|line| line.starts_with("datafusion"));
        if links_engine && ["core", "catalog", "log"].contains(&name.as_str()) {
            wrong.push(format!("crates/{name} does not link DataFusion"));
        }
    }
    Ok(())
}

/// The codes of the table in `core`, each with its title.
pub(crate) fn codes() -> Result<Vec<(String, String)>, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(root().join("crates/core/src/code.rs"))?;
    let quoted = |line: &str| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    Ok(text
        .lines()
        .filter(|line| line.contains(" = \"C"))
        .filter_map(|line| match quoted(line).as_slice() {
            [code, title] => Some((code.clone(), title.clone())),
            _ => None,
        })
        .collect())
}

fn error_pages(wrong: &mut Vec<String>) -> Outcome {
    let codes = codes()?;
    for (code, title) in &codes {
        let page = std::fs::read_to_string(root().join(format!("docs/errors/{code}.md"))).unwrap_or_default();
        if !page.starts_with(&format!("# {code}: {title}\n")) {
            wrong.push(format!("docs/errors/{code}.md: begin with \"# {code}: {title}\""));
        }
        if !page.contains("**What happened.**") || !page.contains("**What to do.**") {
            wrong.push(format!("docs/errors/{code}.md: say what happened and what to do"));
        }
    }
    for entry in std::fs::read_dir(root().join("docs/errors"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !codes.iter().any(|(code, _)| name == format!("{code}.md")) {
            wrong.push(format!("docs/errors/{name}: no such code"));
        }
    }
    Ok(())
}
