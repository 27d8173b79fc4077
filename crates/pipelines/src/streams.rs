//! The streams of a project, and the keys of the programs that use them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use catchment_catalog::{AccessKey, MasterKey};
use catchment_core::{Clock, Code, Faults, Result};
use catchment_ingest::streams::{Connections, OpenLog};
use catchment_log::{Log, LogOptions, StreamName};

use crate::config::LoadedConfig;
use crate::place::Machine;
use crate::run::Workspace;

/// The variable that holds the master key, where it does not lie in the data folder.
const MASTER_VARIABLE: &str = "CATCHMENT_MASTER_KEY";

/// The folder of the streams in the data folder.
const FOLDER: &str = "streams";

/// The streams of a project, opened when they are needed.
pub struct Streams {
    config: LoadedConfig,
    clock: Arc<dyn Clock>,
    faults: Arc<dyn Faults>,
    variables: BTreeMap<String, String>,
    log: Mutex<Option<Arc<Log>>>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("folder", &self.config.data().join(FOLDER)).finish_non_exhaustive()
    }
}

impl Streams {
    pub(crate) fn new(config: &LoadedConfig, machine: &Machine) -> Self {
        let (clock, faults) = (Arc::clone(&machine.clock), Arc::clone(&machine.faults));
        let variables = machine.variables.clone();
        Self { config: config.clone(), clock, faults, variables, log: Mutex::default() }
    }
}

impl OpenLog for Streams {
    fn log(&self) -> Result<Arc<Log>> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = &*log {
            return Ok(Arc::clone(log));
        }
        let (clock, faults) = (Arc::clone(&self.clock), Arc::clone(&self.faults));
        let opened = Arc::new(open(&self.config, clock, faults)?);
        *log = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

impl Connections for Streams {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn now_millis(&self) -> i64 {
        self.clock.now_micros() / 1_000
    }
}

/// Opens the project's streams. One process has them at a time.
///
/// # Errors
/// Returns [`catchment_core::Code::STREAM_OWNED`] when another process has them, and errors of the disk.
pub fn open_log(config: &LoadedConfig, machine: &Machine) -> Result<Log> {
    open(config, Arc::clone(&machine.clock), Arc::clone(&machine.faults))
}

fn open(config: &LoadedConfig, clock: Arc<dyn Clock>, faults: Arc<dyn Faults>) -> Result<Log> {
    let retention_bytes = config.config.streams.retention_bytes()?;
    Log::open(
        &config.data().join(FOLDER),
        LogOptions { retention_bytes, ..LogOptions::default() },
        clock,
        faults,
    )
}

impl Workspace {
    /// Makes the streams that the project declares and that are not there yet.
    ///
    /// # Errors
    /// As [`open_log`], and of a name that no stream can have.
    pub fn declare_streams(&self) -> Result<()> {
        for stream in self.project.streams.values().filter_map(|stream| stream.body.own.as_ref()) {
            let (log, name) = (self.streams.log()?, StreamName::new(&stream.name)?);
            let made = log.create(&name, stream.shards, |state| {
                state.retention_hours = stream.retention_hours.unwrap_or(state.retention_hours);
            });
            match made {
                Err(error) if error.code() != Code::STREAM_EXISTS => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

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
