//! Files as bytes: decompressed, cut into lines, with the offset of each.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// The longest record, in bytes. A longer one means that the file is not what it claims to be.
pub(crate) const LONGEST_RECORD: usize = 64 << 20;

const BUFFER: usize = 1 << 20;

/// Why a file cannot be read to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The file is not there, or not any more.
    Vanished,
    /// Its content cannot be understood.
    Broken(String),
    /// Something that is not the file's fault.
    Ours(catchment_core::Error),
}

impl From<catchment_core::Error> for Failure {
    fn from(error: catchment_core::Error) -> Self {
        Self::Ours(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Vanished,
            _ => Self::Broken(error.to_string()),
        }
    }
}

/// Whether a file is compressed, by its first bytes.
pub(crate) fn is_compressed(path: &Path) -> Result<bool, Failure> {
    let mut head = BufReader::with_capacity(8, File::open(path)?);
    let head = head.fill_buf()?;
    Ok(head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]))
}

/// Opens a file and decompresses it when its first bytes say gzip or Zstandard.
pub(crate) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, Failure> {
    let mut plain = BufReader::with_capacity(BUFFER, File::open(path)?);
    let head = plain.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, Named("gzip", MultiGzDecoder::new(plain)))));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::Decoder::with_buffer(plain)?;
        return Ok(Box::new(BufReader::with_capacity(BUFFER, Named("zstd", decoder))));
    }
    Ok(Box::new(plain))
}

/// Says of which compression an error is.
struct Named<R>(&'static str, R);

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1.read(buffer).map_err(|error| {
            let what = match error.kind() {
                ErrorKind::UnexpectedEof => "the file is truncated".to_owned(),
                _ => error.to_string(),
            };
            std::io::Error::new(ErrorKind::InvalidData, format!("{}: {what}", self.0))
        })
    }
}

/// Bytes as text: as they are when they are text, else with `\xNN` for the bytes that are not.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02X}"));
        }
    }
    text
}
