//! Names for versions of a set of datasets, such as `v1.2`.

use std::collections::BTreeMap;

use catchment_core::{Code, Error, Result, TableName};
use catchment_lake::Lake;
use serde::{Deserialize, Serialize};

use crate::run::{Workspace, select};

/// The versions that datasets had when they were given a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The name.
    pub name: String,
    /// When it was given, in microseconds since the Unix epoch.
    pub created_at: i64,
    /// The version of each dataset's table, by its name.
    pub versions: BTreeMap<String, u64>,
}

impl Release {
    /// The version of a dataset.
    #[must_use]
    pub fn version(&self, dataset: &TableName) -> Option<u64> {
        self.versions.get(&dataset.to_string()).copied()
    }

    /// Reads a release, `None` when there is none of that name.
    ///
    /// # Errors
    /// Returns [`Code::PLAN_CORRUPT`] when its record cannot be read.
    pub async fn read(lake: &Lake, name: &str) -> Result<Option<Self>> {
        if !is_name(name) {
            return Ok(None);
        }
        let Some(bytes) = lake.read_record(&path(lake, name)).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(Code::PLAN_CORRUPT, format!("the record of release \"{name}\" is corrupt"))
                .because(error)
        })
    }
}

fn path(lake: &Lake, name: &str) -> object_store::path::Path {
    lake.layout().releases().join(format!("{name}.json"))
}

/// Names begin with a letter, so that none looks like a version or a time.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.len() <= 100
        && name.chars().all(|sign| sign.is_ascii_alphanumeric() || matches!(sign, '.' | '-' | '_'))
}

impl Workspace {
    /// Gives the versions that datasets have now a name; all datasets when none are named.
    ///
    /// # Errors
    /// Returns [`Code::NAME_INVALID`] for a name that is none, and [`Code::DEFINED_TWICE`] for one that is taken.
    pub async fn release(&self, name: &str, datasets: &[String]) -> Result<Release> {
        if !is_name(name) {
            return Err(Error::new(Code::NAME_INVALID, format!("{name:?} cannot name a release"))
                .hint("use a letter first, then letters, digits, '.', '-' and '_'"));
        }
        let checked = self.check().await;
        Error::join(checked.errors)?;
        let (owner, _heartbeat) = self.own()?;
        let mut versions = BTreeMap::new();
        for dataset in select(checked.datasets, datasets)? {
            if let Some(snapshot) = self.lake.table(&dataset.name).latest().await? {
                versions.insert(dataset.name.to_string(), snapshot.version());
            }
        }
        let release = Release { name: name.to_owned(), created_at: self.clock.now_micros(), versions };
        let bytes = serde_json::to_vec(&release)
            .map_err(|error| Error::new(Code::INTERNAL, "could not write a release").because(error))?;
        if !owner.write_record(&path(&self.lake, name), bytes, true).await? {
            return Err(Error::new(Code::DEFINED_TWICE, format!("there is a release \"{name}\" already")));
        }
        Ok(release)
    }

    /// All releases, the oldest first.
    ///
    /// # Errors
    /// As [`Release::read`].
    pub async fn releases(&self) -> Result<Vec<Release>> {
        let mut all = Vec::new();
        for file in self.lake.list_records(&self.lake.layout().releases()).await? {
            if let Some(name) = file.strip_suffix(".json") {
                all.extend(Release::read(&self.lake, name).await?);
            }
        }
        all.sort_by_key(|release| release.created_at);
        Ok(all)
    }
}
