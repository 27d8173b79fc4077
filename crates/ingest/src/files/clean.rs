//! Takes files away that were read, long enough ago.

use catchment_core::Result;

use crate::files::FileInfo;
use crate::files::discover::Pattern;
use crate::files::options::ReadFiles;
use crate::source::Standing;

/// Takes away what a published batch has read, as the options say; gives how many files that were.
///
/// A file stays that is not as it was when it was read, that could not be read as a whole, or that was there before its flow.
///
/// # Errors
/// Returns errors of listing, and of the first file that could not be taken away.
pub(super) fn clean(options: &ReadFiles, standing: &Standing, now: i64) -> Result<usize> {
    let cleaning = &options.cleaning;
    if !options.cleans() || standing.files.is_empty() {
        return Ok(0);
    }
    let is_due = |file: &FileInfo| {
        standing.files.read_at(file).is_some_and(|read| read.saturating_add(cleaning.after) <= now)
    };
    let mut count = 0;
    for file in options.discover()?.iter().filter(|file| is_due(file)) {
        match &cleaning.destination {
            Some(destination) => options.stores.rename(file, &destination_of(options, file, destination)?)?,
            None => options.stores.remove(file)?,
        }
        count += 1;
    }
    Ok(count)
}

/// Where a file goes: it keeps its path below the folder that is read.
fn destination_of(options: &ReadFiles, file: &FileInfo, destination: &str) -> Result<String> {
    let base = Pattern::new(&options.path, &options.path)?.base;
    let base = base.trim_start_matches("./").trim_end_matches('/');
    let below = match file.path.strip_prefix(base).map(|below| below.trim_start_matches('/')) {
        Some(below) if !below.is_empty() => below,
        // The path names the file itself.
        _ => file.path.rsplit('/').next().unwrap_or(&file.path),
    };
    Ok(format!("{destination}/{below}"))
}
