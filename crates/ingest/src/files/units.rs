//! Cuts files into units of work that are decoded side by side: blocks of lines, runs of records, row groups.
//!
//! All streams of a scan take their units from one queue in source order. So one large file keeps all
//! threads busy, and the rows of each stream are in source order.

use std::fs::File;
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use catchment_lake::LocalFile;
use csv::ByteRecord;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use crate::files::csv::CsvRecords;
use crate::files::options::FileFormat;
use crate::files::reader::{Failure, LONGEST_RECORD, open};

/// Bytes of a block of lines. A block's rows make one record batch or a few.
const BLOCK_BYTES: usize = 1 << 20;

/// Records of a run.
const RUN_RECORDS: usize = 2_048;

/// A share of a file.
pub(crate) struct Unit {
    /// The index of the file.
    pub(crate) file: usize,
    /// Where the file lies while it is read.
    pub(crate) at: Arc<LocalFile>,
    pub(crate) body: Body,
}

/// What a unit holds.
pub(crate) enum Body {
    /// Whole lines, and the offset of the first in the decompressed file.
    Lines { offset: u64, bytes: Vec<u8> },
    /// Records of a CSV file, each with its offset.
    Records { header: Option<Arc<Vec<String>>>, records: Vec<(u64, ByteRecord)> },
    /// The whole text of a JSON file that holds one value.
    Document { text: String },
    /// An Avro file that is still to be read.
    Container,
    /// A row group of a Parquet file that is still to be read, and the number of its first row.
    RowGroup { metadata: ArrowReaderMetadata, group: usize, first_row: u64 },
}

/// How files are cut.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    pub(crate) format: FileFormat,
    pub(crate) header: bool,
    pub(crate) delimiter: u8,
    pub(crate) multi_line: bool,
}

/// The units of some files, in source order.
pub(crate) struct UnitQueue {
    cut: Cut,
    files: usize,
    fetch: Box<Fetch>,
    state: Mutex<State>,
}

/// Brings a file, by its index, to this machine's disk.
type Fetch = dyn Fn(usize) -> Result<LocalFile, Failure> + Send + Sync;

#[derive(Default)]
struct State {
    /// The next file to open.
    next: usize,
    reader: Option<(Reader, Arc<LocalFile>)>,
}

enum Reader {
    Lines {
        source: Box<dyn BufRead + Send>,
        rest: Vec<u8>,
        offset: u64,
    },
    Records {
        records: CsvRecords,
        header: Option<Arc<Vec<String>>>,
    },
    RowGroups {
        metadata: ArrowReaderMetadata,
        next: usize,
        first_row: u64,
    },
    /// A file that is one unit, unless it has been handed out.
    Whole(Option<Body>),
}

impl UnitQueue {
    /// The units of a file that lies here.
    pub(crate) fn of_file(cut: Cut, path: &Path) -> Self {
        let path = path.to_path_buf();
        Self::new(cut, 1, Box::new(move |_| Ok(LocalFile::new(path.clone()))))
    }

    /// The units of `count` files that are fetched one by one.
    pub(crate) fn new(cut: Cut, count: usize, fetch: Box<Fetch>) -> Self {
        Self { cut, files: count, fetch, state: Mutex::default() }
    }

    /// The next unit, `None` after the last. After a failure, which names the file, the queue goes on
    /// with the next file.
    pub(crate) fn next(&self) -> Result<Option<Unit>, (usize, Failure)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let file = match &state.reader {
                Some(_) => state.next - 1,
                None => {
                    if state.next == self.files {
                        return Ok(None);
                    }
                    let file = state.next;
                    state.next += 1;
                    let failed = |failure| (file, failure);
                    let at = (self.fetch)(file).map_err(failed)?;
                    state.reader = Some((Reader::open(at.path(), &self.cut).map_err(failed)?, Arc::new(at)));
                    file
                }
            };
            let Some((reader, at)) = state.reader.as_mut() else { continue };
            match reader.next() {
                Ok(Some(body)) => return Ok(Some(Unit { file, at: Arc::clone(at), body })),
                Ok(None) => state.reader = None,
                Err(failure) => {
                    state.reader = None;
                    return Err((file, failure));
                }
            }
        }
    }
}

