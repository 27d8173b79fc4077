//! How far the event time of a flow has come, and which rows it holds back: pure decisions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::records::BatchPlan;

/// What a flow with windows knows between two batches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowState {
    /// Windows that end here or before are closed, in microseconds since the Unix epoch; `None` before the first.
    pub watermark: Option<i64>,
    /// Rows that came when all of their windows were closed, since the flow began.
    pub late: u64,
    /// Rows without a time, since the flow began.
    #[serde(default)]
    pub timeless: u64,
    /// What is known of each streamed input, by its name.
    pub inputs: BTreeMap<String, InputState>,
}

/// What a flow knows of one of its inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputState {
    /// The time and the windows of its rows, as text: rows held back under others would be missing.
    pub definition: String,
    /// How late an event may come, in microseconds.
    pub delay: i64,
    /// After how many microseconds without an event a partition holds nothing back; `None` for never.
    pub idle: Option<i64>,
    /// The columns that are held back, with their types.
    pub columns: Vec<(String, String)>,
    /// All columns that the input had then: others are null in the rows that are held back.
    #[serde(default)]
    pub of_input: Vec<String>,
    /// Its partitions that still give rows, by name.
    pub partitions: BTreeMap<String, PartitionTime>,
    /// The newest event of partitions that have ended.
    #[serde(default)]
    pub ended: Option<i64>,
    /// Whether there is more to be read than was, of a source whose pieces come in no order.
    #[serde(default)]
    pub behind: bool,
    /// The files of rows that wait for their windows to close.
    pub runs: Vec<Run>,
    /// How many windows these rows lie in, those of all keys that are of one time counted once; `None` where that is not
    /// known from times alone.
    #[serde(default)]
    pub open_windows: Option<u64>,
}

/// The event time of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTime {
    /// The newest event, in microseconds since the Unix epoch; `None` before the first.
    pub newest: Option<i64>,
    /// When the last batch was planned that had rows of it, or the first that knew of it.
    pub heard_at: i64,
}

/// A file of rows that wait for their windows to close.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its name in the flow's folder of state.
    pub file: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// The least end of a window that some row of it is in.
    pub first_end: i64,
    /// The greatest.
    pub last_end: i64,
}

/// What an input lets the watermark do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allows {
    /// It must stay where it is: something older may come.
    Nothing,
    /// It may come to here.
    Until(i64),
    /// Whatever the others let it do: nothing has come for long.
    Anything,
}

impl InputState {
    /// Takes note of partitions that give rows.
    pub(crate) fn know<'a>(&mut self, names: impl IntoIterator<Item = &'a String>, now: i64) {
        for name in names {
            let unheard = PartitionTime { newest: None, heard_at: now };
            self.partitions.entry(name.clone()).or_insert(unheard);
        }
    }

    /// Takes note of rows of a partition, the newest of which is of this time.
    pub(crate) fn hear(&mut self, partition: &str, newest: i64, now: i64) {
        if let Some(known) = self.partitions.get_mut(partition) {
            known.newest = known.newest.max(Some(newest));
            known.heard_at = known.heard_at.max(now);
        }
    }

    /// Forgets the partitions that have ended. Those that have given nothing yet go on from the slowest of them: what comes
    /// is newer.
    pub(crate) fn keep(&mut self, open: &BTreeSet<String>) {
        let ended = self.partitions.iter().filter(|(name, _)| !open.contains(*name));
        let ended: Vec<i64> = ended.filter_map(|(_, partition)| partition.newest).collect();
        self.ended = self.ended.max(ended.iter().max().copied());
        self.partitions.retain(|name, _| open.contains(name));
        for partition in self.partitions.values_mut().filter(|partition| partition.newest.is_none()) {
            partition.newest = ended.iter().min().copied();
        }
    }

    /// What a partition lets the watermark do at a moment.
    #[must_use]
    pub fn partition_allows(&self, partition: &PartitionTime, now: i64) -> Allows {
        if self.behind {
            return Allows::Nothing;
        }
        if self.idle.is_some_and(|idle| now.saturating_sub(partition.heard_at) >= idle) {
            return Allows::Anything;
        }
        match partition.newest {
            Some(newest) => Allows::Until(newest.saturating_sub(self.delay)),
            None => Allows::Nothing,
        }
    }

    /// What the input lets the watermark do at a moment: whatever others do, when it has ended or is idle as a whole.
    #[must_use]
    pub fn allows(&self, now: i64) -> Allows {
        if self.behind {
            return Allows::Nothing;
        }
        let partitions = self.partitions.values().map(|partition| self.partition_allows(partition, now));
        partitions.min().unwrap_or(Allows::Anything)
    }

    /// How far its events have brought the time, when nothing holds it back.
    fn reached(&self) -> Option<i64> {
        let newest =
            self.partitions.values().filter_map(|partition| partition.newest).max().max(self.ended)?;
        Some(newest.saturating_sub(self.delay))
    }
}

impl WindowState {
    /// Where the watermark is at a moment: the least of what the inputs allow, and never less than it was.
    #[must_use]
    pub fn watermark_at(&self, now: i64) -> Option<i64> {
        match self.inputs.values().map(|input| input.allows(now)).min() {
            Some(Allows::Until(time)) => self.watermark.max(Some(time)),
            // All are silent: what has come is all there is, and the newest of it counts.
            Some(Allows::Anything) => {
                self.watermark.max(self.inputs.values().filter_map(InputState::reached).max())
            }
            _ => self.watermark,
        }
    }

