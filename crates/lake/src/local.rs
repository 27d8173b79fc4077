//! Data files on this machine's disk, for readers that need files.

use std::io::Write;
use std::path::{Path as FilePath, PathBuf};

use catchment_core::{Code, Error, Result};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore};
use tokio::runtime::Handle;

use crate::failure::storage_error;
use crate::store::DurableStore;

/// A file on this machine's disk. A copy is removed when it is dropped.
#[derive(Debug)]
pub struct LocalFile {
    path: PathBuf,
    /// Holds the copy.
    _copy: Option<tempfile::TempPath>,
}

impl LocalFile {
    /// A file that lies here.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, _copy: None }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &FilePath {
        &self.path
    }

    /// Copies an object of a lake into a folder.
    pub(crate) fn copy(store: &DurableStore, location: &Path, scratch: &FilePath) -> Result<Self> {
        let handle = Handle::try_current()
            .map_err(|error| Error::new(Code::INTERNAL, "files are copied where tasks run").because(error))?;
        let copying = Self::fetch(store, location, GetOptions::default(), scratch);
        tokio::task::block_in_place(|| handle.block_on(copying))
            .map_err(|error| storage_error(format!("could not read \"{location}\""), error))
    }

    /// Copies an object into a folder, piece by piece.
    ///
    /// # Errors
    /// Returns errors of the store; one of this machine's disk is a generic one.
    pub async fn fetch(
        store: &dyn ObjectStore,
        location: &Path,
        options: GetOptions,
        scratch: &FilePath,
    ) -> std::result::Result<Self, object_store::Error> {
        let local =
            |source: std::io::Error| object_store::Error::Generic { store: "disk", source: source.into() };
        let mut file = tempfile::NamedTempFile::new_in(scratch).map_err(local)?;
        let mut parts = store.get_opts(location, options).await?.into_stream();
        while let Some(part) = parts.try_next().await? {
            file.write_all(&part).map_err(local)?;
        }
        file.flush().map_err(local)?;
        let copy = file.into_temp_path();
        Ok(Self { path: copy.to_path_buf(), _copy: Some(copy) })
    }
}
