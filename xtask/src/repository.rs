//! The repository's files and commands.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository: where cargo runs this, not where it was built, since checkouts may share built files.
pub(crate) fn root() -> PathBuf {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    folder.as_deref().and_then(Path::parent).map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The files that git knows or would add, relative to the root.
pub(crate) fn files() -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(PathBuf::from).filter(|path| root().join(path).exists()).collect())
}

/// A command in the root, without what the cargo that started this task has set for it: build scripts look at
/// some of these variables, and would build everything anew.
pub(crate) fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command in the root; its failure is an error.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let status = clean_command(program).args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("{program} {} failed", arguments.join(" ")).into()) }
}

/// Runs a command in the root and returns what it printed.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    let output = clean_command(program).args(arguments).output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{program} {} failed: {errors}", arguments.join(" ")).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Builds the program and returns where it is.
pub(crate) fn program(release: bool) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut arguments = vec!["build", "--quiet", "--package", "catchment"];
    if release {
        arguments.push("--release");
    }
    command("cargo", &arguments)?;
    Ok(target()?.join(if release { "release" } else { "debug" }).join("catchment"))
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let metadata = output("cargo", &["metadata", "--format-version", "1", "--no-deps"])?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"].as_str().ok_or("cargo metadata names no target folder")?;
    Ok(PathBuf::from(target))
}
