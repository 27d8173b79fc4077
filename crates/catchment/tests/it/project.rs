//! A project in a folder of its own, and the program run on it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_catchment");

/// A project that is removed when it is dropped.
pub(crate) struct Project {
    pub(crate) folder: tempfile::TempDir,
}

/// What a command did.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// The output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }

    /// Fails the test unless the command exited with `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Project {
    /// Makes a project of one pipeline file.
    pub(crate) fn new(pipeline: &str) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        project.write("catchment.toml", "[engine]\nthreads = 2\n");
        project.write("pipelines/all.sql", pipeline);
        project
    }

    /// Copies a folder of the repository, without what a run leaves there.
    pub(crate) fn copy_of(folder: &str) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        copy(&repository().join(folder), project.path());
        project
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        write(&self.path().join(name), bytes.as_ref());
    }

    /// Starts building a call of the program.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.path()).args(arguments).env_remove("CATCHMENT_FAULT").env("NO_COLOR", "1");
        command
    }

    /// Runs the program in the project's folder.
    pub(crate) fn call(&self, arguments: &[&str]) -> Done {
        self.command(arguments).output().unwrap().into()
    }

    /// Brings the project up to date, which must succeed.
    #[track_caller]
    pub(crate) fn run(&self) -> Value {
        self.call(&["run", "--json"]).exits(0).json()
    }

    /// The rows of a query, as JSON.
    #[track_caller]
    pub(crate) fn query(&self, sql: &str) -> Value {
        self.call(&["sql", "--json", sql]).exits(0).json()
    }
}

/// A process that is killed when it is dropped.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a run's report says about one dataset.
#[track_caller]
pub(crate) fn dataset<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["datasets"].as_array().unwrap();
    all.iter().find(|dataset| dataset["dataset"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// Writes a file, making its folder.
#[expect(clippy::disallowed_methods, reason = "input of a test need not be durable")]
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Copies a folder, leaving out what runs leave behind.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let target = to.join(&name);
        if entry.path().is_dir() {
            if name != "lake" && name != ".catchment" {
                copy(&entry.path(), &target);
            }
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// The Python with the libraries that tests compare with; `None` when there is none and nobody insists.
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment what to compare with")]
pub(crate) fn python() -> Option<PathBuf> {
    match std::env::var_os("CATCHMENT_TEST_PYTHON") {
        Some(path) => Some(path.into()),
        None => {
            assert!(std::env::var_os("CI").is_none(), "CATCHMENT_TEST_PYTHON is not set");
            eprintln!(
                "skipped: set CATCHMENT_TEST_PYTHON, as scripts/test does, to compare with other readers"
            );
            None
        }
    }
}

/// Runs a script of `tests/oracle`, which must succeed; returns what it printed.
#[track_caller]
pub(crate) fn oracle(python: &Path, script: &str, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(script);
    let done: Done = Command::new(python).arg(script).args(arguments).output().unwrap().into();
    done.exits(0).out
}
