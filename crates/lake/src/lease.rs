//! Who may write a lake: one process at a time.
//!
//! The owner keeps `_catchment/lease.json` fresh. In a folder it also holds an operating-system lock on
//! `lease.lock`: a crashed owner's lake is free at once on the same machine, and the expiry in the record covers
//! folders shared between machines, where such locks may not reach. In a bucket every write of the record is
//! conditional on the one before, so a store that ignores conditions is refused. What fences a former owner for
//! good is the generation: every commit carries it, see [`crate::TableWriter`].

use std::fs::File;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use catchment_core::{Clock, Code, Error, FaultPoint, Faults, Result, timestamp_text};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::failure::storage_error;
use crate::layout::Layout;
use crate::store::DurableStore;

/// How long a lease holds without being renewed, in milliseconds.
const EXPIRY_MILLIS: i64 = 60_000;

/// How often an owner should renew its lease, in milliseconds.
pub const RENEW_MILLIS: u64 = 15_000;

/// The record in `lease.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    generation: u64,
    host: String,
    process: u32,
    expires_at: i64,
}

/// The right to write a lake, until it is dropped or lost.
#[derive(Debug)]
pub struct Lease {
    place: String,
    path: Path,
    store: Arc<DurableStore>,
    clock: Arc<dyn Clock>,
    record: Record,
    lost: AtomicBool,
    hold: Hold,
}

/// What keeps others out.
#[derive(Debug)]
enum Hold {
    /// The open file holds the lock.
    Lock(#[expect(dead_code, reason = "it is held, not used")] File),
    /// The record as it was written last; the next write is conditional on it.
    Written(Mutex<UpdateVersion>),
}

impl Lease {
    /// Takes the lease of a lake, making its folder when there is none.
    ///
    /// # Errors
    /// Returns [`Code::LAKE_OWNED`] when another process has it, [`Code::STORE_UNCONDITIONAL`] for a bucket that ignores
    /// conditions, and the machine's errors.
    pub(crate) async fn acquire(
        layout: &Layout,
        store: &Arc<DurableStore>,
        clock: &Arc<dyn Clock>,
        faults: &dyn Faults,
    ) -> Result<Self> {
        let place = layout.to_string();
        let lock = match layout.folder() {
            Some(folder) => Some(lock(&place, folder)?),
            None => None,
        };
        let path = layout.lease();
        let before = read(store, &place, &path).await?;
        let known = before.as_ref().map(|(record, _)| record);
        if matches!(lock, Some(None)) {
            return Err(owned(&place, known));
        }
        let (host, now) = (host_name(), clock.now_millis());
        // On this machine a lock, or the end of its process, tells that a lease is free.
        let is_free = |record: &Record| {
            record.expires_at <= now || record.host == host && (lock.is_some() || !is_running(record.process))
        };
        if let Some(record) = known.filter(|record| !is_free(record)) {
            return Err(owned(&place, Some(record)));
        }
        let generation = known.map_or(1, |record| record.generation.saturating_add(1));
        let record =
            Record { generation, host, process: std::process::id(), expires_at: now + EXPIRY_MILLIS };
        let hold = match lock.flatten() {
            Some(lock) => {
                write(store, &place, &path, &record, PutMode::Overwrite).await?;
                Hold::Lock(lock)
            }
            None => Hold::Written(Mutex::new(take(store, &place, &path, &record, before).await?)),
        };
        faults.reach(FaultPoint::LeaseTaken)?;
        Ok(Self {
            place,
            path,
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            record,
            lost: AtomicBool::new(false),
            hold,
        })
    }

    /// Counts the owners the lake has had; later owners have higher generations.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.record.generation
    }

    /// Raises the generation above that of owners of whom only their commits tell.
    pub(crate) async fn raise(&mut self, newest: u64) -> Result<()> {
        if newest < self.record.generation {
            return Ok(());
        }
        self.record.generation = newest.saturating_add(1);
        match &self.hold {
            Hold::Lock(_) => write(&self.store, &self.place, &self.path, &self.record, PutMode::Overwrite)
                .await
                .map(|_| ()),
            Hold::Written(_) => self.renew().await,
        }
    }

    /// Extends the lease. Call it every [`RENEW_MILLIS`].
    ///
    /// # Errors
    /// Returns [`Code::LEASE_LOST`] when another process has taken the lake over.
    pub async fn renew(&self) -> Result<()> {
        self.check()?;
        let record = Record { expires_at: self.clock.now_millis() + EXPIRY_MILLIS, ..self.record.clone() };
        match &self.hold {
            Hold::Lock(_) => match read(&self.store, &self.place, &self.path).await? {
                Some((found, _)) if found.generation == record.generation => {
                    write(&self.store, &self.place, &self.path, &record, PutMode::Overwrite).await?;
                }
                _ => self.lose(),
            },
            Hold::Written(version) => {
                let mut version = version.lock().await;
                let mode = PutMode::Update(version.clone());
                match write(&self.store, &self.place, &self.path, &record, mode).await? {
                    Some(written) => *version = written,
                    // As when it was taken.
                    None => match read(&self.store, &self.place, &self.path).await? {
                        Some((found, written)) if found == record => *version = written,
                        _ => self.lose(),
                    },
                }
            }
        }
        self.check()
    }

