//! Event time: windows in queries, and watermarks of streams.
//!
//! A window is an ordinary pair of columns. `GROUP BY TUMBLE(ts, INTERVAL '1' MINUTE)` reads its relation with the two
//! columns added, so that a batch query over whole tables needs nothing else. A flow over a stream runs the very same
//! query, and is asked by [`CLOSED`] which windows belong to its batch.

mod functions;
mod interval;
mod meet;
mod rewrite;
mod stagger;
#[cfg(test)]
mod tests;
mod trace;
mod watermark;
mod written;

pub use functions::{Closed, closed_function};
pub use meet::{is_meeting, meeting_scans, with_meetings};
pub use trace::{
    WindowedScan, columns_read, finds_sessions, makes_windows, reads, session_rows, unsettled_sessions,
    window_bound, window_shapes, windowed_scans,
};
pub use watermark::{LateRows, Watermark};

pub use interval::micros as interval_micros;

pub(crate) use functions::functions;
pub(crate) use rewrite::rewrite;
pub(crate) use stagger::stagger_function;
pub(crate) use watermark::{add_column, take_late_rows, take_watermarks};

/// The column that holds where a row's window begins.
pub const WINDOW_START: &str = "__window_start";

/// The column that holds where a row's window ends: the first microsecond behind it.
pub const WINDOW_END: &str = "__window_end";

/// The column that holds the time of a row in a session.
pub(crate) const WINDOW_TIME: &str = "__window_time";

/// The function that tells whether a window, by its end, belongs to the batch.
pub(crate) const CLOSED: &str = "__window_closed";

/// Windows that a row may belong to at most.
const MOST_WINDOWS: i64 = 1_000;

/// How windows lie on the time line; all lengths in microseconds, windows aligned to the Unix epoch plus the offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowShape {
    /// Windows of one size, side by side: `TUMBLE`.
    Tumble {
        /// The length of a window.
        size: i64,
        /// What the alignment is moved by.
        offset: i64,
    },
    /// Windows of one size that begin at every slide: `HOP`.
    Hop {
        /// From the beginning of one to the next.
        slide: i64,
        /// The length of a window.
        size: i64,
        /// What the alignment is moved by.
        offset: i64,
    },
    /// Windows that begin together and end a step later each, up to a size: `CUMULATE`.
    Cumulate {
        /// From one end to the next.
        step: i64,
        /// The length of the longest window.
        size: i64,
        /// What the alignment is moved by.
        offset: i64,
    },
    /// Windows that go on for as long as events of a key follow each other within a gap: `SESSION`.
    Session {
        /// A session ends so long after its last event.
        gap: i64,
    },
    /// Windows of one size, of which each key's first begins with its first event, and each other with the first event behind
    /// the one before: `STAGGER`.
    Stagger {
        /// The length of a window.
        size: i64,
    },
    /// No windows: rows wait for those of another stream that they meet in a join. A pair ends right behind its later row.
    Meeting {
        /// How far behind a row the one that it meets may be.
        after: i64,
    },
}

impl WindowShape {
    /// The ends of the first and of the last window that an event at `time` belongs to.
    #[must_use]
    pub fn ends(&self, time: i64) -> (i64, i64) {
        match *self {
            Self::Tumble { size, offset } => {
                let end = floor(time, size, offset).saturating_add(size);
                (end, end)
            }
            Self::Hop { slide, size, offset } => {
                // The first window that ends behind the event ends at most a slide behind it; with gaps between
                // windows there may be none.
                let first = floor(time.saturating_sub(size), slide, offset).saturating_add(slide + size);
                (first, floor(time, slide, offset).saturating_add(size).max(first))
            }
            Self::Cumulate { step, size, offset } => {
                let begin = floor(time, size, offset);
                let first = floor(time.saturating_sub(begin), step, 0).saturating_add(step);
                (begin.saturating_add(first), begin.saturating_add(size))
            }
            // Of the session or window that the event alone would be.
            Self::Session { gap } => (time.saturating_add(gap), time.saturating_add(gap)),
            Self::Stagger { size } => (time.saturating_add(size), time.saturating_add(size)),
            // Of the pairs that it may be in.
            Self::Meeting { after } => (time.saturating_add(1), time.saturating_add(after).saturating_add(1)),
        }
    }