    /// Whether a batch that reads nothing would close windows, since partitions have become idle.
    pub(crate) fn closes_without_rows(mut self, plan: &BatchPlan) -> bool {
        for (name, input) in &mut self.inputs {
            input.behind = plan.behind.contains(name);
        }
        self.closes(self.watermark_at(plan.planned_at))
    }

    /// Whether rows are held back whose windows are closed by a watermark.
    fn closes(&self, watermark: Option<i64>) -> bool {
        let runs = self.inputs.values().flat_map(|input| &input.runs);
        watermark > self.watermark
            && runs.map(|run| run.first_end).min().is_some_and(|first| Some(first) <= watermark)
    }
}

impl InputState {
    /// Rows that are held back.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.runs.iter().map(|run| run.rows).sum()
    }

    /// Their size, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Allows, InputState, Run, WindowState};

    fn input(delay: i64, idle: Option<i64>, names: &[&str]) -> InputState {
        let mut input = InputState { delay, idle, ..InputState::default() };
        input.know(&open(names), 0);
        input
    }

    fn state(input: InputState) -> WindowState {
        WindowState { inputs: BTreeMap::from([("s".to_owned(), input)]), ..WindowState::default() }
    }

    fn open(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_slowest_partition_holds_the_watermark_back() {
        let mut input = input(5, None, &["a", "b"]);
        input.hear("a", 100, 0);
        assert_eq!(input.allows(0), Allows::Nothing, "b may still come with anything");
        input.hear("b", 50, 0);
        input.hear("b", 40, 0);
        assert_eq!(input.allows(0), Allows::Until(45));
        // A partition that has ended holds nothing back, whatever it said last.
        input.keep(&open(&["a"]));
        assert_eq!(input.allows(0), Allows::Until(95));
        // Its child goes on from it.
        input.know(&open(&["c"]), 0);
        assert_eq!(input.allows(0), Allows::Nothing);
        input.keep(&open(&["c"]));
        assert_eq!(input.allows(0), Allows::Until(95));
        input.behind = true;
        assert_eq!(input.allows(0), Allows::Nothing);
    }

    #[test]
    fn one_that_is_idle_holds_nothing_back_and_brings_nothing_on() {
        let mut input = input(5, Some(1_000), &["a", "b"]);
        input.hear("a", 100, 900);
        assert_eq!(input.allows(999), Allows::Nothing);
        assert_eq!(input.allows(1_000), Allows::Until(95));
        assert_eq!(input.allows(5_000), Allows::Anything);
        let inputs = BTreeMap::from([("s".to_owned(), input)]);
        let state = WindowState { watermark: Some(95), inputs, ..WindowState::default() };
        assert_eq!(state.watermark_at(5_000), Some(95));
    }

    #[test]
    fn what_ended_partitions_have_said_counts_when_all_others_are_idle() {
        let mut input = input(5, Some(1_000), &["a", "b", "c"]);
        input.hear("a", 40, 0);
        input.hear("b", 100, 0);
        input.keep(&open(&["c"]));
        assert_eq!(input.allows(0), Allows::Until(35), "c may be the child of the slower one");
        assert_eq!(state(input.clone()).watermark_at(0), Some(35));
        assert_eq!(state(input).watermark_at(1_000), Some(95));
    }

    #[test]
    fn when_all_are_silent_the_newest_event_counts_and_they_hold_no_other_input_back() {
        let mut silent = input(5, Some(1_000), &["a", "b", "never"]);
        silent.hear("a", 40, 0);
        silent.hear("b", 100, 0);
        assert_eq!(state(silent.clone()).watermark_at(999), None);
        assert_eq!(state(silent.clone()).watermark_at(1_000), Some(95));
        let mut other = input(0, None, &["c"]);
        other.hear("c", 60, 0);
        let mut both = state(silent);
        both.inputs.insert("t".to_owned(), other.clone());
        assert_eq!(both.watermark_at(1_000), Some(60));
        both.inputs.get_mut("t").unwrap().hear("c", 300, 0);
        assert_eq!(both.watermark_at(1_000), Some(300));
    }

    #[test]
    fn the_watermark_never_goes_back_and_needs_all_inputs() {
        let mut heard = input(0, None, &["a"]);
        heard.hear("a", 60, 0);
        let mut state = WindowState { watermark: Some(70), ..WindowState::default() };
        state.inputs.insert("s".to_owned(), heard);
        assert_eq!(state.watermark_at(0), Some(70));
        state.watermark = None;
        assert_eq!(state.watermark_at(0), Some(60));
        state.inputs.insert("t".to_owned(), input(0, None, &["a"]));
        assert_eq!(state.watermark_at(0), None);
    }

    #[test]
    fn only_a_watermark_that_moves_past_an_end_closes_a_window() {
        let run = Run { file: "r".to_owned(), rows: 1, bytes: 1, first_end: 20, last_end: 40 };
        let input = InputState { runs: vec![run], ..InputState::default() };
        let inputs = BTreeMap::from([("s".to_owned(), input)]);
        let state = WindowState { watermark: Some(15), inputs, ..WindowState::default() };
        assert!(!state.closes(Some(19)) && state.closes(Some(20)));
        assert!(!WindowState { watermark: Some(25), ..state }.closes(Some(25)));
    }
}
