//! Takes files away that were read, long enough ago.

use catchment_core::Result;

use crate::files::FileInfo;
use crate::files::options::ReadFiles;
use crate::source::Standing;

/// Takes away those of the listed files that a published batch has read, as the options say; gives how many that were.
///
/// A file stays that is not as it was when it was read, that could not be read as a whole, or that was there before its flow.
///
/// # Errors
/// Returns the error of the first file that could not be taken away.
pub(super) fn clean(
    options: &ReadFiles,
    listed: &[FileInfo],
    standing: &Standing,
    now: i64,
) -> Result<usize> {
    let cleaning = &options.cleaning;
    let is_due = |file: &FileInfo| {
        standing.files.read_at(file).is_some_and(|read| read.saturating_add(cleaning.after) <= now)
    };
    let (mut count, mut failures) = (0, Vec::new());
    for file in listed.iter().filter(|file| is_due(file)) {
        match clean_file(options, file) {
            Ok(true) => count += 1,
            Ok(false) => {}
            Err(error) => failures.push(error),
        }
    }
    match (failures.len(), failures.into_iter().next()) {
        (1, Some(error)) => Err(error),
        (more, Some(error)) => Err(error.hint(format!("and {} more files", more - 1))),
        _ => Ok(count),
    }
}

/// Takes one file away, unless it changed since it was listed.
fn clean_file(options: &ReadFiles, file: &FileInfo) -> Result<bool> {
    if options.stores.look_again(file)?.as_ref() != Some(file) {
        return Ok(false);
    }
    match &options.cleaning.destination {
        Some(destination) => options.stores.rename(file, &destination_of(options, file, destination))?,
        None => options.stores.remove(file)?,
    }
    Ok(true)
}

/// Where a file goes: it keeps its path below the folder that is read.
fn destination_of(options: &ReadFiles, file: &FileInfo, destination: &str) -> String {
    let (full, base) = (options.stores.full(&file.path), options.base());
    let below = full.strip_prefix(base.trim_end_matches('/')).map(|below| below.trim_start_matches('/'));
    // The path may name the file itself.
    let name = full.rsplit('/').next().unwrap_or(&full);
    format!("{destination}/{}", below.filter(|below| !below.is_empty()).unwrap_or(name))
}
