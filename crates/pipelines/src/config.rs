//! `catchment.toml`: one typed tree, whose unknown keys are errors with their line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use catchment_core::{Code, Error, Place, Result, parse_bytes};
use catchment_notify::TargetConfig;
use serde::{Deserialize, Serialize};

use crate::place::is_secret;

/// The name of the file.
pub const CONFIG_FILE: &str = "catchment.toml";

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What the project is called and how its names are read.
    pub project: ProjectConfig,
    /// Where things are kept.
    pub storage: StorageConfig,
    /// What queries may use.
    pub engine: EngineConfig,
    /// When tables are kept quick to read.
    pub maintenance: MaintenanceConfig,
    /// What holds for the time of events.
    pub event_time: EventTimeConfig,
    /// What listens.
    pub server: ServerConfig,
    /// How streams are kept.
    pub streams: StreamsConfig,
    /// When alerts are given up.
    pub alerts: AlertsConfig,
    /// Who is told of alerts, by name.
    pub notify: BTreeMap<String, TargetConfig>,
    /// Values for `${name}` in SQL files.
    pub parameters: BTreeMap<String, String>,
}

/// `[project]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectConfig {
    /// What people call it.
    pub name: String,
    /// The schema of names without one.
    pub schema: String,
}

impl Default for ProjectConfig {
    fn default() -> Self {
        Self { name: String::new(), schema: "main".to_owned() }
    }
}

/// `[storage]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// The lake's folder, relative to the project, or its URL in an object store, such as `s3://bucket/lake`.
    pub lake: String,
    /// Options of the object store, such as `endpoint` and `region`. Secrets are not among them: they come from
    /// the environment.
    pub options: BTreeMap<String, String>,
    /// The folder of what is local: the catalog database, spilled data. Relative to the project.
    pub data: String,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { lake: "lake".to_owned(), options: BTreeMap::new(), data: ".catchment".to_owned() }
    }
}

/// `[engine]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Memory that queries may hold before they spill, such as `2GB`.
    pub memory: String,
    /// Memory for states of the groups of serving tables, such as `1GB`; others are read from disk.
    pub state_memory: String,
    /// Partitions that run at the same time; 0 means one per processor.
    pub threads: usize,
    /// Attempts after the first for errors that may pass.
    pub retries: u32,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { memory: "2GB".to_owned(), state_memory: "1GB".to_owned(), threads: 0, retries: 4 }
    }
}

/// `[event_time]`: what holds for streams that say nothing else.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventTimeConfig {
    /// How late an event may come, in seconds.
    pub delay_seconds: u32,
    /// After how many seconds without an event a partition of a stream holds no window open.
    pub idle_seconds: u32,
    /// How many seconds an event may be ahead of the clock; one further ahead goes to quarantine.
    pub ahead_seconds: u32,
}

impl Default for EventTimeConfig {
    fn default() -> Self {
        Self { delay_seconds: 10, idle_seconds: 60, ahead_seconds: 24 * 60 * 60 }
    }
}

impl EventTimeConfig {
    pub(crate) fn delay_micros(&self) -> i64 {
        i64::from(self.delay_seconds) * 1_000_000
    }

    pub(crate) fn idle_micros(&self) -> i64 {
        i64::from(self.idle_seconds) * 1_000_000
    }

    pub(crate) fn ahead_micros(&self) -> i64 {
        i64::from(self.ahead_seconds) * 1_000_000
    }
}

/// `[alerts]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    /// After how many hours a notification is given up that its target does not take.
    pub give_up_hours: u32,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self { give_up_hours: 24 }
    }
}

/// `[maintenance]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaintenanceConfig {
    /// Versions of a table after which a checkpoint is written.
    pub checkpoint_after: u64,
    /// Small files in one partition from which they are joined.
    pub minimum_files: usize,
    /// The size of a data file that is large enough, such as `128MB`.
    pub target_file_size: String,
    /// Published plans of a flow that are kept as they are; older ones become file bookmarks.
    pub kept_plans: usize,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self {
            checkpoint_after: 100,
            minimum_files: 16,
            target_file_size: "128MB".to_owned(),
            kept_plans: 64,
        }
    }
}

