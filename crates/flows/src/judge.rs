//! Holds the rows of a batch to the dataset's expectations, and counts.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use catchment_catalog::ExpectationCount;
use catchment_core::{Error, Result};
use catchment_ingest::{ADDRESS_COLUMN, Address, json_lines};
use catchment_quality::{Action, Expectation, RowRules, Rule};
use catchment_sql::query_error;
use datafusion::arrow::array::{BooleanArray, RecordBatch, UInt64Array};
use datafusion::arrow::compute::{filter_record_batch, not};

use crate::ordered::addresses;

/// Rows that cannot be published, on their way to quarantine; rules are bits.
#[derive(Debug)]
pub(crate) enum BadRows {
    /// Rows whose records are looked up in their source.
    Addresses(Vec<(u64, u64)>),
    /// Records that could not be decoded.
    Rejected(RecordBatch),
    /// Rows that have no source of their own, as JSON.
    Records(Vec<(u64, String)>),
}

/// Addresses that are gathered before their records are looked up, 16 bytes each.
const GATHERED: usize = 1 << 22;

/// The expectations of a dataset, applied to one batch from several threads.
#[derive(Debug)]
pub(crate) struct Judge {
    expectations: Vec<Expectation>,
    rules: RowRules,
    rows: AtomicU64,
    failed: Vec<AtomicU64>,
    dropped: AtomicU64,
    /// Rows that the rule about keys has looked at.
    compared: AtomicU64,
    gathered: Mutex<Vec<(u64, u64)>>,
    /// The first row, by address, that makes the batch fail.
    failure: Mutex<Option<(u64, u64)>>,
}

/// What became of some rows.
pub(crate) struct Judged {
    /// The rows that stay.
    pub(crate) kept: RecordBatch,
    /// Rows for quarantine, when enough have come together.
    pub(crate) bad: Vec<BadRows>,
}

impl Judge {
    pub(crate) fn new(expectations: Vec<Expectation>, rules: RowRules) -> Self {
        Self {
            failed: expectations.iter().map(|_| AtomicU64::new(0)).collect(),
            expectations,
            rules,
            rows: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            compared: AtomicU64::new(0),
            gathered: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    /// The rule that keys are unique: its index, and what becomes of rows that break it.
    pub(crate) fn unique(&self) -> Option<(usize, &Expectation)> {
        self.expectations.iter().enumerate().find(|(_, expectation)| expectation.rule.unique().is_some())
    }

    /// Holds rows to the conditions.
    pub(crate) fn conditions(&self, rows: RecordBatch) -> Result<Judged> {
        self.rows.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        if self.rules.is_empty() {
            return Ok(Judged { kept: rows, bad: Vec::new() });
        }
        let verdict = self.rules.evaluate(&rows)?;
        for (index, broken) in verdict.broken_counts() {
            self.failed[index].fetch_add(broken, Ordering::Relaxed);
        }
        if verdict.kept.true_count() == rows.num_rows() {
            return Ok(Judged { kept: rows, bad: Vec::new() });
        }
        self.part(rows, &verdict.kept, |row| verdict.broken_by(row))
    }

    /// Notes that rows break the rule that keys are unique, and returns those that stay all the same.
    pub(crate) fn duplicates(&self, rows: RecordBatch, duplicate: &BooleanArray) -> Result<Judged> {
        self.compared.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        let count = duplicate.true_count() as u64;
        let Some((index, action)) =
            self.unique().filter(|_| count > 0).map(|(index, rule)| (index, rule.action))
        else {
            return Ok(Judged { kept: rows, bad: Vec::new() });
        };
        self.failed[index].fetch_add(count, Ordering::Relaxed);
        if action == Action::Warn {
            return Ok(Judged { kept: rows, bad: Vec::new() });
        }
        let kept = not(duplicate).map_err(|error| query_error(error.into()))?;
        self.part(rows, &kept, |_| 1 << index)
    }

    /// Takes the rows that are not kept out, and sends each where its rules say.
    fn part(
        &self,
        rows: RecordBatch,
        kept: &BooleanArray,
        broken_by: impl Fn(usize) -> u64,
    ) -> Result<Judged> {
        let places: Option<UInt64Array> = addresses(&rows).ok().cloned();
        let (quarantine, fail) = (self.mask(Action::Quarantine), self.mask(Action::Fail));
        let (mut found, mut strangers) = (Vec::new(), Vec::new());
        let mut dropped = 0;
        for row in (0..rows.num_rows()).filter(|row| !kept.value(*row)) {
            let broken = broken_by(row);
            let address = places.as_ref().map(|places| Address(places.value(row)));
            if broken & fail != 0 {
                self.note_failure(address.map_or(row as u64, |address| address.0), broken);
            } else if broken & quarantine == 0 {
                dropped += 1;
            } else {
                match address.filter(|address| address.has_source()) {
                    Some(address) => found.push((address.0, broken)),
                    None => strangers.push((row, broken)),
                }
            }
        }
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
        if let Some(places) = &places {
            mark_partly_published(&mut found, places, kept);
        }
        let mut bad = Vec::new();
        bad.extend((!found.is_empty()).then(|| self.gather(found.into_iter())).flatten());
        if !strangers.is_empty() {
            let mask: BooleanArray = (0..rows.num_rows())
                .map(|row| Some(strangers.binary_search_by_key(&row, |(row, _)| *row).is_ok()))
                .collect();
            let apart = filter_record_batch(&rows, &mask).map_err(|error| query_error(error.into()))?;
            let broken = strangers.iter().map(|(_, broken)| *broken);
            bad.push(BadRows::Records(broken.zip(json_lines(&without_addresses(apart))?).collect()));
        }
        let kept = filter_record_batch(&rows, kept).map_err(|error| query_error(error.into()))?;
        Ok(Judged { kept, bad })
    }

    fn gather(&self, bad: impl Iterator<Item = (u64, u64)>) -> Option<BadRows> {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.extend(bad);
        (gathered.len() >= GATHERED).then(|| BadRows::Addresses(std::mem::take(&mut gathered)))
    }

    fn note_failure(&self, address: u64, broken: u64) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        *failure = Some(failure.map_or((address, broken), |first| first.min((address, broken))));
    }

    fn mask(&self, action: Action) -> u64 {
        self.expectations
            .iter()
            .enumerate()
            .filter(|(_, expectation)| expectation.action == action)
            .fold(0, |bits, (index, _)| bits | 1 << index)
    }

    /// What has been gathered and not been handed out yet.
    pub(crate) fn rest(&self) -> Option<BadRows> {
        let gathered = std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner));
        (!gathered.is_empty()).then_some(BadRows::Addresses(gathered))
    }

    /// The first row that makes the batch fail, and the rules it breaks.
    pub(crate) fn failure(&self) -> Option<(u64, u64)> {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows left out so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many rows met each expectation.
    pub(crate) fn counts(&self) -> Vec<ExpectationCount> {
        let rows = self.rows.load(Ordering::Relaxed);
        self.expectations
            .iter()
            .zip(&self.failed)
            .map(|(expectation, failed)| {
                let failed = failed.load(Ordering::Relaxed);
                let rows = match &expectation.rule {
                    Rule::Condition(_) => rows,
                    // Rows that a condition took out are not compared.
                    Rule::Unique(_) | Rule::UniqueWithin(..) => self.compared.load(Ordering::Relaxed),
                };
                ExpectationCount {
                    name: expectation.name.clone(),
                    rule: expectation.describe(),
                    action: expectation.action.to_string(),
                    passed: rows - failed,
                    failed,
                }
            })
            .collect()
    }
}