    /// Whether an event comes too late: all of its windows are closed. One that comes behind the watermark could belong
    /// to a session that is closed, or move the windows behind it, and is late to all of them.
    #[must_use]
    pub fn is_late(&self, time: i64, watermark: i64) -> bool {
        match self {
            // What it would have met may be gone, or its pair be past.
            Self::Session { .. } | Self::Stagger { .. } | Self::Meeting { .. } => time < watermark,
            _ => self.ends(time).1 <= watermark,
        }
    }

    /// Whether which rows are in a window is known only from other rows.
    #[must_use]
    pub fn is_of_others(&self) -> bool {
        matches!(self, Self::Session { .. } | Self::Stagger { .. })
    }

    /// The windows that an event at `time` belongs to, as starts and ends, in order.
    pub(crate) fn windows(self, time: i64) -> impl Iterator<Item = (i64, i64)> {
        let (first, last) = self.ends(time);
        let step = match self {
            Self::Tumble { size, .. } => size,
            Self::Hop { slide, .. } => slide,
            Self::Cumulate { step, .. } => step,
            Self::Session { gap: size } | Self::Stagger { size } => size.max(1),
            Self::Meeting { .. } => i64::MAX,
        };
        (0..MOST_WINDOWS)
            .map_while(move |index| {
                let end = first.checked_add(index.checked_mul(step)?)?;
                (end <= last).then(|| match self {
                    Self::Tumble { size, .. } | Self::Hop { size, .. } | Self::Stagger { size } => {
                        (end - size, end)
                    }
                    Self::Cumulate { size, .. } => (last - size, end),
                    Self::Session { gap } => (end - gap, end),
                    Self::Meeting { .. } => (end - 1, end),
                })
            })
            .filter(move |(start, _)| *start <= time)
    }
}

impl std::fmt::Display for WindowShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, offset) = match *self {
            Self::Tumble { size, offset } => (format!("windows of {}", length(size)), offset),
            Self::Hop { slide, size, offset } => {
                (format!("windows of {} every {}", length(size), length(slide)), offset)
            }
            Self::Cumulate { step, size, offset } => {
                (format!("windows of up to {} by steps of {}", length(size), length(step)), offset)
            }
            Self::Session { gap } => (format!("sessions with gaps of {}", length(gap)), 0),
            Self::Stagger { size } => (format!("staggered windows of {}", length(size)), 0),
            Self::Meeting { after } => (format!("a join with rows up to {} later", length(after)), 0),
        };
        match offset {
            0 => f.write_str(&what),
            offset => write!(f, "{what}, moved by {}", length(offset)),
        }
    }
}

/// A length of time for people, in the largest unit that leaves nothing over.
fn length(micros: i64) -> String {
    const UNITS: &[(&str, i64)] = &[
        ("day", 86_400_000_000),
        ("hour", 3_600_000_000),
        ("minute", 60_000_000),
        ("second", 1_000_000),
        ("millisecond", 1_000),
    ];
    if micros == 0 {
        return "0 seconds".to_owned();
    }
    let unit = UNITS.iter().find(|(_, unit)| micros % unit == 0).unwrap_or(&("microsecond", 1));
    let count = micros / unit.1;
    format!("{count} {}{}", unit.0, if count.abs() == 1 { "" } else { "s" })
}

/// The last multiple of `size`, moved by `offset`, that is not behind `time`.
fn floor(time: i64, size: i64, offset: i64) -> i64 {
    let since = time.saturating_sub(offset);
    since.saturating_sub(since.rem_euclid(size)).saturating_add(offset)
}
