//! Who may write a lake: one process at a time.
//!
//! The owner holds an operating-system lock on `_catchment/lease.lock` and keeps `lease.json`
//! fresh. The lock makes a crashed owner's lake free at once on the same machine; the expiry in
//! the record covers folders shared between machines, where such locks may not reach. What fences
//! a former owner for good is the generation: every commit carries it, see [`crate::TableWriter`].

use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use catchment_core::{Clock, Code, Error, FaultPoint, Faults, Result, timestamp_text};
use serde::{Deserialize, Serialize};

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
    layout: Layout,
    store: Arc<DurableStore>,
    clock: Arc<dyn Clock>,
    record: Record,
    lost: AtomicBool,
    /// Holding the file open holds the lock.
    _lock: File,
}

impl Lease {
    /// Takes the lease of a lake, making its folder when there is none.
    ///
    /// # Errors
    /// Returns [`Code::LAKE_OWNED`] when another process has it, and the machine's errors.
    pub(crate) fn acquire(
        layout: &Layout,
        store: &Arc<DurableStore>,
        clock: &Arc<dyn Clock>,
        faults: &dyn Faults,
    ) -> Result<Self> {
        let path = layout.lease_file();
        let failed =
            |error| storage_error(format!("could not take the lease of lake {:?}", layout.folder()), error);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.with_extension("lock"))
            .map_err(failed)?;
        let before = read_record(layout)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(owned(layout, before.as_ref())),
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let host = host_name();
        let now = clock.now_millis();
        if let Some(record) = before.as_ref().filter(|record| record.host != host && record.expires_at > now)
        {
            return Err(owned(layout, Some(record)));
        }
        let generation = before.map_or(1, |record| record.generation + 1);
        let record =
            Record { generation, host, process: std::process::id(), expires_at: now + EXPIRY_MILLIS };
        let lease = Self {
            layout: layout.clone(),
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            record,
            lost: AtomicBool::new(false),
            _lock: lock,
        };
        lease.write(&lease.record)?;
        faults.reach(FaultPoint::LeaseTaken)?;
        Ok(lease)
    }

    /// Counts the owners the lake has had; later owners have higher generations.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.record.generation
    }

    /// Extends the lease. Call it every [`RENEW_MILLIS`].
    ///
    /// # Errors
    /// Returns [`Code::LEASE_LOST`] when another process has taken the lake over.
    pub fn renew(&self) -> Result<()> {
        self.check()?;
        match read_record(&self.layout)? {
            Some(record) if record.generation == self.record.generation => {
                self.write(&Record { expires_at: self.clock.now_millis() + EXPIRY_MILLIS, ..record })
            }
            _ => {
                self.lose();
                self.check()
            }
        }
    }

    /// Fails once the lease is known to be lost.
    ///
    /// # Errors
    /// Returns [`Code::LEASE_LOST`].
    pub fn check(&self) -> Result<()> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(Error::new(
                Code::LEASE_LOST,
                format!("another process has taken over lake {:?}", self.layout.folder()),
            ));
        }
        Ok(())
    }

    /// Marks the lease as lost: a commit has shown a later owner.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    fn write(&self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::new(Code::INTERNAL, "could not write a lease").because(error))?;
        self.store.write(&self.layout.lease_file(), &[bytes.into()], false).map_err(|error| {
            storage_error(format!("could not write the lease of lake {:?}", self.layout.folder()), error)
        })
    }
}

fn read_record(layout: &Layout) -> Result<Option<Record>> {
    let path = layout.lease_file();
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(Code::PLAN_CORRUPT, format!("lease {path:?} is corrupt"))
                .because(error)
                .hint("make sure that no other process uses the lake, then remove the file")
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(storage_error(format!("could not read lease {path:?}"), error)),
    }
}

fn owned(layout: &Layout, record: Option<&Record>) -> Error {
    let who = record.map_or_else(String::new, |record| {
        format!(
            ": process {} on {}, its lease expires at {}",
            record.process,
            record.host,
            timestamp_text(record.expires_at * 1_000)
        )
    });
    Error::new(Code::LAKE_OWNED, format!("another process owns lake {:?}{who}", layout.folder()))
        .hint("wait for it to end, or stop it; reading with `catchment sql` needs no lease")
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
        fn acquire(&self) -> catchment_core::Result<Lease> {
            Lease::acquire(&self.layout, &self.store, &self.clock, &NoFaults)
        }
    }

    #[test]
    fn one_owner_at_a_time_and_generations_grow() {
        let world = world();
        let first = world.acquire().unwrap();
        let error = world.acquire().unwrap_err();
        assert_eq!(error.code(), Code::LAKE_OWNED);
        assert!(error.message().contains(&std::process::id().to_string()));
        drop(first);
        assert_eq!(world.acquire().unwrap().generation(), 2);
    }

    #[test]
    fn a_lease_of_another_machine_is_respected_until_it_expires() {
        let world = world();
        drop(world.acquire().unwrap());
        let path = world.layout.lease_file();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record["host"] = "elsewhere".into();
        world.store.write(&path, &[record.to_string().into_bytes().into()], false).unwrap();
        assert_eq!(world.acquire().unwrap_err().code(), Code::LAKE_OWNED);
        world.fixed.advance((EXPIRY_MILLIS + 1) * 1_000);
        assert_eq!(world.acquire().unwrap().generation(), 2);
    }

    #[test]
    fn a_former_owner_learns_it_when_it_renews() {
        let world = world();
        let former = world.acquire().unwrap();
        std::fs::remove_file(world.layout.lease_file().with_extension("lock")).unwrap();
        let _owner = world.acquire().unwrap();
        assert_eq!(former.renew().unwrap_err().code(), Code::LEASE_LOST);
        assert_eq!(former.check().unwrap_err().code(), Code::LEASE_LOST);
    }
}
