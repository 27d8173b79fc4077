//! What is told of a stream in `stream.json`: its shards and its settings.

use std::collections::BTreeMap;
use std::fmt;

use catchment_core::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use crate::shards::{Shard, ShardId, first_shards};

/// The name of a stream: 1 to 128 letters, digits, `_`, `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName(String);

impl StreamName {
    /// Makes a name.
    ///
    /// # Errors
    /// Returns [`Code::NAME_INVALID`] when it is not one.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if (1..=128).contains(&name.len()) && name.bytes().all(is_known) {
            return Ok(Self(name));
        }
        Err(Error::new(Code::NAME_INVALID, format!("{name:?} is no name of a stream"))
            .hint("1 to 128 letters, digits, '_', '.' and '-'"))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for StreamName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl From<StreamName> for String {
    fn from(name: StreamName) -> Self {
        name.0
    }
}

/// Who decides the number of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    /// Whoever owns the stream.
    Provisioned,
    /// The service. Here, the stream keeps the shards it has: one machine serves them all.
    OnDemand,
}

/// A reader of a stream with a name, as SubscribeToShard wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Its name, one of its kind in the stream.
    pub name: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// What people say of it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// A stream's shards and settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// Its name.
    pub name: StreamName,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Who decides the number of shards.
    pub mode: Mode,
    /// All shards whose records may still be there, by number.
    pub shards: Vec<Shard>,
    /// The number of the next shard.
    pub next_shard: u32,
    /// How long records are kept, in hours.
    pub retention_hours: u32,
    /// What people say of it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Who may use it from other accounts, as a document that is kept and not looked into.
    #[serde(default)]
    pub policies: BTreeMap<String, String>,
    /// The measures that are asked for by shard.
    #[serde(default)]
    pub shard_metrics: Vec<String>,
    /// The key that it is said to be encrypted with. Nothing is: disks are encrypted below.
    #[serde(default)]
    pub encryption_key: Option<String>,
    /// Readers with a name.
    #[serde(default)]
    pub consumers: Vec<Consumer>,
    /// The largest record, in bytes.
    pub record_bytes: usize,
}

impl StreamState {
    /// What a new stream is.
    #[must_use]
    pub fn new(name: StreamName, shards: u32, now_millis: i64) -> Self {
        Self {
            name,
            created_at: now_millis,
            mode: Mode::Provisioned,
            shards: first_shards(shards, now_millis),
            next_shard: shards,
            retention_hours: 24,
            tags: BTreeMap::new(),
            policies: BTreeMap::new(),
            shard_metrics: Vec::new(),
            encryption_key: None,
            consumers: Vec::new(),
            record_bytes: 1 << 20,
        }
    }

    /// A shard by its number.
    ///
    /// # Errors
    /// Returns [`Code::SHARD_UNKNOWN`] when there is none.
    pub fn shard(&self, id: ShardId) -> Result<&Shard> {
        self.shards.iter().find(|shard| shard.id == id).ok_or_else(|| {
            Error::new(Code::SHARD_UNKNOWN, format!("no shard {id} in stream \"{}\"", self.name))
        })
    }

    /// The shards that take records.
    pub fn open(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter(|shard| shard.is_open())
    }

    /// The shard that takes a hash. Open shards cover all hashes.
    #[must_use]
    pub fn route(&self, hash: u128) -> Option<ShardId> {
        self.open().find(|shard| shard.range.contains(hash)).map(|shard| shard.id)
    }

    /// The shards that came of one.
    pub fn children(&self, id: ShardId) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter(move |shard| shard.parents.contains(&id))
    }
}