    /// Gives the lease up, so that the next owner need not wait for it to expire.
    pub async fn release(&self) {
        let Hold::Written(version) = &self.hold else { return };
        let version = version.lock().await.clone();
        let record = Record { expires_at: 0, ..self.record.clone() };
        let mode = PutMode::Update(version);
        // Whoever has taken it over meanwhile keeps it, and one that is not given up expires.
        if let Err(error) = write(&self.store, &self.place, &self.path, &record, mode).await {
            tracing::debug!(error = %error.one_line(), "a lease was not given up");
        }
        self.lose();
    }

    /// Fails once the lease is known to be lost.
    ///
    /// # Errors
    /// Returns [`Code::LEASE_LOST`].
    pub fn check(&self) -> Result<()> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(Error::new(
                Code::LEASE_LOST,
                format!("another process has taken over lake {}", self.place),
            ));
        }
        Ok(())
    }

    /// Marks the lease as lost: a commit has shown a later owner.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }
}

/// Takes the lock of a lake's folder; `None` when another process has it.
fn lock(place: &str, folder: &FilePath) -> Result<Option<File>> {
    let path: PathBuf = folder.join(crate::layout::OWN_FOLDER).join("lease.lock");
    let failed = |error| storage_error(format!("could not take the lease of lake {place}"), error);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let lock = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Writes the first record of a lease in a bucket, on condition that nobody else has written one since.
async fn take(
    store: &DurableStore,
    place: &str,
    path: &Path,
    record: &Record,
    before: Option<(Record, UpdateVersion)>,
) -> Result<UpdateVersion> {
    let mode = match before {
        Some((_, version)) => PutMode::Update(version),
        None => PutMode::Create,
    };
    let written = match write(store, place, path, record, mode).await? {
        Some(written) => written,
        // An answer may have been lost, and the write tried again by the client: what stands there decides.
        None => match read(store, place, path).await? {
            Some((found, version)) if found == *record => version,
            found => return Err(owned(place, found.as_ref().map(|(record, _)| record))),
        },
    };
    // The record is there: a store that writes it all the same, or on a condition that does not hold, ignores them.
    let stale = UpdateVersion { e_tag: Some("\"0\"".to_owned()), version: None };
    for mode in [PutMode::Create, PutMode::Update(stale)] {
        if write(store, place, path, record, mode).await?.is_some() {
            return Err(unconditional(place));
        }
    }
    Ok(written)
}

/// Writes the record; `None` when the condition did not hold.
async fn write(
    store: &DurableStore,
    place: &str,
    path: &Path,
    record: &Record,
    mode: PutMode,
) -> Result<Option<UpdateVersion>> {
    use object_store::Error as StoreError;
    let bytes = serde_json::to_vec_pretty(record)
        .map_err(|error| Error::new(Code::INTERNAL, "could not write a lease").because(error))?;
    match store.put_opts(path, bytes.into(), PutOptions::from(mode)).await {
        Ok(done) => Ok(Some(UpdateVersion { e_tag: done.e_tag, version: done.version })),
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(None),
        Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => Err(unconditional(place)),
        Err(error) => Err(storage_error(format!("could not write the lease of lake {place}"), error)),
    }
}

async fn read(store: &DurableStore, place: &str, path: &Path) -> Result<Option<(Record, UpdateVersion)>> {
    let failed = |error| storage_error(format!("could not read the lease of lake {place}"), error);
    let found = match store.get(path).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
    let bytes = found.bytes().await.map_err(failed)?;
    let record = serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(Code::PLAN_CORRUPT, format!("the lease of lake {place}, \"{path}\", is corrupt"))
            .because(error)
            .hint("make sure that no other process uses the lake, then remove the file")
    })?;
    Ok(Some((record, version)))
}

fn unconditional(place: &str) -> Error {
    Error::new(Code::STORE_UNCONDITIONAL, format!("the store of lake {place} ignores conditional writes"))
        .hint("two writers could commit the same version of a table there: use a store that honours If-None-Match and If-Match")
}

