//! The object store below everything we keep: a bucket, or local files whose writes survive a power cut.
//!
//! A bucket's writes are durable when they are acknowledged. `object_store`'s local backend renames files into place but never syncs them, so a crash of the
//! machine may lose a commit that was already acknowledged, or leave its name on an empty file.
//! This wrapper writes to a temporary name, syncs, links or renames, and syncs the folder.

use std::collections::{BTreeMap, HashSet};
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
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result, UploadPart, parse_url_opts,
};
use url::Url;

use crate::cached::{Cache, Known};

/// Answers of a bucket up to this size are read whole, and again when the way breaks off, in bytes.
const WHOLE_BYTES: u64 = 16 << 20;

/// Attempts at such an answer.
const ATTEMPTS: u32 = 5;

/// How long a bucket is waited for, unless options say otherwise. A request is tried again for three minutes.
const WAITS: &[(&str, &str)] = &[("connect_timeout", "5s"), ("timeout", "60s")];

/// Opens the bucket of a URL by variables of the environment, such as `AWS_REGION`, and by options, which go before them;
/// the second is the path within it.
///
/// # Errors
/// Returns errors of a URL that is of no store, and of options that are none of its.
pub fn open_bucket(
    url: &Url,
    variables: &BTreeMap<String, String>,
    options: BTreeMap<String, String>,
) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let waits = WAITS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let variables = variables.iter().map(|(name, value)| (name.to_lowercase(), value.clone()));
    let all: BTreeMap<_, _> = waits.chain(variables).chain(options).collect();
    parse_url_opts(url, all).map(|(store, path)| (Arc::from(store), path))
}

/// A store that returns from a write only when the write is durable. A local one is rooted at `/`, another one at its
/// bucket.
#[derive(Debug, Clone)]
pub struct DurableStore {
    inner: Arc<dyn ObjectStore>,
    local: Option<Local>,
    /// Objects of a bucket that need not be read again.
    cache: Arc<Cache>,
    faults: Arc<dyn Faults>,
}

/// What a store of files needs besides.
#[derive(Debug, Clone)]
struct Local {
    files: Arc<LocalFileSystem>,
    folders: Arc<Folders>,
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
        let files = Arc::new(LocalFileSystem::new());
        let folders = Arc::new(Folders { root, durable: Mutex::default() });
        Self {
            inner: Arc::clone(&files) as Arc<dyn ObjectStore>,
            local: Some(Local { files, folders }),
            cache: Arc::default(),
            faults,
        }
    }

    /// Makes a store of a bucket, whose writes are durable by themselves.
    #[must_use]
    pub fn remote(bucket: Arc<dyn ObjectStore>, faults: Arc<dyn Faults>) -> Self {
        Self { inner: bucket, local: None, cache: Arc::default(), faults }
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
        match &self.local {
            Some(local) => local.folders.sync(folder).map_err(failed),
            None => Ok(()),
        }
    }

    fn sync_file(&self, local: &Local, location: &Path) -> Result<()> {
        let path = local.files.path_to_filesystem(location)?;
        let failed = |source: std::io::Error| io_error(&path, source);
        File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
        self.faults.reach(FaultPoint::FileRenamed).map_err(generic)?;
        local.folders.sync(path.parent().unwrap_or(FilePath::new("/"))).map_err(failed)
    }

    /// Syncs a file that was written otherwise; a bucket needs none of that.
    async fn settle(&self, location: &Path) -> Result<()> {
        let Some(local) = self.local.clone() else {
            return self.faults.reach(FaultPoint::FileRenamed).map_err(generic);
        };
        let (store, location) = (self.clone(), location.clone());
        blocking(move || store.sync_file(&local, &location)).await
    }
}

impl DurableStore {
    /// Reads an object of a bucket; an answer that breaks off is asked for again, as far as it is read whole.
    async fn get_again(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
        again(|| async {
            let found = self.inner.get_opts(location, options.clone()).await?;
            if found.range.end - found.range.start > WHOLE_BYTES {
                return Ok(found);
            }
            let (meta, range, attributes) =
                (found.meta.clone(), found.range.clone(), found.attributes.clone());
            Ok(answer(meta, range, attributes, found.bytes().await?))
        })
        .await
    }