/// `[server]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// The address and port that `catchment serve` listens on.
    pub listen: String,
    /// Requests need no signature; only when it listens on this machine's own address.
    pub open_on_loopback: bool,
    /// `POST /moto-api/reset` deletes every stream, for tests; only together with `open_on_loopback`.
    pub allow_reset: bool,
    /// Shards take and give no more in a second than those of AWS: 1,000 records and 1 MiB in, 5 requests and 2 MiB out.
    pub aws_limits: bool,
    /// The account in names of AWS resources, twelve digits.
    pub account: String,
    /// The region in names of AWS resources; that which a request is signed for when it is empty.
    pub region: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:4566".to_owned(),
            open_on_loopback: false,
            allow_reset: false,
            aws_limits: false,
            account: "000000000000".to_owned(),
            region: String::new(),
        }
    }
}

impl ServerConfig {
    /// The address, which must be this machine's own when requests need no signature.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`].
    pub fn address(&self) -> Result<SocketAddr> {
        let wrong = |what: String| Error::new(Code::CONFIG_INVALID, what);
        let address: SocketAddr = self.listen.parse().map_err(|_| {
            wrong(format!("server.listen is {:?}, not such as \"127.0.0.1:4566\"", self.listen))
        })?;
        if self.open_on_loopback && !address.ip().is_loopback() {
            return Err(wrong(format!("server.open_on_loopback is set, and server.listen is {address}"))
                .hint("whoever reaches that address could read and write everything: listen on 127.0.0.1, or make keys with `catchment key create`"));
        }
        if self.allow_reset && !self.open_on_loopback {
            return Err(wrong("server.allow_reset is set without server.open_on_loopback".to_owned())
                .hint("it lets everyone delete every stream; it is for tests"));
        }
        if self.account.len() != 12 || !self.account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong(format!("server.account is {:?}, not twelve digits", self.account)));
        }
        Ok(address)
    }
}

/// `[streams]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamsConfig {
    /// The most that a stream keeps, whatever its age, such as `100GB`; empty for as much as its retention says.
    pub retention_size: String,
    /// How long `catchment serve` gathers records before it commits them, in milliseconds.
    pub buffer_milliseconds: u64,
    /// Files of JSON Schemas that records of `POST /v1/streams/{name}` are held to, by the name of the stream.
    pub json_schemas: BTreeMap<String, String>,
}

impl Default for StreamsConfig {
    fn default() -> Self {
        Self { retention_size: String::new(), buffer_milliseconds: 5_000, json_schemas: BTreeMap::new() }
    }
}

impl StreamsConfig {
    /// The most that a stream keeps, in bytes.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] when it is no size.
    pub fn retention_bytes(&self) -> Result<Option<u64>> {
        let text = &self.retention_size;
        if text.is_empty() {
            return Ok(None);
        }
        parse_bytes(text).map(Some).ok_or_else(|| {
            Error::new(
                Code::CONFIG_INVALID,
                format!("streams.retention_size is {text:?}, not a size such as \"100GB\""),
            )
        })
    }
}

impl MaintenanceConfig {
    /// The size of a file that is large enough, in bytes.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] when it is no size.
    pub fn target_bytes(&self) -> Result<usize> {
        let text = &self.target_file_size;
        parse_bytes(text).and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0).ok_or_else(
            || {
                Error::new(
                    Code::CONFIG_INVALID,
                    format!("maintenance.target_file_size is {text:?}, not a size such as \"128MB\""),
                )
            },
        )
    }
}

fn size(key: &str, text: &str) -> Result<u64> {
    parse_bytes(text).ok_or_else(|| no_size(key, text))
}

