//! Merges streams of rows, each in the order of its addresses, into one in that order.
//!
//! Streams take their units of work from one queue, so their rows interleave in long runs. Runs are
//! passed on as slices: nothing is copied, and no row is compared that need not be.

use catchment_core::{Code, Error, Result};
use catchment_ingest::ADDRESS_COLUMN;
use datafusion::arrow::array::{AsArray, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::UInt64Type;
use tokio::sync::mpsc::Receiver;

/// The addresses of rows.
pub(crate) fn addresses(rows: &RecordBatch) -> Result<&UInt64Array> {
    rows.column_by_name(ADDRESS_COLUMN)
        .and_then(|column| column.as_primitive_opt::<UInt64Type>())
        .ok_or_else(|| Error::new(Code::INTERNAL, "rows of a stream have no addresses"))
}

/// The streams being merged.
pub(crate) struct Ordered {
    streams: Vec<Receiver<RecordBatch>>,
    /// The rows of each stream that are not passed on yet.
    heads: Vec<Option<RecordBatch>>,
}

impl Ordered {
    pub(crate) fn new(streams: Vec<Receiver<RecordBatch>>) -> Self {
        let heads = streams.iter().map(|_| None).collect();
        Self { streams, heads }
    }

    /// The next rows in order, `None` when all streams have ended. Blocks while a stream has none ready.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>> {
        for (head, stream) in self.heads.iter_mut().zip(&mut self.streams) {
            while head.as_ref().is_none_or(|rows| rows.num_rows() == 0) {
                match stream.blocking_recv() {
                    Some(rows) => *head = Some(rows),
                    None => {
                        *head = None;
                        break;
                    }
                }
            }
        }
        if let Some(unordered) =
            self.heads.iter_mut().find(|head| head.as_ref().is_some_and(|rows| addresses(rows).is_err()))
        {
            return Ok(unordered.take());
        }
        let mut first: Option<(usize, u64)> = None;
        // The least address of the streams that come later.
        let mut limit = u64::MAX;
        for (index, head) in self.heads.iter().enumerate() {
            let Some(rows) = head else { continue };
            let begins = addresses(rows)?.value(0);
            match first {
                Some((_, least)) if begins >= least => limit = limit.min(begins),
                Some((_, least)) => {
                    limit = limit.min(least);
                    first = Some((index, begins));
                }
                None => first = Some((index, begins)),
            }
        }
        let Some((index, _)) = first else { return Ok(None) };
        let Some(rows) = self.heads[index].take() else { return Ok(None) };
        let taken = addresses(&rows)?.values().partition_point(|address| *address <= limit).max(1);
        self.heads[index] = Some(rows.slice(taken, rows.num_rows() - taken));
        Ok(Some(rows.slice(0, taken)))
    }
}
