//! Serving tables: the latest row of each key, read by key, kept up to date from streams or tables.
//!
//! A serving table is not in the lake: its rows lie in a store on this machine's disk ([`ServingStore`]), and can be made anew
//! from what it reads. A batch is planned, computed and made durable in one write together with where the flow stands, so that each
//! row of a stream counts exactly once whatever happens.

mod batch;
mod cache;
mod change;
mod evolve;
mod rows;
mod run;
mod states;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod timely;

use catchment_sql::Definition;

/// How rows are found and written, and what they are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// How they are found.
    pub key: RowKey,
    /// How often a service writes, at most, in microseconds.
    pub emit_every: Option<i64>,
    /// How many microseconds an event that is put into a window may be ahead of the batch.
    pub ahead: i64,
    /// What its rows are made of.
    pub definition: Definition,
}

pub use evolve::Standing as ServingStanding;
pub use rows::RowKey;
pub use store::{ServingFolder, ServingStore};
pub use table::{KeyRange, ServingSize, ServingTable};