fn no_size(key: &str, text: &str) -> Error {
    Error::new(Code::CONFIG_INVALID, format!("{key} is {text:?}, not a size such as \"2GB\""))
}

impl EngineConfig {
    /// The memory of queries in bytes.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] when it is no size.
    pub fn memory_bytes(&self) -> Result<usize> {
        let bytes = size("engine.memory", &self.memory)?;
        usize::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| no_size("engine.memory", &self.memory))
    }

    /// The memory of states in bytes.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] when it is no size.
    pub fn state_bytes(&self) -> Result<u64> {
        size("engine.state_memory", &self.state_memory)
    }

    /// The partitions that run at the same time.
    #[must_use]
    pub fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        }
    }
}

/// A configuration and where each of its values comes from.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The project's folder, absolute.
    pub folder: PathBuf,
    /// The values.
    pub config: Config,
    /// Keys that a flag has set, such as `engine.memory`.
    pub set: Vec<String>,
    /// The file as it stands there.
    text: String,
}

impl LoadedConfig {
    /// Reads `catchment.toml` in `folder`; `settings` are `key=value` pairs that win over it.
    ///
    /// # Errors
    /// Returns [`Code::PROJECT_MISSING`] or [`Code::CONFIG_INVALID`] with line and key.
    pub fn load(folder: &Path, settings: &[String]) -> Result<Self> {
        let path = folder.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let hint = format!("name a folder that holds {CONFIG_FILE}");
            Error::new(Code::PROJECT_MISSING, format!("could not read {path:?}")).because(error).hint(hint)
        })?;
        let folder = folder.canonicalize().map_err(|error| {
            Error::new(Code::PROJECT_MISSING, format!("could not find folder {folder:?}")).because(error)
        })?;
        let mut table: toml::Table =
            toml::from_str(&text).map_err(|error| invalid(CONFIG_FILE, &text, &error))?;
        // Read once as it stands, so that errors point into the file and not into a flag.
        toml::from_str::<Config>(&text).map_err(|error| invalid(CONFIG_FILE, &text, &error))?;
        let mut set = Vec::new();
        for setting in settings {
            set.push(apply(&mut table, setting)?);
        }
        let config: Config = table.try_into().map_err(|error: toml::de::Error| {
            Error::new(Code::CONFIG_INVALID, format!("--set: {}", error.message()))
        })?;
        config.engine.memory_bytes()?;
        config.engine.state_bytes()?;
        config.maintenance.target_bytes()?;
        config.server.address()?;
        config.streams.retention_bytes()?;
        Ok(Self { folder, config, set, text })
    }

    /// The data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join(&self.config.storage.data)
    }

    /// The folder of the data folder for what is needed only while something runs.
    pub(crate) fn spill_folder(&self) -> PathBuf {
        self.data().join("spill")
    }

    /// The socket through which a service that has the streams open takes commands.
    #[must_use]
    pub fn commands(&self) -> PathBuf {
        self.data().join("commands.socket")
    }

    /// Every value with its key and where it comes from: the file, a flag or the default.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when the values cannot be listed.
    pub fn values(&self) -> Result<Vec<(String, String, &'static str)>> {
        let failed =
            |error: String| Error::new(Code::INTERNAL, "could not list the configuration").because(error);
        let all = toml::Table::try_from(&self.config).map_err(|error| failed(error.to_string()))?;
        let file: toml::Table = toml::from_str(&self.text).map_err(|error| failed(error.to_string()))?;
        let mut values = Vec::new();
        for (section, entries) in all {
            for (key, value) in entries.as_table().into_iter().flatten() {
                let path = format!("{section}.{key}");
                let in_file = file.get(&section).and_then(|section| section.get(key)).is_some();
                let origin = match (self.set.contains(&path), in_file) {
                    (true, _) => "--set",
                    (false, true) => CONFIG_FILE,
                    (false, false) => "default",
                };
                let Some(options) = value.as_table() else {
                    values.push((path, value.to_string(), origin));
                    continue;
                };
                for (name, value) in options {
                    // The address of a webhook may be all that there is to know.
                    let is_secret = is_secret(name) || section == "notify" && name == "webhook";
                    let shown = if is_secret { "(secret)".to_owned() } else { value.to_string() };
                    values.push((format!("{path}.{name}"), shown, origin));
                }
            }
        }
        Ok(values)
    }
}

