//! Avro object container files, read by arrow's own reader.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use arrow_avro::reader::{Reader, ReaderBuilder};
use datafusion::arrow::datatypes::SchemaRef;

use crate::files::reader::Failure;

/// Opens a file that is whole; `rows` is the size of its record batches.
pub(crate) fn open(path: &Path, rows: usize) -> Result<Reader<BufReader<File>>, Failure> {
    require_whole(path)?;
    let file = BufReader::with_capacity(1 << 20, File::open(path)?);
    ReaderBuilder::new().with_batch_size(rows).build(file).map_err(|error| Failure::Broken(error.to_string()))
}

/// The columns of a file.
pub(crate) fn columns(path: &Path) -> Result<SchemaRef, Failure> {
    Ok(open(path, 1)?.schema())
}

/// Walks over the blocks of a file. The reader takes the end of a file in the middle of a block for its
/// end, and would leave out rows without a word.
///
/// Format: "Object Container Files" of the Avro specification: magic, a map of metadata, a marker of 16
/// bytes, then blocks of a count, a size, that many bytes and the marker.
fn require_whole(path: &Path) -> Result<(), Failure> {
    let broken = |what: &str| Failure::Broken(format!("avro: {what}"));
    let cut = |error: std::io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => broken("the file is truncated"),
        _ => error.into(),
    };
    let mut file = BufReader::new(File::open(path)?);
    let length = file.get_ref().metadata()?.len();
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(cut)?;
    if magic != *b"Obj\x01" {
        return Err(broken("not an object container file"));
    }
    loop {
        let mut entries = long(&mut file).map_err(cut)?;
        if entries == 0 {
            break;
        }
        if entries < 0 {
            // A negative count is followed by the size of the entries.
            long(&mut file).map_err(cut)?;
            entries = -entries;
        }
        for _ in 0..entries.saturating_mul(2) {
            skip(&mut file, length).map_err(cut)?;
        }
    }
    let (mut marker, mut found) = ([0; 16], [0; 16]);
    file.read_exact(&mut marker).map_err(cut)?;
    while file.stream_position()? < length {
        long(&mut file).map_err(cut)?;
        skip(&mut file, length).map_err(cut)?;
        file.read_exact(&mut found).map_err(cut)?;
        if found != marker {
            return Err(broken("a block does not end where it should"));
        }
    }
    Ok(())
}

/// A number as Avro writes it: seven bits a byte, the lowest first, signs interleaved.
fn long(file: &mut impl Read) -> std::io::Result<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// Passes over a number and as many bytes as it says, which must be there.
fn skip(file: &mut BufReader<File>, length: u64) -> std::io::Result<()> {
    let size = u64::try_from(long(file)?).map_err(|_| std::io::Error::from(ErrorKind::InvalidData))?;
    let end = file.stream_position()?.saturating_add(size);
    if end > length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    file.seek(SeekFrom::Start(end)).map(|_| ())
}