fn owned(place: &str, record: Option<&Record>) -> Error {
    let who = record.map_or_else(String::new, |record| {
        format!(
            ": process {} on {}, its lease expires at {}",
            record.process,
            record.host,
            timestamp_text(record.expires_at * 1_000)
        )
    });
    Error::new(Code::LAKE_OWNED, format!("another process owns lake {place}{who}"))
        .hint("wait for it to end, or stop it; reading with `catchment sql` needs no lease")
}

/// Whether a process of this machine is there; where that cannot be told, it is.
fn is_running(process: u32) -> bool {
    !FilePath::new("/proc/self").exists() || FilePath::new("/proc").join(process.to_string()).exists()
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "this machine".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use catchment_core::{Clock, Code, FixedClock, NoFaults};

    use super::{EXPIRY_MILLIS, Lease};
    use crate::layout::Layout;
    use crate::store::DurableStore;

    struct World {
        layout: Layout,
        store: Arc<DurableStore>,
        fixed: Arc<FixedClock>,
        clock: Arc<dyn Clock>,
        _folder: tempfile::TempDir,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let fixed = Arc::new(FixedClock::new(1_000_000));
        World {
            layout: Layout::new(folder.path()).unwrap(),
            store: Arc::new(DurableStore::new(folder.path().to_path_buf(), Arc::new(NoFaults))),
            clock: Arc::clone(&fixed) as Arc<dyn Clock>,
            fixed,
            _folder: folder,
        }
    }

    impl World {
        async fn acquire(&self) -> catchment_core::Result<Lease> {
            Lease::acquire(&self.layout, &self.store, &self.clock, &NoFaults).await
        }

        fn file(&self, name: &str) -> std::path::PathBuf {
            self.layout.folder().unwrap().join(crate::layout::OWN_FOLDER).join(name)
        }
    }

    #[tokio::test]
    async fn one_owner_at_a_time_and_generations_grow() {
        let world = world();
        let first = world.acquire().await.unwrap();
        let error = world.acquire().await.unwrap_err();
        assert_eq!(error.code(), Code::LAKE_OWNED);
        assert!(error.message().contains(&std::process::id().to_string()));
        drop(first);
        assert_eq!(world.acquire().await.unwrap().generation(), 2);
    }

    #[tokio::test]
    async fn a_lease_of_another_machine_is_respected_until_it_expires() {
        let world = world();
        drop(world.acquire().await.unwrap());
        let path = world.file("lease.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record["host"] = "elsewhere".into();
        world.store.write(&path, &[record.to_string().into_bytes().into()], false).unwrap();
        assert_eq!(world.acquire().await.unwrap_err().code(), Code::LAKE_OWNED);
        world.fixed.advance((EXPIRY_MILLIS + 1) * 1_000);
        assert_eq!(world.acquire().await.unwrap().generation(), 2);
    }

    #[tokio::test]
    async fn a_former_owner_learns_it_when_it_renews() {
        let world = world();
        let former = world.acquire().await.unwrap();
        std::fs::remove_file(world.file("lease.lock")).unwrap();
        let _owner = world.acquire().await.unwrap();
        assert_eq!(former.renew().await.unwrap_err().code(), Code::LEASE_LOST);
        assert_eq!(former.check().unwrap_err().code(), Code::LEASE_LOST);
    }

    /// A bucket in memory, which honours conditions.
    fn bucket() -> (Layout, Arc<DurableStore>) {
        let url = url::Url::parse("memory:///").unwrap();
        let store = DurableStore::remote(Arc::new(object_store::memory::InMemory::new()), Arc::new(NoFaults));
        (Layout::remote(url, "a/lake".into(), std::env::temp_dir()), Arc::new(store))
    }

    #[tokio::test]
    async fn a_lease_in_a_bucket_expires_or_is_given_up() {
        let (layout, store) = bucket();
        let fixed = Arc::new(FixedClock::new(1_000_000));
        let clock = Arc::clone(&fixed) as Arc<dyn Clock>;
        let acquire = || Lease::acquire(&layout, &store, &clock, &NoFaults);
        let first = acquire().await.unwrap();
        assert_eq!(acquire().await.unwrap_err().code(), Code::LAKE_OWNED);
        fixed.advance((EXPIRY_MILLIS - 1) * 1_000);
        first.renew().await.unwrap();
        fixed.advance((EXPIRY_MILLIS - 1) * 1_000);
        assert_eq!(acquire().await.unwrap_err().code(), Code::LAKE_OWNED);
        fixed.advance(2_000);
        let second = acquire().await.unwrap();
        assert_eq!(second.generation(), 2);
        assert_eq!(first.renew().await.unwrap_err().code(), Code::LEASE_LOST);
        second.release().await;
        assert_eq!(second.check().unwrap_err().code(), Code::LEASE_LOST);
        assert_eq!(acquire().await.unwrap().generation(), 3);
    }
}
