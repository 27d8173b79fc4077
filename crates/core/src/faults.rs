//! Fault points: named steps at which a test may stop the process or make the step fail.
//!
//! The points are part of the shipped program, so what the crash tests prove holds for what
//! users run. Without a configured fault, reaching one costs a virtual call.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Code, Error, Result};

macro_rules! points {
    ($($variant:ident = $name:literal: $doc:literal;)*) => {
        /// A step of the commit protocol at which a fault can be made to happen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FaultPoint { $(#[doc = $doc] $variant,)* }

        impl FaultPoint {
            /// Every point, in the order of the protocol.
            pub const ALL: &'static [FaultPoint] = &[$(FaultPoint::$variant,)*];

            /// The name used in `CATCHMENT_FAULT`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(FaultPoint::$variant => $name,)* }
            }
        }
    };
}

points! {
    LeaseTaken = "lease-taken": "The lease is ours; nothing else has happened.";
    BeforePlan = "before-plan": "A batch is about to be planned.";
    PlanWritten = "plan-written": "The plan of a batch is durable.";
    FilesWritten = "files-written": "All data files of a batch are written, nothing names them yet.";
    StagedWritten = "staged-written": "The staged record that names the data files is durable.";
    BeforeCommit = "before-commit": "An output is about to be committed.";
    CommitWritten = "commit-written": "A commit is durable; the caller does not know it yet.";
    BetweenOutputs = "between-outputs": "One output of a batch is published, another is not.";
    Published = "published": "All outputs of a batch are published; the books do not know it yet.";
    BooksWritten = "books-written": "The catalog database knows the batch.";
    BookmarkRun = "bookmark-run": "A compacted run of file bookmarks is durable; what it replaces is not removed yet.";
    FileRenamed = "file-renamed": "A file has its final name; its folder is not synced yet.";
    CheckpointWritten = "checkpoint-written": "A checkpoint is durable; old log entries are still there.";
    CompactionWritten = "compaction-written": "Compacted files are written; the commit that swaps them is not.";
    TableCreated = "table-created": "A table's first commit is durable.";
    RollbackWritten = "rollback-written": "The record of a rollback is durable; nothing of it is done.";
    LogWritten = "log-written": "Records are in a segment of a stream, not synced yet.";
    LogSynced = "log-synced": "Records of a stream are durable; their writer does not know it yet.";
    LogSealed = "log-sealed": "A segment of a stream got its successor; nothing is in that yet.";
    LogChanged = "log-changed": "The new description of a stream has its name; its folder is not synced yet.";
    TableRestored = "table-restored": "A table was taken back; others of the same rollback may not be yet.";
}

impl FaultPoint {
    /// Finds a point by its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|point| point.name() == name)
    }
}

impl fmt::Display for FaultPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Decides what happens at a fault point.
pub trait Faults: Send + Sync + fmt::Debug {
    /// Called when the program reaches `point`; an error is returned to the step as its own.
    ///
    /// # Errors
    /// Returns [`Code::FAULT_INJECTED`] when the step is to fail.
    fn reach(&self, point: FaultPoint) -> Result<()>;
}

/// No faults: what every run has unless a test asks for one.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn reach(&self, _: FaultPoint) -> Result<()> {
        Ok(())
    }
}

/// What a fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAction {
    /// The process ends at once, without unwinding or flushing.
    Abort,
    /// The step returns an error, whatever it had done.
    Fail,
}

/// One fault: at the `nth` time (from 1) that `point` (or any point) is reached.
#[derive(Debug)]
pub struct Fault {
    point: Option<FaultPoint>,
    nth: u64,
    action: FaultAction,
    reached: AtomicU64,
}

impl Fault {
    /// Reads `point:nth:action`, where point may be `any` and action is `abort` or `fail`.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] when a part is not known.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(Code::CONFIG_INVALID, format!("fault {text:?} is not point:nth:action")).hint(format!(
                "points: any, {}",
                FaultPoint::ALL.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ")
            ))
        };
        let parts: Vec<&str> = text.split(':').collect();
        let [point, nth, action] = parts[..] else {
            return Err(wrong());
        };
        let point = if point == "any" { None } else { Some(FaultPoint::parse(point).ok_or_else(wrong)?) };
        let action = match action {
            "abort" => FaultAction::Abort,
            "fail" => FaultAction::Fail,
            _ => return Err(wrong()),
        };
        Ok(Self { point, nth: nth.parse().map_err(|_| wrong())?, action, reached: AtomicU64::new(0) })
    }
}

impl Faults for Fault {
    fn reach(&self, point: FaultPoint) -> Result<()> {
        if self.point.is_some_and(|wanted| wanted != point) {
            return Ok(());
        }
        if self.reached.fetch_add(1, Ordering::SeqCst) + 1 != self.nth {
            return Ok(());
        }
        match self.action {
            FaultAction::Abort => std::process::abort(),
            FaultAction::Fail => Err(Error::new(Code::FAULT_INJECTED, format!("injected fault at {point}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, FaultPoint, Faults};

    #[test]
    fn a_fault_happens_once_at_its_turn() {
        let fault = Fault::parse("plan-written:2:fail").unwrap();
        let results = [
            FaultPoint::PlanWritten,
            FaultPoint::Published,
            FaultPoint::PlanWritten,
            FaultPoint::PlanWritten,
        ]
        .map(|point| fault.reach(point).is_err());
        assert_eq!(results, [false, false, true, false]);
    }

    #[test]
    fn an_unknown_point_lists_the_known_ones() {
        let error = Fault::parse("nowhere:1:abort").unwrap_err();
        assert!(error.hint_text().unwrap().contains("staged-written"));
    }
}
