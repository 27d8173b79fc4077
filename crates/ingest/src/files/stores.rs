//! Where the files of sources lie: on this machine, or in buckets of object stores, from which each file is brought to
//! this machine's disk while it is read.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use catchment_core::{Code, Error, Result};
use catchment_lake::{LocalFile, open_bucket, storage_error};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{
    Error as StoreError, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme,
};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use url::{Position, Url};

use crate::files::FileInfo;
use crate::files::discover::{self, Pattern};
use crate::files::options::ReadFiles;
use crate::files::queue::Queue;
use crate::files::reader::Failure;

/// Files that are on their way from a bucket while one is read.
const AHEAD: usize = 16;

/// Attempts at a file whose way breaks off.
const ATTEMPTS: usize = 5;

/// The files of a machine and of the buckets that it can read.
#[derive(Debug, Default)]
pub struct FileStores {
    project: PathBuf,
    scratch: PathBuf,
    variables: BTreeMap<String, String>,
    buckets: Mutex<HashMap<String, Arc<Bucket>>>,
    queues: Mutex<HashMap<String, Arc<Queue>>>,
}

/// A bucket, whose name is such as `s3://bucket`.
#[derive(Debug)]
pub(crate) struct Bucket {
    name: String,
    store: Arc<dyn ObjectStore>,
}

impl FileStores {
    /// Relative paths start from the folder `project`; copies of objects lie in the folder `scratch`; `variables` are
    /// those of the environment that tell how to get at buckets, such as `AWS_ACCESS_KEY_ID`.
    #[must_use]
    pub fn new(project: PathBuf, scratch: PathBuf, variables: BTreeMap<String, String>) -> Self {
        Self { project, scratch, variables, ..Self::default() }
    }

    /// The folder that relative paths start from.
    #[must_use]
    pub fn project(&self) -> &Path {
        &self.project
    }

    /// The file as it is now, `None` when it is gone.
    ///
    /// # Errors
    /// Returns [`Code::INPUT_OUTPUT`] when a bucket does not answer. Waits: it is called where tasks run on several threads.
    pub fn look_again(&self, file: &FileInfo) -> Result<Option<FileInfo>> {
        let Some((bucket, key)) = self.object(&file.path, None)? else {
            return Ok(discover::look_again(file, &self.project));
        };
        wait(bucket.look_at(&key))?
    }

    /// Objects as they are now, `None` for those that are gone.
    pub(crate) async fn look_at(&self, paths: &[&str]) -> Result<Vec<Option<FileInfo>>> {
        let objects = paths.iter().map(|path| self.object(path, None)).collect::<Result<Vec<_>>>()?;
        let look = |object: Option<(Arc<Bucket>, Key)>| async move {
            match object {
                Some((bucket, key)) => bucket.look_at(&key).await,
                None => Ok(None),
            }
        };
        let looking: Vec<_> = objects.into_iter().map(look).collect();
        futures::stream::iter(looking).buffered(AHEAD).try_collect().await
    }

