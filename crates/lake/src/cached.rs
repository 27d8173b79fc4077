//! Small objects that never change once they are there, kept in memory: entries of logs, plans of batches, small
//! data files.
//!
//! Readers of Delta and Parquet read these several times, piece by piece, and each would be a request to the bucket.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attributes, GetOptions, GetRange, ObjectMeta};

/// The largest object that is kept, in bytes.
const OBJECT_BYTES: u64 = 1 << 20;

/// What is kept altogether, in bytes. When it is full it begins anew.
const ALL_BYTES: usize = 64 << 20;

/// An object, or its beginning, with all that its store says of it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) meta: ObjectMeta,
    pub(crate) attributes: Attributes,
    pub(crate) bytes: Bytes,
}

/// Objects by their paths. Whoever writes or removes one has it forgotten.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    objects: Mutex<HashMap<Path, Known>>,
}

impl Cache {
    /// What is wanted of an object that is worth keeping, as a range unless it is all of it; `None` when it is not.
    ///
    /// Entries of logs and plans are small, and made on condition that they are not there. Data files have names
    /// of their own, and small ones are read in several pieces.
    pub(crate) fn range_of(location: &Path, options: &GetOptions) -> Option<Option<Range<u64>>> {
        let mut parts = location.parts().rev();
        let (name, folder) = (parts.next()?.as_ref().to_owned(), parts.next()?.as_ref().to_owned());
        let is_entry = folder == "_delta_log" && name.len() == 25 && name.ends_with(".json");
        let is_plan = folder == "batches" && name.ends_with(".json");
        let is_data = name.starts_with("part-") && name.ends_with(".parquet");
        match &options.range {
            None if is_entry || is_plan => Some(None),
            Some(GetRange::Bounded(range)) if is_data && range.end <= OBJECT_BYTES => {
                Some(Some(range.clone()))
            }
            _ => None,
        }
    }

    /// What is known of an object, when that is all of it, or the beginning up to `end`.
    pub(crate) fn get(&self, location: &Path, end: u64) -> Option<Known> {
        let known = self.objects().get(location).cloned()?;
        let held = known.bytes.len() as u64;
        (held >= end || held == known.meta.size).then_some(known)
    }

    pub(crate) fn keep(&self, location: &Path, known: Known) {
        if known.bytes.len() as u64 > OBJECT_BYTES {
            return;
        }
        let mut objects = self.objects();
        let held: usize = objects.values().map(|known| known.bytes.len()).sum();
        if held + known.bytes.len() > ALL_BYTES {
            objects.clear();
        }
        objects.insert(location.clone(), known);
    }

    pub(crate) fn forget(&self, location: &Path) {
        self.objects().remove(location);
    }

    fn objects(&self) -> MutexGuard<'_, HashMap<Path, Known>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use object_store::GetOptions;

    use super::Cache;

    #[test]
    fn what_never_changes_is_kept_and_nothing_else() {
        let wanted = |path: &str, range: Option<std::ops::Range<u64>>| {
            let options = GetOptions { range: range.map(Into::into), ..GetOptions::default() };
            Cache::range_of(&path.into(), &options)
        };
        assert_eq!(wanted("lake/raw/t/_delta_log/00000000000000000001.json", None), Some(None));
        assert_eq!(wanted("_catchment/flows/raw.t/batches/0-1.json", None), Some(None));
        assert_eq!(wanted("lake/raw/t/part-1.parquet", Some(5..9)), Some(Some(5..9)));
        assert_eq!(wanted("lake/raw/t/part-1.parquet", Some(5..9 << 20)), None);
        for path in
            ["raw/t/_delta_log/_last_checkpoint", "_catchment/lease.json", "_catchment/flows/t/passed.json"]
        {
            assert_eq!(wanted(path, None), None, "{path}");
        }
    }
}
