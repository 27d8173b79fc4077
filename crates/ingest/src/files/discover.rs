//! Finds the files that a path or pattern means.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use catchment_core::{Code, Error, Result};
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

/// A file as it was when it was listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its identity: the path below the project, the full path for files outside it, or the URL of an object.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// When it was last changed, in microseconds since the Unix epoch.
    pub modified: i64,
    /// Changes when the content may have changed.
    pub etag: String,
}

impl FileInfo {
    /// Looks at one file.
    pub(crate) fn of(location: &Path, project: &Path, metadata: &Metadata) -> Self {
        let path = location.strip_prefix(project).unwrap_or(location);
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_micros()).ok())
            .unwrap_or(0);
        Self {
            path: path.to_string_lossy().into_owned(),
            size: metadata.len(),
            modified,
            etag: format!("{:x}-{modified:x}", metadata.len()),
        }
    }
}

/// A file of this machine as it is now, `None` when it is gone.
pub(crate) fn look_again(file: &FileInfo, project: &Path) -> Option<FileInfo> {
    let location = project.join(&file.path);
    let metadata = std::fs::metadata(&location).ok()?;
    Some(FileInfo::of(&location, project, &metadata))
}

/// Lists the files that `pattern` means, in the order of their paths.
///
/// A folder means all files below it. Names that begin with `_` or `.` are left out, unless the
/// pattern names them. Wildcards are `*`, `?`, `[abc]`, `{ab,cd}`, and `**` for folders in between.
///
/// # Errors
/// Returns [`Code::OPTION_INVALID`] for a pattern that is none, and errors of listing.
pub(crate) fn discover(pattern: &str, project: &Path) -> Result<Vec<FileInfo>> {
    let full = project.join(pattern);
    let pattern = Pattern::new(pattern, &full.to_string_lossy())?;
    let base = PathBuf::from(&pattern.base);
    let mut found = Vec::new();
    let failed = |path: &Path, error: std::io::Error| {
        Error::new(Code::INPUT_OUTPUT, format!("could not list {path:?}")).because(error)
    };
    match std::fs::metadata(&base) {
        Ok(metadata) if metadata.is_file() => {
            if !pattern.is_wild() {
                found.push(FileInfo::of(&base, project, &metadata));
            }
            return Ok(found);
        }
        Ok(_) => {}
        // A folder that nobody has made yet holds no files.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed(&base, error)),
    }
    let mut folders = vec![base];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&folder, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with(['_', '.']);
            let metadata = match std::fs::metadata(&path) {
                Ok(metadata) => metadata,
                // It went away since it was listed, or is a link to nothing.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&path, error)),
            };
            if metadata.is_dir() {
                if !hidden {
                    folders.push(path);
                }
            } else if pattern.wants(&path.to_string_lossy()) {
                found.push(FileInfo::of(&path, project, &metadata));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Which files a path means.
pub(crate) struct Pattern {
    /// Where to look: everything before the first wildcard.
    pub(crate) base: String,
    /// What to match there, unless the path has no wildcard.
    matcher: Option<GlobMatcher>,
    names_hidden: bool,
}

impl Pattern {
    /// Reads a path as it was written, which is `full` when it is followed from the root.
    ///
    /// # Errors
    /// Returns [`Code::OPTION_INVALID`] for one that is no pattern.
    pub(crate) fn new(written: &str, full: &str) -> Result<Self> {
        let is_wild = |part: &&str| part.contains(['*', '?', '[', '{']);
        let last = written.rsplit('/').next();
        let names_hidden = last.is_some_and(|name| name.starts_with(['_', '.']));
        if full.split('/').all(|part| !is_wild(&part)) {
            return Ok(Self { base: full.to_owned(), matcher: None, names_hidden });
        }
        let base = full.split('/').take_while(|part| !is_wild(part)).collect::<Vec<_>>().join("/");
        let glob = GlobBuilder::new(full).literal_separator(true).backslash_escape(true).build();
        let matcher = glob.map(|glob| glob.compile_matcher()).map_err(|error| {
            Error::new(Code::OPTION_INVALID, format!("path {written:?} is not a pattern")).because(error)
        })?;
        Ok(Self { base, matcher: Some(matcher), names_hidden })
    }

    /// Whether it has a wildcard.
    pub(crate) fn is_wild(&self) -> bool {
        self.matcher.is_some()
    }

    /// Whether a path is one of those that are meant.
    pub(crate) fn wants(&self, path: &str) -> bool {
        let base = self.base.trim_end_matches('/');
        let Some(below) = path.strip_prefix(base) else { return false };
        if !(below.is_empty() || below.starts_with('/')) {
            return false;
        }
        let (folders, name) = below.rsplit_once('/').unwrap_or(("", ""));
        if folders.split('/').any(|part| part.starts_with(['_', '.'])) {
            return false;
        }
        let hidden = name.starts_with(['_', '.']);
        match &self.matcher {
            Some(matcher) => matcher.is_match(path) && (!hidden || self.names_hidden),
            None => !hidden,
        }
    }
}
