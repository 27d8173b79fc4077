//! What a run did for a flow, and where its time went.

use std::time::{Duration, Instant};

use catchment_catalog::BatchRecord;
use catchment_ingest::files::FileInfo;

/// What a run did for a flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Batches published.
    pub batches: u64,
    /// Rows read from sources.
    pub rows_in: u64,
    /// Rows published.
    pub rows_out: u64,
    /// Rows and files put into quarantine.
    pub quarantined: u64,
    /// Rows left out: by expectations that drop them, or since they came too late for their windows.
    pub dropped: u64,
    /// Files that could not be read, with the reason.
    pub broken: Vec<(String, String)>,
    /// Files that changed after they were read, and are not read again.
    pub changed: Vec<String>,
    /// Files that changed and whose rows were all computed again, by a backfill.
    pub again: Vec<FileInfo>,
    /// The newest version of the table, `None` while there is none.
    pub version: Option<u64>,
    /// Where the time went.
    pub phases: Phases,
}

impl FlowReport {
    /// Counts a batch that was published.
    pub(crate) fn count(&mut self, record: &BatchRecord) {
        self.batches += 1;
        self.rows_in += record.rows_in;
        self.rows_out += record.rows_out;
        self.quarantined += record.quarantined;
        self.dropped += record.dropped;
    }
}

/// A part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looking for what is new, and writing the plan.
    Plan,
    /// Reading, computing and writing files.
    Stage,
    /// Committing, and entering it into the books.
    Publish,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 3] = [Phase::Plan, Phase::Stage, Phase::Publish];

    /// Its name in measures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Stage => "stage",
            Self::Publish => "publish",
        }
    }
}

/// How long the parts of batches took, in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases([Duration; Phase::ALL.len()]);

impl Phases {
    /// How long a part took.
    #[must_use]
    pub fn of(&self, phase: Phase) -> Duration {
        self.0[phase as usize]
    }

    /// Adds what others took.
    pub fn add(&mut self, others: &Phases) {
        self.0.iter_mut().zip(others.0).for_each(|(sum, more)| *sum += more);
    }
}

/// Times the parts of one batch, one after the other.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    phases: Phases,
    since: Instant,
}

impl Stopwatch {
    /// Begins with a part.
    pub(crate) fn start() -> Self {
        Self { phases: Phases::default(), since: Instant::now() }
    }

    /// Ends a part, and begins the next.
    pub(crate) fn end(&mut self, phase: Phase) -> Phases {
        let now = Instant::now();
        self.phases.0[phase as usize] += now.duration_since(self.since);
        self.since = now;
        self.phases
    }
}
