//! Time is passed in: a clock for programs, a fixed one for tests.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};

/// Tells the time. Everything that needs "now" is given one of these.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Microseconds since the Unix epoch, UTC.
    fn now_micros(&self) -> i64;

    /// Milliseconds since the Unix epoch, UTC.
    fn now_millis(&self) -> i64 {
        self.now_micros() / 1_000
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine for the time")]
    fn now_micros(&self) -> i64 {
        Utc::now().timestamp_micros()
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct FixedClock(AtomicI64);

impl FixedClock {
    /// Makes a clock that shows `micros` since the Unix epoch.
    #[must_use]
    pub fn new(micros: i64) -> Self {
        Self(AtomicI64::new(micros))
    }

    /// Moves the clock on by `micros`.
    pub fn advance(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now_micros(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Reads a time as microseconds since the Unix epoch: `2013-01-01T05:00:00Z` with any offset, or without one,
/// in UTC, `2013-01-01 05:00:00` or `2013-01-01`.
#[must_use]
pub fn parse_time(text: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_micros());
    }
    let text = text.replacen('T', " ", 1);
    let time = NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f")
        .or_else(|_| NaiveDateTime::parse_from_str(&format!("{text} 00:00:00"), "%Y-%m-%d %H:%M:%S"));
    time.ok().map(|time| time.and_utc().timestamp_micros())
}

/// Writes microseconds since the Unix epoch as `2013-01-01T05:00:00.000Z`.
#[must_use]
pub fn timestamp_text(micros: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::{parse_time, timestamp_text};

    #[test]
    fn times_are_read_with_and_without_a_zone() {
        let text = |text: &str| parse_time(text).map(timestamp_text);
        let five = Some("2013-01-01T05:00:00.500Z".to_owned());
        assert_eq!(text("2013-01-01T05:00:00.5Z"), five);
        assert_eq!(text("2013-01-01T06:00:00.5+01:00"), five);
        assert_eq!(text("2013-01-01 05:00:00.5"), five);
        assert_eq!(text("2013-01-01"), Some("2013-01-01T00:00:00.000Z".to_owned()));
        assert_eq!(text("yesterday"), None);
    }
}
