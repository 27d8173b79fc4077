//! Removes data files that nothing needs any more.

use std::collections::HashSet;
use std::time::{Duration, UNIX_EPOCH};

use catchment_core::{Code, Result};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::failure::storage_error;
use crate::writer::TableWriter;

/// What a table must keep.
#[derive(Debug, Clone, Default)]
pub struct Pins {
    /// Versions whose files are kept, whatever their age.
    pub versions: Vec<u64>,
    /// Files that are kept, by their paths below the table's root.
    pub paths: HashSet<String>,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vacuumed {
    /// Files.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

impl TableWriter {
    /// Removes data files that are part of no version of the last `retention`, of no pinned one, and pinned by nobody.
    ///
    /// Files that never became part of a version go, too, once they are that old.
    ///
    /// # Errors
    /// Returns [`catchment_core::Code::LEASE_LOST`] and errors of reading and writing; what is needed is still there.
    pub async fn vacuum(&self, retention: Duration, pins: &Pins, dry_run: bool) -> Result<Vacuumed> {
        let (_alone, tip) = self.alone().await?;
        let Some(newest) = self.snapshot(&tip).await? else { return Ok(Vacuumed::default()) };
        let retained = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let since = self.clock.now_millis().saturating_sub(retained);
        let mut needed = pins.paths.clone();
        needed.extend(newest.files()?.into_iter().map(|file| file.path));
        // What was part of a version at any time since then was removed by an entry since then.
        let mut next = Some(newest.version());
        while let Some(version) = next
            && let Some(entry) = self.table().entry(version).await?
            && entry.timestamp >= since
        {
            needed.extend(entry.removes.into_iter().map(|remove| remove.path));
            next = version.checked_sub(1);
        }
        for version in &pins.versions {
            match self.table().at(*version).await {
                Ok(snapshot) => needed.extend(snapshot.files()?.into_iter().map(|file| file.path)),
                // Nobody can read it any more, so nobody needs its files.
                Err(error) if error.code() == Code::VERSION_UNKNOWN => {
                    tracing::warn!(table = %self.table().name(), version, "a pinned version is gone");
                }
                Err(error) => return Err(error),
            }
        }
        let mut done = Vacuumed::default();
        for file in self.old_files(since).await? {
            if needed.contains(&self.below_root(&file.location)) {
                continue;
            }
            done.files += 1;
            done.bytes += file.size;
            if !dry_run {
                let failed = |error| storage_error(format!("could not remove {:?}", file.location), error);
                self.store.delete(&file.location).await.map_err(failed)?;
            }
        }
        Ok(done)
    }

    /// Data files that were last written before a time, in milliseconds since the Unix epoch.
    async fn old_files(&self, since: i64) -> Result<Vec<ObjectMeta>> {
        let failed = |error| {
            storage_error(format!("could not list the files of table \"{}\"", self.table().name()), error)
        };
        let since = UNIX_EPOCH + Duration::from_millis(u64::try_from(since).unwrap_or(0));
        let mut files = Vec::new();
        let mut listed = self.store.list(Some(&self.root));
        while let Some(file) = listed.try_next().await.map_err(failed)? {
            let is_data = file.location.filename().is_some_and(|name| name.ends_with(".parquet"))
                && !self.below_root(&file.location).starts_with('_');
            if is_data && std::time::SystemTime::from(file.last_modified) <= since {
                files.push(file);
            }
        }
        Ok(files)
    }

    fn below_root(&self, location: &Path) -> String {
        let parts: Vec<String> = location
            .prefix_match(&self.root)
            .map(|parts| parts.map(|part| part.as_ref().to_owned()).collect())
            .unwrap_or_default();
        parts.join("/")
    }
}
