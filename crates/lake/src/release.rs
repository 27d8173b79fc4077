//! Names for versions of a set of tables, such as `v1.2`.

use std::collections::BTreeMap;

use catchment_core::{Code, Error, Result, TableName};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use crate::failure::storage_error;
use crate::lake::Lake;
use crate::store::DurableStore;

/// The versions that tables had when they were given a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The name.
    pub name: String,
    /// When it was given, in microseconds since the Unix epoch.
    pub created_at: i64,
    /// The version of each table, by its name.
    pub versions: BTreeMap<String, u64>,
}

impl Release {
    /// The version of a table.
    #[must_use]
    pub fn version(&self, table: &TableName) -> Option<u64> {
        self.versions.get(&table.to_string()).copied()
    }

    /// Whether a text can name a release. Names begin with a letter, so that none looks like a version or a time.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.len() <= 100
            && name.chars().all(|sign| sign.is_ascii_alphanumeric() || matches!(sign, '.' | '-' | '_'))
    }
}

impl Lake {
    /// Reads a release, `None` when there is none of that name.
    ///
    /// # Errors
    /// Returns [`Code::PLAN_CORRUPT`] when its record cannot be read.
    pub async fn release(&self, name: &str) -> Result<Option<Release>> {
        if !Release::is_name(name) {
            return Ok(None);
        }
        let path = self.layout().release(name);
        match self.read_record(&path).await? {
            Some(bytes) => parse(&path, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// All releases, the oldest first.
    ///
    /// # Errors
    /// As [`Lake::release`].
    pub async fn releases(&self) -> Result<Vec<Release>> {
        releases(self.store(), &self.layout().releases()).await
    }
}

/// All releases in a folder, the oldest first.
pub(crate) async fn releases(store: &DurableStore, folder: &Path) -> Result<Vec<Release>> {
    let failed = |error| storage_error("could not read releases".to_owned(), error);
    let mut all = Vec::new();
    let mut listed = store.list(Some(folder));
    while let Some(file) = listed.try_next().await.map_err(failed)? {
        let bytes = store.get(&file.location).await.map_err(failed)?.bytes().await.map_err(failed)?;
        all.push(parse(&file.location, &bytes)?);
    }
    all.sort_by_key(|release: &Release| release.created_at);
    Ok(all)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Release> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::new(Code::PLAN_CORRUPT, format!("the record of a release, \"/{path}\", is corrupt"))
            .because(error)
    })
}
