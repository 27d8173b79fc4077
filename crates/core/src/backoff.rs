//! How long to wait before an attempt is repeated.

use std::time::Duration;

/// Exponential backoff with full jitter: attempt `n` waits between 0 and `base * 2^n`, at most `longest`.
///
/// Full jitter, since flows that failed together must not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait.
    pub base: Duration,
    /// The bound of any wait.
    pub longest: Duration,
    /// How many repetitions there are after the first attempt.
    pub retries: u32,
}

impl Backoff {
    /// The wait before repetition `retry` (from 0), `None` when there are no more.
    ///
    /// `random` is any uniformly distributed number; it is passed in so that the decision is pure.
    #[must_use]
    pub fn delay(&self, retry: u32, random: u64) -> Option<Duration> {
        if retry >= self.retries {
            return None;
        }
        let bound = self.base.saturating_mul(1_u32 << retry.min(20)).min(self.longest);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Some(Duration::from_nanos(if nanos == 0 { 0 } else { random % nanos }))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(200), longest: Duration::from_secs(10), retries: 4 }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn waits_grow_are_bounded_and_end() {
        let backoff = Backoff { base: Duration::from_secs(1), longest: Duration::from_secs(3), retries: 3 };
        let most = |retry| backoff.delay(retry, u64::MAX - 1);
        assert!(most(0).unwrap() < Duration::from_secs(1));
        assert!((0..3).all(|retry| most(retry).unwrap() < Duration::from_secs(3)));
        assert_eq!(most(3), None);
        assert_eq!(backoff.delay(1, 0), Some(Duration::ZERO));
    }
}