    /// Lists a bucket as a whole.
    fn listed(
        &self,
        list: impl Fn(&dyn ObjectStore) -> BoxStream<'static, Result<ObjectMeta>> + Send + Sync + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let inner = Arc::clone(&self.inner);
        let all = async move {
            let found: Vec<_> = again(|| list(inner.as_ref()).try_collect::<Vec<_>>()).await?;
            Ok::<_, Error>(futures::stream::iter(found.into_iter().map(Ok)))
        };
        futures::stream::once(all).try_flatten().boxed()
    }

    /// Reads an object that never changes from the cache, or from its beginning up to what is wanted into it.
    async fn get_cached(
        &self,
        location: &Path,
        options: GetOptions,
        wanted: Option<std::ops::Range<u64>>,
    ) -> Result<GetResult> {
        let end = wanted.as_ref().map_or(u64::MAX, |wanted| wanted.end);
        let known = match self.cache.get(location, end) {
            Some(known) => known,
            None => {
                let range = wanted.as_ref().map(|wanted| (0..wanted.end).into());
                let found = self.get_again(location, &GetOptions { range, ..options }).await?;
                let (meta, attributes) = (found.meta.clone(), found.attributes.clone());
                let known = Known { meta, attributes, bytes: found.bytes().await? };
                self.cache.keep(location, known.clone());
                known
            }
        };
        let wanted = wanted.unwrap_or(0..known.meta.size);
        let end = wanted.end.min(known.bytes.len() as u64);
        let start = wanted.start.min(end);
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = known.bytes.slice(place(start)..place(end));
        Ok(answer(known.meta, start..end, known.attributes, bytes))
    }
}

/// Reads from a bucket, and again when the way breaks off: a store tries requests again, and not answers.
async fn again<T, F: Future<Output = Result<T>> + Send>(mut read: impl FnMut() -> F + Send) -> Result<T> {
    let mut attempt = 1;
    loop {
        let started = std::time::Instant::now();
        match read().await {
            // What took long was tried again already.
            Err(error @ Error::Generic { .. })
                if attempt < ATTEMPTS && started.elapsed() < std::time::Duration::from_secs(5) =>
            {
                tracing::debug!(%error, attempt, "an answer is asked for again");
            }
            done => return done,
        }
        attempt += 1;
    }
}

fn answer(
    meta: ObjectMeta,
    range: std::ops::Range<u64>,
    attributes: object_store::Attributes,
    bytes: bytes::Bytes,
) -> GetResult {
    let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed());
    GetResult { payload, meta, range, attributes }
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
        match &self.local {
            Some(local) => write!(f, "DurableStore({})", local.folders.root.display()),
            None => write!(f, "DurableStore({})", self.inner),
        }
    }
}

#[async_trait]
impl ObjectStore for DurableStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let Some(local) = &self.local else {
            self.cache.forget(location);
            let done = self.inner.put_opts(location, payload, options).await?;
            self.faults.reach(FaultPoint::FileRenamed).map_err(generic)?;
            return Ok(done);
        };
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
        let path = local.files.path_to_filesystem(location)?;
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
        if self.local.is_some() || options.head {
            return self.inner.get_opts(location, options).await;
        }
        if let Some(wanted) = Cache::range_of(location, &options) {
            return self.get_cached(location, options, wanted).await;
        }
        self.get_again(location, &options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<bytes::Bytes>> {
        if self.local.is_some() {
            return self.inner.get_ranges(location, ranges).await;
        }
        let fetch = |range| self.get_range(location, range);
        object_store::coalesce_ranges(ranges, fetch, object_store::OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let cache = Arc::clone(&self.cache);
        let locations = locations.inspect_ok(move |location| cache.forget(location)).boxed();
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match &self.local {
            Some(local) => without_gaps(&local.files, prefix, self.inner.list(prefix)),
            None => {
                let prefix = prefix.cloned();
                self.listed(move |bucket| bucket.list(prefix.as_ref()))
            }
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match &self.local {
            Some(local) => without_gaps(&local.files, prefix, self.inner.list_with_offset(prefix, offset)),
            None => {
                let (prefix, offset) = (prefix.cloned(), offset.clone());
                self.listed(move |bucket| bucket.list_with_offset(prefix.as_ref(), &offset))
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        if self.local.is_some() {
            return self.inner.list_with_delimiter(prefix).await;
        }
        again(|| self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.settle(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        self.settle(to).await
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
        self.store.settle(&self.location).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