    /// Lists the files that a pattern means, in the order of their paths.
    pub(crate) fn list(&self, options: &ReadFiles) -> Result<Vec<FileInfo>> {
        let pattern = &options.path;
        let Some((bucket, _)) = self.object(pattern, options.region.as_deref())? else {
            return discover::discover(pattern, &self.project);
        };
        let pattern = Pattern::new(pattern, pattern)?;
        let below = pattern.base.strip_prefix(&bucket.name).unwrap_or_default().trim_matches('/').to_owned();
        let listed = wait(async {
            let folder = (!below.is_empty()).then(|| key(&below)).transpose()?;
            let mut found = Vec::new();
            let mut all = bucket.store.list(folder.as_ref());
            while let Some(meta) = all.try_next().await? {
                found.push(bucket.info(&meta));
            }
            // A listing is of what lies below a folder: a path may mean one object as well.
            if let (Some(object), false) = (&folder, pattern.is_wild()) {
                match bucket.store.head(object).await {
                    Ok(meta) => found.push(bucket.info(&meta)),
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok::<_, StoreError>(found)
        })?;
        let mut found =
            listed.map_err(|error| storage_error(format!("could not list {:?}", options.path), error))?;
        // Some consoles mark a folder by an empty object; an empty object has no rows.
        found.retain(|file| file.size > 0 && pattern.wants(&file.path));
        found.sort();
        Ok(found)
    }

    /// Brings a file to this machine's disk, unless it lies there.
    pub(crate) fn fetch(&self, file: &FileInfo) -> Result<LocalFile, Failure> {
        match self.object(&file.path, None)? {
            None => Ok(LocalFile::new(self.project.join(&file.path))),
            Some((bucket, key)) => wait(bucket.fetch(&key, file, &self.scratch))?,
        }
    }

    /// Brings files to this machine's disk one after the other, some of them ahead.
    pub(crate) fn fetcher(
        self: &Arc<Self>,
        files: &Arc<Vec<FileInfo>>,
    ) -> impl Fn(usize) -> Result<LocalFile, Failure> + Send + Sync + use<> {
        let (stores, files) = (Arc::clone(self), Arc::clone(files));
        let under_way: Mutex<HashMap<usize, JoinHandle<Result<LocalFile, Failure>>>> = Mutex::default();
        move |index| {
            if !is_object(&files[index].path) {
                return stores.fetch(&files[index]);
            }
            let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
            for next in index..files.len().min(index + AHEAD) {
                if let Some((bucket, key)) = stores.object(&files[next].path, None)?
                    && !under_way.contains_key(&next)
                {
                    let (stores, files) = (Arc::clone(&stores), Arc::clone(&files));
                    let fetching = async move { bucket.fetch(&key, &files[next], &stores.scratch).await };
                    under_way.insert(next, current()?.spawn(fetching));
                }
            }
            match under_way.remove(&index) {
                Some(fetching) => wait(fetching)?.map_err(|error| {
                    Failure::Ours(Error::new(Code::INTERNAL, "fetching a file ended early").because(error))
                })?,
                None => stores.fetch(&files[index]),
            }
        }
    }

    /// Takes a file away from where it lies.
    pub(crate) fn remove(&self, file: &FileInfo) -> Result<()> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(Code::INPUT_OUTPUT, format!("could not remove {:?}", file.path)).because(error)
        };
        match self.object(&file.path, None)? {
            Some((bucket, key)) => match wait(bucket.store.delete(&key))? {
                Err(StoreError::NotFound { .. }) | Ok(()) => Ok(()),
                Err(error) => Err(failed(error.into())),
            },
            None => match std::fs::remove_file(self.project.join(&file.path)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error.into())),
                _ => Ok(()),
            },
        }
    }

    /// Moves a file to `to`, in the same bucket or on this machine. What lies there already stays: the file then goes
    /// beside it, under its name and a hash of what it holds.
    pub(crate) fn rename(&self, file: &FileInfo, to: &str) -> Result<()> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(Code::INPUT_OUTPUT, format!("could not move {:?} to {to:?}", file.path)).because(error)
        };
        let beside = format!("{to}.{:016x}", xxhash_rust::xxh3::xxh3_64(file.etag.as_bytes()));
        if let (Some((bucket, from)), Some((_, key)), Some((_, beside))) =
            (self.object(&file.path, None)?, self.object(to, None)?, self.object(&beside, None)?)
        {
            return wait(bucket.rename(&from, &key, &beside))?.map_err(|error| failed(error.into()));
        }
        let from = self.project.join(&file.path);
        match move_file(&from, &self.project.join(to)) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                move_file(&from, &self.project.join(beside)).map_err(|error| failed(error.into()))
            }
            done => done.map_err(|error| failed(error.into())),
        }
    }

    /// A path from the root of the machine, or of a bucket, without steps that lead nowhere.
    pub(crate) fn full(&self, path: &str) -> String {
        let (root, path) = match path.find("://") {
            Some(at) => {
                let end = path[at + 3..].find('/').map_or(path.len(), |slash| at + 3 + slash);
                (path[..end].to_owned(), path[end..].to_owned())
            }
            None => (String::new(), self.project.join(path).to_string_lossy().into_owned()),
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." if root.is_empty() => _ = parts.pop(),
                part => parts.push(part),
            }
        }
        format!("{root}/{}", parts.join("/"))
    }

    /// The queue that tells of new files for a call, kept from run to run.
    pub(crate) fn queue(&self, url: &str, options: &ReadFiles) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let known = queues.entry(format!("{url} {}", options.path));
        Arc::clone(known.or_insert_with(|| Arc::new(Queue::new(url.to_owned(), options.region.clone()))))
    }

    /// The bucket and key of a path that is a URL, `None` for a path of this machine.
    fn object(&self, path: &str, region: Option<&str>) -> Result<Option<(Arc<Bucket>, Key)>> {
        if !is_object(path) {
            return Ok(None);
        }
        let invalid = |why: String| Error::new(Code::OPTION_INVALID, format!("path {path:?} {why}"));
        let end = path.find("://").map_or(0, |at| at + 3);
        let (name, below) = match path[end..].find('/') {
            Some(slash) => (&path[..end + slash], &path[end + slash + 1..]),
            None => (path, ""),
        };
        let below = key(below).map_err(|error| invalid("is no key".to_owned()).because(error))?;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(name) {
            return Ok(Some((Arc::clone(bucket), below)));
        }
        let url = Url::parse(name).map_err(|error| invalid("is no URL".to_owned()).because(error))?;
        let scheme = ObjectStoreScheme::parse(&url).map(|(scheme, _)| scheme);
        let known = [
            ObjectStoreScheme::AmazonS3,
            ObjectStoreScheme::GoogleCloudStorage,
            ObjectStoreScheme::MicrosoftAzure,
        ];
        if !scheme.is_ok_and(|scheme| known.contains(&scheme)) {
            return Err(invalid("is in no store that is known".to_owned()).hint(
                "write s3://bucket/path, gs://bucket/path, az://container/path, or a path of this machine",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::new(Code::OPTION_INVALID, "the path of a bucket holds a name or a password")
                .hint("leave them out: set variables such as AWS_SECRET_ACCESS_KEY"));
        }
        let store =
            self.open(&url, region).map_err(|error| invalid("cannot be opened".to_owned()).because(error))?;
        let bucket = Arc::new(Bucket { name: url[..Position::BeforePath].to_owned(), store });
        buckets.insert(name.to_owned(), Arc::clone(&bucket));
        Ok(Some((bucket, below)))
    }

    fn open(&self, url: &Url, region: Option<&str>) -> object_store::Result<Arc<dyn ObjectStore>> {
        // Only who names an endpoint without encryption gets one.
        let plain = self.variables.get("AWS_ENDPOINT_URL").is_some_and(|url| url.starts_with("http://"));
        let plain = plain.then(|| ("aws_allow_http".to_owned(), "true".to_owned()));
        let region = region.map(|region| ("aws_region".to_owned(), region.to_owned()));
        open_bucket(url, &self.variables, plain.into_iter().chain(region).collect()).map(|(store, _)| store)
    }
}