impl std::fmt::Debug for UnitQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnitQueue").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Reader {
    fn open(path: &std::path::Path, cut: &Cut) -> Result<Self, Failure> {
        Ok(match cut.format {
            FileFormat::Json if cut.multi_line => Self::Whole(Some(document(path)?)),
            FileFormat::Avro => {
                File::open(path)?;
                Self::Whole(Some(Body::Container))
            }
            FileFormat::Json | FileFormat::Text => {
                Self::Lines { source: open(path)?, rest: Vec::new(), offset: 0 }
            }
            FileFormat::Csv => {
                let records = CsvRecords::new(open(path)?, cut.delimiter, cut.header)?;
                let header = records.header.clone().map(Arc::new);
                Self::Records { records, header }
            }
            FileFormat::Parquet => {
                let metadata = ArrowReaderMetadata::load(&File::open(path)?, ArrowReaderOptions::new())
                    .map_err(|error| Failure::Broken(error.to_string()))?;
                Self::RowGroups { metadata, next: 0, first_row: 0 }
            }
        })
    }

    fn next(&mut self) -> Result<Option<Body>, Failure> {
        match self {
            Self::Whole(body) => Ok(body.take()),
            Self::Lines { source, rest, offset } => {
                let Some(bytes) = next_block(source, rest, *offset)? else { return Ok(None) };
                let begin = *offset;
                *offset += bytes.len() as u64;
                Ok(Some(Body::Lines { offset: begin, bytes }))
            }
            Self::Records { records, header } => {
                let mut run = Vec::new();
                while run.len() < RUN_RECORDS
                    && let Some((offset, record)) = records.next_record()?
                {
                    run.push((offset, record.clone()));
                }
                Ok((!run.is_empty()).then(|| Body::Records { header: header.clone(), records: run }))
            }
            Self::RowGroups { metadata, next, first_row } => {
                let Some(rows) = metadata.metadata().row_groups().get(*next).map(|group| group.num_rows())
                else {
                    return Ok(None);
                };
                let body = Body::RowGroup { metadata: metadata.clone(), group: *next, first_row: *first_row };
                *next += 1;
                *first_row += u64::try_from(rows).unwrap_or(0);
                Ok(Some(body))
            }
        }
    }
}

/// The longest JSON file that may hold one value, in bytes.
const LONGEST_DOCUMENT: u64 = 1 << 30;

fn document(path: &std::path::Path) -> Result<Body, Failure> {
    let mut bytes = Vec::new();
    open(path)?.take(LONGEST_DOCUMENT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_DOCUMENT {
        return Err(Failure::Broken(format!("a JSON value is longer than {LONGEST_DOCUMENT} bytes")));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Body::Document { text }),
        Err(error) => {
            Err(Failure::Broken(format!("invalid UTF-8 at byte {}", error.utf8_error().valid_up_to())))
        }
    }
}

/// Reads whole lines, about [`BLOCK_BYTES`] of them. What comes after the last line end is left in `rest`.
fn next_block(
    source: &mut Box<dyn BufRead + Send>,
    rest: &mut Vec<u8>,
    offset: u64,
) -> Result<Option<Vec<u8>>, Failure> {
    let mut bytes = Vec::with_capacity(BLOCK_BYTES + rest.len());
    bytes.append(rest);
    loop {
        let looked = bytes.len();
        let read = source.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut bytes)?;
        let ended = read < BLOCK_BYTES;
        if let Some(at) = bytes[looked..].iter().rposition(|byte| *byte == b'\n')
            && !ended
        {
            *rest = bytes.split_off(looked + at + 1);
            return Ok(Some(bytes));
        }
        if ended {
            // The last line may lack its end.
            return Ok((!bytes.is_empty()).then_some(bytes));
        }
        if bytes.len() > LONGEST_RECORD {
            return Err(Failure::Broken(format!(
                "the line at byte {offset} is longer than {LONGEST_RECORD} bytes"
            )));
        }
    }
}

/// The lines of a block without their ends, each with its offset in the file.
pub(crate) fn lines(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut begin = 0;
    std::iter::from_fn(move || {
        if begin == bytes.len() {
            return None;
        }
        let rest = &bytes[begin..];
        let length = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let at = offset + begin as u64;
        begin += length;
        let mut line = &rest[..length];
        line = line.strip_suffix(b"\n").unwrap_or(line);
        line = line.strip_suffix(b"\r").unwrap_or(line);
        if at == 0 {
            // A byte order mark is no part of the first record.
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        Some((at, line))
    })
}
