//! Files of the log: written so that they are there after a power cut.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use catchment_core::{Code, Error, FaultPoint, Faults, Result};

/// An error of the disk, with what was done.
pub(crate) fn disk_error(what: impl Into<String>, error: std::io::Error) -> Error {
    let code = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::DISK_FULL,
        _ => Code::INPUT_OUTPUT,
    };
    Error::new(code, what).because(error)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| disk_error(format!("could not sync folder \"{}\"", folder.display()), error))
}

/// Writes a file whole: under a temporary name, synced, then renamed.
pub(crate) fn write_file(path: &Path, bytes: &[u8], faults: &dyn Faults) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    });
    written.map_err(|error| disk_error(format!("could not write \"{}\"", path.display()), error))?;
    faults.reach(FaultPoint::LogChanged)?;
    path.parent().map_or(Ok(()), sync_folder)
}