impl Bucket {
    fn info(&self, meta: &ObjectMeta) -> FileInfo {
        let etag = meta.e_tag.clone().unwrap_or_default();
        FileInfo {
            path: format!("{}/{}", self.name, meta.location),
            size: meta.size,
            modified: meta.last_modified.timestamp_micros(),
            // Not all stores have one.
            etag: if etag.is_empty() { format!("{:x}-{}", meta.size, meta.last_modified) } else { etag },
        }
    }

    async fn look_at(&self, key: &Key) -> Result<Option<FileInfo>> {
        match self.store.head(key).await {
            Ok(meta) => Ok(Some(self.info(&meta))),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(storage_error(format!("could not look at \"{}/{key}\"", self.name), error)),
        }
    }

    async fn rename(&self, from: &Key, to: &Key, beside: &Key) -> object_store::Result<()> {
        let to = match self.store.head(to).await {
            Err(StoreError::NotFound { .. }) => to,
            Ok(_) => beside,
            Err(error) => return Err(error),
        };
        self.store.copy(from, to).await?;
        self.store.delete(from).await
    }

    async fn fetch(&self, key: &Key, file: &FileInfo, scratch: &Path) -> Result<LocalFile, Failure> {
        // What is read is what was planned, or nothing.
        let if_match = file.etag.contains('"').then(|| file.etag.clone());
        let mut attempt = 1;
        loop {
            let options = GetOptions { if_match: if_match.clone(), ..GetOptions::default() };
            match LocalFile::fetch(self.store.as_ref(), key, options, scratch).await {
                Ok(copy) => return Ok(copy),
                Err(StoreError::NotFound { .. } | StoreError::Precondition { .. }) => {
                    return Err(Failure::Vanished);
                }
                Err(StoreError::Generic { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => {
                    let what = format!("could not read {:?}", file.path);
                    return Err(Failure::Ours(storage_error(what, error)));
                }
            }
        }
    }
}

/// Moves a file to where nothing lies.
fn move_file(from: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::hard_link(from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(error),
        // Another disk, or one without links: the copy is durable before the file goes.
        Err(_) => {
            let mut target = std::fs::File::create_new(to)?;
            std::io::copy(&mut std::fs::File::open(from)?, &mut target)?;
            target.sync_all()?;
        }
    }
    std::fs::remove_file(from)
}

/// Whether a path is an object in a bucket rather than a file of this machine.
pub(crate) fn is_object(path: &str) -> bool {
    path.contains("://")
}

/// Whether a URL names an object that can be asked for.
pub(crate) fn is_path(url: &str) -> bool {
    let end = url.find("://").map_or(0, |at| at + 3);
    url[end..].split_once('/').is_some_and(|(_, below)| !below.is_empty() && Key::parse(below).is_ok())
}

fn key(text: &str) -> std::result::Result<Key, object_store::path::Error> {
    Key::parse(text.trim_end_matches('/'))
}

fn current() -> Result<Handle> {
    Handle::try_current()
        .map_err(|error| Error::new(Code::INTERNAL, "buckets are read where tasks run").because(error))
}

/// Waits for what is asynchronous.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> Result<T> {
    let handle = current()?;
    Ok(tokio::task::block_in_place(|| handle.block_on(future)))
}
