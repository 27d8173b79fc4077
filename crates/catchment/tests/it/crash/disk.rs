//! A disk that forgets what was not synced: see `shim.c`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use crate::project::write;

/// The disk below one folder.
pub(crate) struct Disk {
    root: PathBuf,
    state: tempfile::TempDir,
    library: PathBuf,
}

impl Disk {
    /// Makes a disk below `root`.
    pub(crate) fn new(root: &Path) -> Self {
        let state = tempfile::tempdir().unwrap();
        let library = state.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/crash/shim.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
            .arg(&library)
            .arg(source)
            .arg("-ldl")
            .status();
        assert!(built.unwrap().success());
        Self { root: root.canonicalize().unwrap(), state, library }
    }

    /// Loads the disk below a command.
    pub(crate) fn below(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("SHIM_STATE", self.state.path())
            .env("SHIM_ROOT", &self.root);
    }

    /// Fills the disk, or makes room again.
    pub(crate) fn fill(&self, is_full: bool) {
        let file = self.state.path().join("full");
        if is_full { write(&file, b"") } else { std::fs::remove_file(file).unwrap() }
    }

    /// Sets the clock of processes on it, by seconds from the right time.
    pub(crate) fn set_clock(&self, seconds: i64) {
        let file = self.state.path().join("clock.new");
        write(&file, seconds.to_string().as_bytes());
        std::fs::rename(&file, self.state.path().join("clock")).unwrap();
    }

    /// Makes everything that is there durable, as if it had been there long before.
    pub(crate) fn settle(&self) {
        for folder in ["files", "folders"] {
            let path = self.state.path().join(folder);
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(path).unwrap();
        }
        self.settle_folder(&self.root);
    }

    fn settle_folder(&self, folder: &Path) {
        let mut lines = String::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, key) = (entry.path(), key(&entry.path()));
            let kind = if path.is_dir() { 'd' } else { 'f' };
            lines.push_str(&format!("{kind} {key} {}\n", entry.file_name().to_str().unwrap()));
            if kind == 'd' {
                self.settle_folder(&path);
            } else {
                std::fs::copy(&path, self.state.path().join("files").join(key)).unwrap();
            }
        }
        write(&self.state.path().join("folders").join(key(folder)), lines.as_bytes());
    }

    /// The power went out: the folder is what was durable.
    pub(crate) fn lose_power(&self) {
        let restored = tempfile::tempdir_in(self.root.parent().unwrap()).unwrap();
        self.restore(&key(&self.root), restored.path());
        for entry in std::fs::read_dir(&self.root).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        }
        for entry in std::fs::read_dir(restored.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::rename(entry.path(), self.root.join(entry.file_name())).unwrap();
        }
    }

    fn restore(&self, key: &str, to: &Path) {
        // A folder that was never synced has lost all its names.
        let lines = std::fs::read_to_string(self.state.path().join("folders").join(key)).unwrap_or_default();
        for line in lines.lines() {
            let mut parts = line.splitn(3, ' ');
            let (kind, child, name) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            let path = to.join(name);
            if kind == "d" {
                std::fs::create_dir(&path).unwrap();
                self.restore(child, &path);
            } else {
                // A file whose content was never synced is empty.
                write(&path, &std::fs::read(self.state.path().join("files").join(child)).unwrap_or_default());
            }
        }
    }
}

/// What a file is known by, as in `shim.c`.
fn key(path: &Path) -> String {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    let born =
        metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    format!("{}-{}.{:09}", metadata.ino(), born.as_secs(), born.subsec_nanos())
}

#[test]
fn the_disk_keeps_what_was_synced_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("old"), b"old");
    let disk = Disk::new(folder.path());
    disk.settle();
    let script = "import os
def put(name, text, sync):
    f = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC); os.write(f, text)
    if sync: os.fsync(f)
    os.close(f)
def sync(d): f = os.open(d, os.O_RDONLY); os.fsync(f); os.close(f)
put('both', b'1', True); put('name only', b'2', False); sync('.')
put('content only', b'3', True); put('old', b'new', False)
os.mkdir('d'); put('d/x', b'4', True); sync('d')";
    let mut command = Command::new("python3");
    command.current_dir(folder.path()).args(["-c", script]);
    disk.below(&mut command);
    assert!(command.status().unwrap().success());
    disk.lose_power();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).ok();
    assert_eq!(read("both").as_deref(), Some("1"));
    assert_eq!(read("name only").as_deref(), Some(""));
    assert_eq!(read("content only"), None);
    assert_eq!(read("old").as_deref(), Some("old"));
    assert!(!folder.path().join("d").exists());
}

#[test]
fn a_full_disk_takes_nothing_more_and_the_clock_is_what_it_is_set_to() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    let run = |script: &str| {
        let mut command = Command::new("python3");
        command.current_dir(folder.path()).args(["-c", script]);
        disk.below(&mut command);
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let put = "import errno
try:
    f = open('x', 'wb', buffering=0); print(f.write(b'1' * 1000)); print(f.write(b'1' * 10))
except OSError as error: print(errno.errorcode[error.errno])";
    assert_eq!(run(put), "1000\n10");
    disk.fill(true);
    assert_eq!(run(put), "500\nENOSPC");
    disk.fill(false);
    assert_eq!(run(put), "1000\n10");
    let now = || run("import time; print(int(time.time()))").parse::<i64>().unwrap();
    let before = now();
    disk.set_clock(-86_400);
    assert!((before - 86_401..=before - 86_300).contains(&now()));
}
