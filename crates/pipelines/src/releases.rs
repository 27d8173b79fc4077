//! Gives versions of datasets a name.

use std::collections::BTreeMap;

use catchment_core::{Code, Error, Result};
use catchment_flows::finish_rollback;
use catchment_lake::Release;

use crate::run::{Workspace, select};

impl Workspace {
    /// Gives the versions that datasets have now a name; all datasets when none are named.
    ///
    /// # Errors
    /// Returns [`Code::NAME_INVALID`] for a name that is none, and [`Code::DEFINED_TWICE`] for one that is taken.
    pub async fn release(&self, name: &str, datasets: &[String]) -> Result<Release> {
        if !Release::is_name(name) {
            return Err(Error::new(Code::NAME_INVALID, format!("{name:?} cannot name a release"))
                .hint("use a letter first, then letters, digits, '.', '-' and '_'"));
        }
        let checked = self.check().await;
        Error::join(checked.errors)?;
        let (owner, _heartbeat) = self.own().await?;
        finish_rollback(&owner, self.store.as_ref()).await?;
        let mut versions = BTreeMap::new();
        for dataset in select(checked.datasets, datasets)? {
            if let Some(snapshot) = self.lake.table(&dataset.name).latest().await? {
                versions.insert(dataset.name.to_string(), snapshot.version());
            }
        }
        let release = Release { name: name.to_owned(), created_at: self.clock.now_micros(), versions };
        let bytes = serde_json::to_vec(&release)
            .map_err(|error| Error::new(Code::INTERNAL, "could not write a release").because(error))?;
        if !owner.write_record(&self.lake.layout().release(name), bytes, true).await? {
            return Err(Error::new(Code::DEFINED_TWICE, format!("there is a release \"{name}\" already")));
        }
        Ok(release)
    }
}
