//! Which shard a key falls into: MD5 as a number of 128 bits, and ranges of such numbers.

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

/// The hash of a partition key, as Kinesis computes it.
///
/// ```
/// assert_eq!(catchment_log::hash_of("a"), 16955237001963240173058271559858726497);
/// ```
#[must_use]
pub fn hash_of(partition_key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into())
}

/// Hashes from `start` to `end`, both of them included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashRange {
    /// The lowest.
    #[serde(with = "as_text")]
    pub start: u128,
    /// The highest.
    #[serde(with = "as_text")]
    pub end: u128,
}

impl HashRange {
    /// All hashes.
    pub const ALL: Self = Self { start: 0, end: u128::MAX };

    /// Whether a hash is in it.
    #[must_use]
    pub fn contains(&self, hash: u128) -> bool {
        (self.start..=self.end).contains(&hash)
    }

    /// All hashes in `count` ranges of the same size, but for the last, which has the rest; as Kinesis cuts them.
    #[must_use]
    pub fn evenly(count: u32) -> Vec<Self> {
        // 2^128 / count, which the first ranges get; 2^128 itself is one too many for the type.
        let count = u128::from(count.max(1));
        let size = (u128::MAX / count).wrapping_add(u128::from(u128::MAX % count == count - 1));
        let start = |index: u128| index.wrapping_mul(size);
        (0..count)
            .map(|index| Self {
                start: start(index),
                end: if index + 1 == count { u128::MAX } else { start(index + 1) - 1 },
            })
            .collect()
    }
}

/// Numbers of 128 bits as text: JSON readers take no more than 64.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::HashRange;

    #[test]
    fn ranges_are_those_that_kinesis_makes() {
        let ends: Vec<u128> = HashRange::evenly(3).iter().map(|range| range.end).collect();
        assert_eq!(ends[0], 113_427_455_640_312_821_154_458_202_477_256_070_484);
        assert_eq!(ends[1], 226_854_911_280_625_642_308_916_404_954_512_140_969);
        assert_eq!(ends[2], u128::MAX);
    }

    #[test]
    fn ranges_cover_everything_once() {
        for count in (1..200).chain([1_000, 4_096, 10_007]) {
            let ranges = HashRange::evenly(count);
            assert_eq!((ranges.len(), ranges[0].start), (count as usize, 0));
            assert!(
                ranges
                    .windows(2)
                    .all(|pair| pair[0].end + 1 == pair[1].start && pair[0].start <= pair[0].end)
            );
            assert_eq!(ranges[ranges.len() - 1].end, u128::MAX);
        }
    }
}
