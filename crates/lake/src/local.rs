//! Data files on this machine's disk, for readers that need files.

use std::io::Write;
use std::path::{Path as FilePath, PathBuf};

use catchment_core::{Code, Error, Result};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
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

    /// Copies an object into a folder, piece by piece.
    pub(crate) fn copy(store: &DurableStore, location: &Path, scratch: &FilePath) -> Result<Self> {
        let handle = Handle::try_current()
            .map_err(|error| Error::new(Code::INTERNAL, "files are copied where tasks run").because(error))?;
        let copying = async {
            let failed = |error| storage_error(format!("could not read \"{location}\""), error);
            let local = |error| storage_error("could not copy a file to this machine's disk", error);
            let mut file = tempfile::NamedTempFile::new_in(scratch).map_err(local)?;
            let mut parts = store.get(location).await.map_err(failed)?.into_stream();
            while let Some(part) = parts.try_next().await.map_err(failed)? {
                file.write_all(&part).map_err(local)?;
            }
            file.flush().map_err(local)?;
            let copy = file.into_temp_path();
            Ok(Self { path: copy.to_path_buf(), _copy: Some(copy) })
        };
        tokio::task::block_in_place(|| handle.block_on(copying))
    }
}
