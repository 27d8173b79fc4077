//! Reads rows of a serving table by key, in process: how long each takes.
//!
//! Arguments: the folder of the serving store, the table, how many keys there are (0, 1, 2, ...), how many reads.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use catchment_core::{Code, Error, Result, TableName};
use catchment_flows::ServingStore;

fn main() -> Result<()> {
    let wrong = |what: &str| Error::new(Code::USAGE, format!("{what} is missing or wrong"));
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map(PathBuf::from).ok_or_else(|| wrong("the folder"))?;
    let name = arguments
        .next()
        .and_then(|name| TableName::parse(&name, "main"))
        .ok_or_else(|| wrong("the table"))?;
    let mut number =
        |what: &str| arguments.next().and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| wrong(what));
    let (keys, reads) = (number("the number of keys")?, number("the number of reads")?);
    let store = ServingStore::open(&folder, 0)?;
    let table = store.table(&name)?.ok_or_else(|| wrong("the table"))?;
    let mut times = Vec::with_capacity(usize::try_from(reads).unwrap_or_default());
    for read in 0..reads {
        // SplitMix64: any order but the one in which they were written.
        let mixed = (read ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let key = vec![(mixed % keys).to_string()];
        let begun = Instant::now();
        let rows = table.get(std::slice::from_ref(&key), 0)?;
        times.push(begun.elapsed());
        if rows.num_rows() != 1 {
            return Err(Error::new(Code::INTERNAL, format!("key {key:?} has {} rows", rows.num_rows())));
        }
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{reads} reads: p50 {:.1} us, p99 {:.1} us, most {:.0} us",
        micros(at(0.5)),
        micros(at(0.99)),
        micros(at(1.0))
    );
    Ok(())
}