/// Puts `section.key=value` into the table; values that are no TOML are text.
fn apply(table: &mut toml::Table, setting: &str) -> Result<String> {
    let wrong = || Error::new(Code::CONFIG_INVALID, format!("--set {setting:?} is not section.key=value"));
    let (path, value) = setting.split_once('=').ok_or_else(wrong)?;
    let (section, key) = path.split_once('.').ok_or_else(wrong)?;
    if section == "notify" {
        return Err(Error::new(Code::CONFIG_INVALID, "targets of notifications cannot be set by --set")
            .hint("name them in catchment.toml, and their secrets as ${env:NAME}"));
    }
    // Parameters are text, whatever they look like.
    let parsed = if section == "parameters" {
        None
    } else {
        toml::from_str::<toml::Table>(&format!("v = {value}")).ok()
    };
    let value = parsed.and_then(|mut table| table.remove("v")).unwrap_or_else(|| value.into());
    let entries = table.entry(section).or_insert_with(|| toml::Table::new().into());
    entries.as_table_mut().ok_or_else(wrong)?.insert(key.to_owned(), value);
    Ok(path.to_owned())
}

/// An error of a file of TOML, with its place.
pub(crate) fn invalid(file: &str, text: &str, error: &toml::de::Error) -> Error {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or_default();
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
    let length = error.span().map_or(1, |span| span.len().max(1));
    let place = Place {
        file: file.to_owned(),
        line: line as u64 + 1,
        column: column as u64 + 1,
        length: length as u64,
        text: text.lines().nth(line).unwrap_or_default().to_owned(),
    };
    let message = error.message().lines().next().unwrap_or_default().to_owned();
    Error::new(Code::CONFIG_INVALID, message).at(place)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use catchment_core::Code;

    use super::LoadedConfig;

    fn load(text: &str, settings: &[&str]) -> catchment_core::Result<LoadedConfig> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::File::create(folder.path().join("catchment.toml"))
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        LoadedConfig::load(folder.path(), &settings)
    }

    #[test]
    fn an_unknown_key_has_its_line() {
        let error = load("[project]\nname = \"x\"\n\n[storage]\nlak = \"y\"\n", &[]).unwrap_err();
        let place = error.place().unwrap();
        assert_eq!((error.code(), place.line, place.column), (Code::CONFIG_INVALID, 5, 1));
        assert!(error.message().contains("lak"), "{}", error.message());
    }

    #[test]
    fn a_flag_wins_over_the_file_and_every_value_has_an_origin() {
        let loaded =
            load("[engine]\nmemory = \"1GB\"\n", &["engine.threads=3", "parameters.day=01"]).unwrap();
        assert_eq!(loaded.config.engine.threads, 3);
        assert_eq!(loaded.config.parameters["day"], "01");
        let origin =
            |key: &str| loaded.values().unwrap().into_iter().find(|(path, _, _)| path == key).unwrap().2;
        assert_eq!(
            [origin("engine.memory"), origin("engine.threads"), origin("storage.lake")],
            ["catchment.toml", "--set", "default"]
        );
    }

    #[test]
    fn a_folder_without_a_project_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(LoadedConfig::load(folder.path(), &[]).unwrap_err().code(), Code::PROJECT_MISSING);
        assert_eq!(load("[engine]\nmemory = \"lots\"\n", &[]).unwrap_err().code(), Code::CONFIG_INVALID);
    }
}
