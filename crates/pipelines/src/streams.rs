//! The streams of a project, and the keys of the programs that use them.

use std::sync::Arc;

use catchment_catalog::{AccessKey, MasterKey};
use catchment_core::Result;
use catchment_log::{Log, LogOptions};

use crate::config::LoadedConfig;
use crate::place::Machine;
use crate::run::Workspace;

/// The variable that holds the master key, where it does not lie in the data folder.
const MASTER_VARIABLE: &str = "CATCHMENT_MASTER_KEY";

/// The folder of the streams in the data folder.
const FOLDER: &str = "streams";

/// Opens the project's streams. One process has them at a time.
///
/// # Errors
/// Returns [`catchment_core::Code::STREAM_OWNED`] when another process has them, and errors of the disk.
pub fn open_log(config: &LoadedConfig, machine: &Machine) -> Result<Log> {
    let options =
        LogOptions { retention_bytes: config.config.streams.retention_bytes()?, ..LogOptions::default() };
    let (clock, faults) = (Arc::clone(&machine.clock), Arc::clone(&machine.faults));
    Log::open(&config.data().join(FOLDER), options, clock, faults)
}

impl Workspace {
    /// The key under which the secrets of this project's access keys are sealed.
    ///
    /// # Errors
    /// Returns errors of the configuration and of the disk.
    pub fn master_key(&self, machine: &Machine) -> Result<MasterKey> {
        match machine.variables.get(MASTER_VARIABLE) {
            Some(text) => MasterKey::parse(text),
            None => MasterKey::in_file(&self.project.config.data().join("master.key")),
        }
    }

    /// Makes an access key; the second is its secret.
    ///
    /// # Errors
    /// As [`Workspace::master_key`], and errors of the catalog.
    pub fn create_key(&self, note: &str, machine: &Machine) -> Result<(AccessKey, String)> {
        let made = self.master_key(machine)?.make(note, self.clock.now_micros())?;
        self.store.put_key(&made.0)?;
        Ok(made)
    }
}
