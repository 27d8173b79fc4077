//! Which segments are dropped. Pure.

/// What is known of a segment: the time of its first record, milliseconds, and its size in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) begun_at: i64,
    pub(crate) bytes: u64,
}

/// How many of the oldest segments are dropped. The last one, which is written to, never is.
///
/// A segment is older than what is kept when its successor was begun before; bytes are counted with the last
/// segment, from the newest backwards.
pub(crate) fn dropped(segments: &[Held], keep_since: i64, keep_bytes: Option<u64>) -> usize {
    let by_time = segments.windows(2).take_while(|pair| pair[1].begun_at <= keep_since).count();
    let total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut excess = keep_bytes.map_or(0, |kept| total.saturating_sub(kept));
    let by_bytes = segments
        .iter()
        .take(segments.len().saturating_sub(1))
        .take_while(|segment| {
            let is_too_much = excess > 0;
            excess = excess.saturating_sub(segment.bytes);
            is_too_much
        })
        .count();
    by_time.max(by_bytes)
}

#[cfg(test)]
mod tests {
    use super::{Held, dropped};

    #[test]
    fn whole_segments_go_when_all_of_them_is_old_or_too_much() {
        let segments: Vec<Held> = [0, 10, 20, 30].map(|begun_at| Held { begun_at, bytes: 5 }).to_vec();
        let counts = |since, bytes| dropped(&segments, since, bytes);
        assert_eq!(
            [counts(-1, None), counts(9, None), counts(10, None), counts(29, None), counts(99, None)],
            [0, 0, 1, 2, 3]
        );
        assert_eq!([20, 19, 15, 14, 0].map(|bytes| counts(-1, Some(bytes))), [0, 1, 1, 2, 3]);
        assert_eq!(dropped(&[], 0, Some(0)), 0);
    }
}
