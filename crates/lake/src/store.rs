//! The object store below everything we keep: local files whose writes survive a power cut.
//!
//! `object_store`'s local backend renames files into place but never syncs them, so a crash of the
//! machine may lose a commit that was already acknowledged, or leave its name on an empty file.
//! This wrapper writes to a temporary name, syncs, links or renames, and syncs the folder.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use catchment_core::{FaultPoint, Faults};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    UploadPart,
};

/// A local object store, rooted at `/`, that returns from a write only when the write is durable.
#[derive(Debug, Clone)]
pub struct DurableStore {
    inner: Arc<LocalFileSystem>,
    folders: Arc<Folders>,
    faults: Arc<dyn Faults>,
}

/// The folders below `root` whose own entry in their parent is known to be durable.
#[derive(Debug)]
struct Folders {
    root: PathBuf,
    durable: Mutex<HashSet<PathBuf>>,
}

impl DurableStore {
    /// Makes a store for everything below the folder `root`.
    #[must_use]
    pub fn new(root: PathBuf, faults: Arc<dyn Faults>) -> Self {
        Self {
            inner: Arc::new(LocalFileSystem::new()),
            folders: Arc::new(Folders { root, durable: Mutex::default() }),
            faults,
        }
    }

    /// Writes a file at a path of the machine, durably and atomically.
    ///
    /// # Errors
    /// Returns `AlreadyExists` when `create_only` and the file is there, and the machine's errors.
    pub(crate) fn write(&self, path: &FilePath, parts: &[bytes::Bytes], create_only: bool) -> Result<()> {
        let failed = |source: std::io::Error| io_error(path, source);
        let folder = path.parent().unwrap_or(FilePath::new("/"));
        std::fs::create_dir_all(folder).map_err(failed)?;
        let temporary = temporary_name(path);
        let written = (|| {
            let mut file = File::options().write(true).create_new(true).open(&temporary)?;
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()?;
            if create_only { std::fs::hard_link(&temporary, path) } else { std::fs::rename(&temporary, path) }
        })();
        if create_only || written.is_err() {
            // A leftover under a temporary name is invisible to listings; removing it is only tidiness.
            let _ = std::fs::remove_file(&temporary);
        }
        match written {
            Err(source) if source.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists { path: path.display().to_string(), source: source.into() });
            }
            other => other.map_err(failed)?,
        }
        self.faults.reach(FaultPoint::FileRenamed).map_err(generic)?;
        self.folders.sync(folder).map_err(failed)
    }

    fn file_path(&self, location: &Path) -> Result<PathBuf> {
        self.inner.path_to_filesystem(location)
    }

    fn sync_file(&self, location: &Path) -> Result<()> {
        let path = self.file_path(location)?;
        let failed = |source: std::io::Error| io_error(&path, source);
        File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
        self.faults.reach(FaultPoint::FileRenamed).map_err(generic)?;
        self.folders.sync(path.parent().unwrap_or(FilePath::new("/"))).map_err(failed)
    }
}

impl Folders {
    /// Makes the entries of `folder` durable, and the folder's own way up to the root.
    fn sync(&self, folder: &FilePath) -> std::io::Result<()> {
        File::open(folder)?.sync_all()?;
        let known = |path: &FilePath| self.durable.lock().is_ok_and(|durable| durable.contains(path));
        let mut below = folder;
        while !known(below) && below.starts_with(&self.root) {
            let Some(parent) = below.parent() else { break };
            match File::open(parent).and_then(|file| file.sync_all()) {
                // The folder above the lake may belong to somebody else; what we made is below it.
                Err(error) if error.kind() == ErrorKind::PermissionDenied && below == self.root => {}
                other => other?,
            }
            if let Ok(mut durable) = self.durable.lock() {
                durable.insert(below.to_path_buf());
            }
            below = parent;
        }
        Ok(())
    }
}

/// A name beside `path` that listings of the local backend leave out: they skip `#` and digits.
fn temporary_name(path: &FilePath) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}", uuid::Uuid::new_v4().as_u128()));
    PathBuf::from(name)
}

fn io_error(path: &FilePath, source: std::io::Error) -> Error {
    let path = path.display().to_string();
    match source.kind() {
        ErrorKind::NotFound => Error::NotFound { path, source: source.into() },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: source.into() },
        _ => generic(source),
    }
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "DurableStore", source: source.into() }
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|source| Error::JoinError { source })?
}

impl std::fmt::Display for DurableStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DurableStore({})", self.folders.root.display())
    }
}

#[async_trait]
impl ObjectStore for DurableStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create_only = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "put_opts with PutMode::Update".to_owned(),
                    implementer: self.to_string(),
                });
            }
        };
        let path = self.file_path(location)?;
        let store = self.clone();
        blocking(move || {
            let parts: Vec<bytes::Bytes> = payload.into_iter().collect();
            store.write(&path, &parts, create_only)?;
            Ok(PutResult { e_tag: None, version: None })
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(DurableUpload { upload, store: self.clone(), location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        without_gaps(&self.inner, prefix, self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        without_gaps(&self.inner, prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        let (store, to) = (self.clone(), to.clone());
        blocking(move || store.sync_file(&to)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        let (store, to) = (self.clone(), to.clone());
        blocking(move || store.sync_file(&to)).await
    }
}

/// Completes the listing of a Delta log.
///
/// A folder is read piece by piece, so a file made meanwhile may be left out and one made after it
/// shown. Readers of a log take such a gap for a corrupt log. Entries are made in order: one before an
/// entry that is shown is there.
fn without_gaps(
    store: &Arc<LocalFileSystem>,
    prefix: Option<&Path>,
    listed: BoxStream<'static, Result<ObjectMeta>>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let Some(folder) = prefix.filter(|prefix| prefix.filename() == Some("_delta_log")) else { return listed };
    let (store, folder) = (Arc::clone(store), folder.clone());
    let complete = async move {
        let mut found: Vec<ObjectMeta> = listed.try_collect().await?;
        let mut versions: Vec<u64> = found.iter().filter_map(|file| version_of(&file.location)).collect();
        versions.sort_unstable();
        for pair in versions.windows(2) {
            for missing in pair[0] + 1..pair[1] {
                // One that was cleaned up is not there, and the gap is the log's own.
                if let Ok(file) = store.head(&folder.clone().join(format!("{missing:020}.json"))).await {
                    found.push(file);
                }
            }
        }
        Ok::<_, Error>(futures::stream::iter(found.into_iter().map(Ok)))
    };
    futures::stream::once(complete).try_flatten().boxed()
}

/// The version of a log entry, by its name.
fn version_of(location: &Path) -> Option<u64> {
    let stem = location.filename()?.strip_suffix(".json")?;
    (stem.len() == 20).then(|| stem.parse().ok()).flatten()
}

/// An upload whose completion syncs the file and its folder.
#[derive(Debug)]
struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    store: DurableStore,
    location: Path,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        let (store, location) = (self.store.clone(), self.location.clone());
        blocking(move || store.sync_file(&location)).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
