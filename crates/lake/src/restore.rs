//! Brings back an older version of a table.

use std::collections::HashSet;

use catchment_core::{Code, Error, Result};
use deltalake::kernel::Add;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::failure::storage_error;
use crate::header::{Identity, header};
use crate::log::Draft;
use crate::table::remove_of;
use crate::writer::{Outcome, Publication, TableWriter, parameters, positions};

impl TableWriter {
    /// Brings back the files and columns of an older version, in one commit that carries the positions given:
    /// restoring a table does not by itself move its flows back. It costs a commit and copies nothing.
    ///
    /// The versions in between are no longer on the table's [`crate::Line`].
    ///
    /// # Errors
    /// Returns [`Code::VERSION_UNKNOWN`] when the version or one of its files is gone.
    pub async fn restore(&self, version: u64, publication: Publication) -> Result<Outcome> {
        let (_alone, mut tip) = self.alone().await?;
        if self.is_published(&mut tip, &publication).await? {
            return Ok(Outcome::AlreadyPublished);
        }
        let older = self.table().at(version).await?;
        let newest = self.existing(&tip).await?;
        let now = self.clock.now_millis();
        let (before, after) = (older.files()?, newest.files()?);
        let paths = |files: &[Add]| files.iter().map(|file| file.path.clone()).collect::<HashSet<_>>();
        let (kept, held) = (paths(&before), paths(&after));
        let adds: Vec<Add> = before
            .into_iter()
            .filter(|add| !held.contains(&add.path))
            .map(|add| Add { data_change: true, ..add })
            .collect();
        for add in &adds {
            self.require_file(version, &add.path).await?;
        }
        let removed = after.iter().filter(|add| !kept.contains(&add.path));
        let line = older.line()?.restored_by(newest.version() + 1);
        let draft = Draft {
            operation: "RESTORE".to_owned(),
            parameters: parameters([("version", version.to_string().as_str())]),
            batch: publication.batch.clone(),
            header: header(&older.spec()?, now, Identity::of(&newest)?.on(&line))?,
            removes: removed.map(|add| remove_of(add, true, now)).collect(),
            adds,
            ..Draft::default()
        };
        self.commit(&mut tip, draft, &positions(&publication)).await
    }

    async fn require_file(&self, version: u64, path: &str) -> Result<()> {
        let location = path.split('/').fold(self.root.clone(), Path::join);
        match self.store.head(&location).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => Err(Error::new(
                Code::VERSION_UNKNOWN,
                format!(
                    "version {version} of table \"{}\" lost its file {path:?} to VACUUM",
                    self.table().name()
                ),
            )),
            Err(error) => Err(storage_error(format!("could not look for {path:?}"), error)),
        }
    }
}
