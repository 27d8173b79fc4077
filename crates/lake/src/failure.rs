//! Turns errors of the libraries below into ours, with the attempt that failed.

use std::error::Error as StdError;
use std::io::ErrorKind;

use catchment_core::{Code, Error};

/// Wraps an error of the machine or a library below with what was being attempted.
///
/// The cause decides the code: a full disk and a read-only folder are told apart from other
/// failures of reading or writing; an error of ours in the chain keeps its code.
pub fn storage_error(attempt: impl Into<String>, cause: impl StdError + Send + Sync + 'static) -> Error {
    classify(attempt.into(), Box::new(cause), Code::INPUT_OUTPUT)
}

/// Wraps a failure to read a table's log: what is not the machine's fault means a corrupt log.
pub(crate) fn log_error(attempt: impl Into<String>, cause: impl StdError + Send + Sync + 'static) -> Error {
    let error = classify(attempt.into(), Box::new(cause), Code::LOG_CORRUPT);
    if error.code() == Code::LOG_CORRUPT {
        return error.hint("restore the named log entry from a backup; the data files are not touched");
    }
    error
}

fn classify(attempt: String, cause: Box<dyn StdError + Send + Sync>, otherwise: Code) -> Error {
    let mut next: Option<&(dyn StdError + 'static)> = Some(cause.as_ref());
    let mut code = otherwise;
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            code = ours.code();
            break;
        }
        // What a bucket or the way to it did wrong says nothing about a log.
        if let Some(object_store::Error::Generic { store, .. }) = error.downcast_ref()
            && !matches!(*store, "LocalFileSystem" | "DurableStore")
        {
            code = Code::INPUT_OUTPUT;
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            code = match io.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::DISK_FULL,
                ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Code::LAKE_READ_ONLY,
                ErrorKind::InvalidData if otherwise == Code::LOG_CORRUPT => Code::LOG_CORRUPT,
                _ => Code::INPUT_OUTPUT,
            };
            // An error may be wrapped inside an `io::Error`; a more telling cause below wins.
            if code != Code::INPUT_OUTPUT {
                break;
            }
            next = io.get_ref().map(|inner| inner as _);
            continue;
        }
        next = error.source();
    }
    let error = Error::new(code, attempt).because(cause);
    match code {
        Code::DISK_FULL => error.hint("free some space and run again; nothing was lost"),
        Code::LAKE_READ_ONLY => error.hint("give the user that runs catchment the right to write there"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use catchment_core::Code;
    use object_store::Error;

    use super::storage_error;

    fn wrapped(kind: std::io::ErrorKind) -> Error {
        Error::Generic { store: "x", source: Box::new(std::io::Error::from(kind)) }
    }

    #[test]
    fn the_cause_decides_the_code() {
        let code = |kind| storage_error("could not write", wrapped(kind)).code();
        assert_eq!(code(std::io::ErrorKind::StorageFull), Code::DISK_FULL);
        assert_eq!(code(std::io::ErrorKind::ReadOnlyFilesystem), Code::LAKE_READ_ONLY);
        assert_eq!(code(std::io::ErrorKind::Interrupted), Code::INPUT_OUTPUT);
    }

    #[test]
    fn an_error_of_ours_inside_keeps_its_code() {
        let inner = catchment_core::Error::new(Code::FAULT_INJECTED, "injected");
        let outer = Error::Generic { store: "x", source: Box::new(inner) };
        assert_eq!(storage_error("could not write", outer).code(), Code::FAULT_INJECTED);
    }
}