/// The bit that says that other rows of the same record were published: it must not be replayed.
pub(crate) const PARTLY_PUBLISHED: u64 = 1 << 63;

/// Marks bad rows whose record also made rows that are kept; these stand side by side.
fn mark_partly_published(bad: &mut [(u64, u64)], places: &UInt64Array, kept: &BooleanArray) {
    // Few rows are bad, so each kept one is looked for among them, and not the other way round.
    let mut addresses: Vec<u64> = bad.iter().map(|(address, _)| *address).collect();
    addresses.sort_unstable();
    let published: BTreeSet<u64> = (0..places.len())
        .filter(|row| kept.value(*row))
        .map(|row| places.value(row))
        .filter(|place| addresses.binary_search(place).is_ok())
        .collect();
    for (_, rules) in bad.iter_mut().filter(|(address, _)| published.contains(address)) {
        *rules |= PARTLY_PUBLISHED;
    }
}

/// The names of the rules in a set of bits.
pub(crate) fn names(expectations: &[Expectation], rules: u64) -> Vec<&Expectation> {
    expectations
        .iter()
        .enumerate()
        .filter(|(index, _)| rules & (1 << index) != 0)
        .map(|(_, rule)| rule)
        .collect()
}

/// Rows without the hidden column.
pub(crate) fn without_addresses(mut rows: RecordBatch) -> RecordBatch {
    if let Ok(index) = rows.schema().index_of(ADDRESS_COLUMN) {
        rows.remove_column(index);
    }
    rows
}

/// The error of a batch that an expectation lets fail.
pub(crate) fn failed(
    dataset: &str,
    counts: &[ExpectationCount],
    broken: &[&Expectation],
    record: Option<String>,
) -> Error {
    let names: Vec<String> = broken
        .iter()
        .filter(|expectation| expectation.action == Action::Fail)
        .map(|expectation| {
            let failed =
                counts.iter().find(|count| count.name == expectation.name).map_or(0, |count| count.failed);
            format!("\"{}\" ({}) is broken by {failed} rows", expectation.name, expectation.describe())
        })
        .collect();
    let error = Error::new(
        catchment_core::Code::EXPECTATION_FAILED,
        format!("expectation of \"{dataset}\" failed: {}", names.join("; ")),
    )
    .hint("nothing of the batch was published; mend the input or the rule, or let the rule quarantine such rows");
    match record {
        Some(record) => error.because(format!("the first of them: {record}")),
        None => error,
    }
}
