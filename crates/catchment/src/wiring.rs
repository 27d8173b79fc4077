//! Builds what commands need. The only file that reads the environment.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use catchment_core::{Code, Error, Fault, Faults, NoFaults, Result, SystemClock};
use catchment_pipelines::{LoadedConfig, Machine, Workspace, restore_catalog};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use crate::arguments::Arguments;
use crate::traces::Traces;

/// Names a fault for crash tests, as `point:nth:action`.
const FAULT_VARIABLE: &str = "CATCHMENT_FAULT";

/// Chooses what is logged, such as `catchment_flows=debug`.
const LOG_VARIABLE: &str = "CATCHMENT_LOG";

/// Starts logging and the threads that everything runs on.
pub(crate) fn runtime(arguments: &Arguments) -> Result<Runtime> {
    let filter = environment(LOG_VARIABLE).unwrap_or_else(|| {
        "warn,deltalake_core=error,delta_kernel=error,buoyant_kernel=off,krafka=error".to_owned()
    });
    let has_colours = std::io::stderr().is_terminal() && environment("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(has_colours);
    match arguments.json {
        // For machines: an object a line, with its time.
        true => log.json().flatten_event(true).init(),
        false => log.without_time().init(),
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Code::INTERNAL, "could not start threads").because(error))
}

/// Starts traces, when the environment names whoever collects them as OpenTelemetry says.
pub(crate) fn traces() -> Result<Option<Traces>> {
    let wanted = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    if !wanted.iter().any(|name| environment(name).is_some_and(|address| !address.is_empty())) {
        return Ok(None);
    }
    Traces::start(environment("OTEL_SERVICE_NAME").is_none()).map(Some)
}

/// Opens a project.
pub(crate) fn workspace(project: &Path, arguments: &Arguments) -> Result<Workspace> {
    Workspace::open(project, &arguments.set, &machine()?)
}

/// Reads a project's configuration alone.
pub(crate) fn configuration(project: &Path, arguments: &Arguments) -> Result<LoadedConfig> {
    LoadedConfig::load(project, &arguments.set)
}

/// Opens a project after its catalog was brought back from a file.
pub(crate) fn workspace_from_backup(
    project: &Path,
    arguments: &Arguments,
    from: &Path,
    replace: bool,
) -> Result<Workspace> {
    restore_catalog(project, &arguments.set, from, replace, &machine()?)
}

/// What this machine gives to a project.
pub(crate) fn machine() -> Result<Machine> {
    Ok(Machine {
        clock: Arc::new(SystemClock),
        faults: faults()?,
        variables: variables(),
        variable: environment,
    })
}

/// What object stores read from the environment, and the key under which secrets are kept.
fn variables() -> BTreeMap<String, String> {
    const OF_STORES: &[&str] = &["AWS_", "GOOGLE_", "AZURE_", "CATCHMENT_MASTER_KEY"];
    std::env::vars().filter(|(name, _)| OF_STORES.iter().any(|start| name.starts_with(start))).collect()
}

fn faults() -> Result<Arc<dyn Faults>> {
    Ok(match environment(FAULT_VARIABLE) {
        Some(text) => Arc::new(Fault::parse(&text)?),
        None => Arc::new(NoFaults),
    })
}

/// A variable of the environment.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
