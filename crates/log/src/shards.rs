//! Shards, and what a reshard makes of them. Pure.

use std::fmt;

use catchment_core::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use crate::hash::HashRange;

/// The number of a shard, counted from 0 in its stream. Written `shardId-000000000007`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u32);

impl ShardId {
    /// Reads `shardId-000000000007`, or what Kinesis takes for it: anything that ends in a dash and the number, or the number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.rsplit_once('-').map_or(text, |(_, number)| number);
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        number.parse().ok().filter(|number| *number <= i32::MAX as u32).map(Self)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shardId-{:012}", self.0)
    }
}

/// A shard of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// The hashes of the keys whose records it takes.
    pub range: HashRange,
    /// Seconds since the Unix epoch at which it was made: after its parents were.
    pub created: u64,
    /// The shards it came from, of which its records follow all: none, one that was split, or two that were merged.
    pub parents: Vec<ShardId>,
    /// Set once it takes no more: milliseconds since the Unix epoch.
    pub closed_at: Option<i64>,
}

impl Shard {
    /// Whether it takes records.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.closed_at.is_none()
    }
}

/// What is to become of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reshard {
    /// One becomes two; the second begins at a hash.
    Split(ShardId, u128),
    /// Two whose ranges meet become one.
    Merge(ShardId, ShardId),
}

/// Makes the first shards of a stream.
#[must_use]
pub(crate) fn first_shards(count: u32, now_millis: i64) -> Vec<Shard> {
    let created = seconds(now_millis);
    let number = |index: usize| ShardId(u32::try_from(index).unwrap_or(u32::MAX));
    HashRange::evenly(count)
        .into_iter()
        .enumerate()
        .map(|(index, range)| Shard {
            id: number(index),
            range,
            created,
            parents: Vec::new(),
            closed_at: None,
        })
        .collect()
}

/// The shards after a reshard, with the closed ones and their children.
///
/// # Errors
/// Returns [`Code::SHARD_UNKNOWN`] for a shard that is not there, [`Code::RESHARD_INVALID`] for one that is
/// closed, for a hash that does not lie well inside of the shard, and for shards that do not meet.
pub(crate) fn reshard(shards: &[Shard], change: Reshard, next: u32, now_millis: i64) -> Result<Vec<Shard>> {
    let find = |id: ShardId| {
        let shard = shards.iter().find(|shard| shard.id == id);
        shard.ok_or_else(|| Error::new(Code::SHARD_UNKNOWN, format!("no shard {id}")))
    };
    let (parents, ranges) = match change {
        Reshard::Split(id, at) => {
            let range = find(id)?.range;
            // As Kinesis has it, the lower half is never a single hash.
            if at <= range.start.saturating_add(1) || at >= range.end {
                return Err(Error::new(Code::RESHARD_INVALID, format!("shard {id} cannot be split at {at}"))
                    .hint(format!(
                        "take a hash between {} and {}",
                        range.start.saturating_add(2),
                        range.end - 1
                    )));
            }
            let halves = vec![HashRange { end: at - 1, ..range }, HashRange { start: at, ..range }];
            (vec![id], halves)
        }
        Reshard::Merge(first, second) => {
            let (one, other) = (find(first)?.range, find(second)?.range);
            let meet = |low: HashRange, high: HashRange| low.end.checked_add(1) == Some(high.start);
            let merged = match (meet(one, other), meet(other, one)) {
                (true, _) => HashRange { start: one.start, end: other.end },
                (_, true) => HashRange { start: other.start, end: one.end },
                _ => {
                    return Err(Error::new(
                        Code::RESHARD_INVALID,
                        format!("shards {first} and {second} are not adjacent"),
                    ));
                }
            };
            (vec![first, second], vec![merged])
        }
    };
    if let Some(closed) = parents.iter().find(|id| find(**id).is_ok_and(|shard| !shard.is_open())) {
        return Err(Error::new(Code::RESHARD_INVALID, format!("shard {closed} is closed")));
    }
    let born_before =
        shards.iter().filter(|shard| parents.contains(&shard.id)).map(|shard| shard.created + 1).max();
    let created = seconds(now_millis).max(born_before.unwrap_or(0));
    let mut all = shards.to_vec();
    for shard in all.iter_mut().filter(|shard| parents.contains(&shard.id)) {
        shard.closed_at = Some(now_millis);
    }
    all.extend(ranges.into_iter().zip(next..).map(|(range, number)| Shard {
        id: ShardId(number),
        range,
        created,
        parents: parents.clone(),
        closed_at: None,
    }));
    Ok(all)
}

/// The next step towards `target` open shards of about the same size. As in AWS, whose counts of shards were recorded: all are
/// halved until there are enough, then the two neighbours that are smallest together are merged, until there are not
/// too many.
#[must_use]
pub(crate) fn towards(shards: &[Shard], target: usize) -> Vec<Reshard> {
    let mut open: Vec<&Shard> = shards.iter().filter(|shard| shard.is_open()).collect();
    open.sort_by_key(|shard| shard.range.start);
    let size = |shard: &Shard| shard.range.end - shard.range.start;
    match open.len().cmp(&target) {
        std::cmp::Ordering::Equal => Vec::new(),
        std::cmp::Ordering::Less => open
            .iter()
            .map(|shard| Reshard::Split(shard.id, shard.range.start + size(shard) / 2 + 1))
            .collect(),
        std::cmp::Ordering::Greater => {
            let smallest = open.windows(2).min_by_key(|pair| size(pair[0]).saturating_add(size(pair[1])));
            smallest.map(|pair| Reshard::Merge(pair[0].id, pair[1].id)).into_iter().collect()
        }
    }
}

pub(crate) fn seconds(millis: i64) -> u64 {
    u64::try_from(millis / 1_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Reshard, ShardId, first_shards, reshard, towards};
    use crate::hash::HashRange;

    #[test]
    fn open_shards_cover_everything_once_after_any_reshard() {
        let mut shards = first_shards(3, 5_000);
        for target in [7, 2, 1, 16, 5, 5, 4] {
            loop {
                let steps = towards(&shards, target);
                for change in &steps {
                    shards = reshard(&shards, *change, shards.len() as u32, 4_000).unwrap();
                }
                let mut open: Vec<HashRange> =
                    shards.iter().filter(|shard| shard.is_open()).map(|shard| shard.range).collect();
                open.sort_by_key(|range| range.start);
                assert_eq!((open[0].start, open[open.len() - 1].end), (0, u128::MAX));
                assert!(open.windows(2).all(|pair| pair[0].end + 1 == pair[1].start));
                if steps.is_empty() {
                    break;
                }
            }
            assert_eq!(shards.iter().filter(|shard| shard.is_open()).count(), target);
        }
        for shard in &shards {
            let older = |id: &ShardId| {
                shards[id.0 as usize].created < shard.created && !shards[id.0 as usize].is_open()
            };
            assert!(shard.parents.iter().all(older), "{shard:?}");
        }
    }

    #[test]
    fn as_many_shards_are_made_on_the_way_as_aws_makes() {
        for (first, target, total) in [(2, 4, 6), (4, 5, 15), (10, 13, 37), (4, 2, 6), (5, 3, 7), (10, 3, 17)]
        {
            let mut shards = first_shards(first, 0);
            while let steps = towards(&shards, target)
                && !steps.is_empty()
            {
                for change in steps {
                    shards = reshard(&shards, change, shards.len() as u32, 0).unwrap();
                }
            }
            assert_eq!(shards.len(), total, "{first} to {target}");
        }
    }

    #[test]
    fn what_cannot_be_split_or_merged_says_why() {
        let shards = first_shards(3, 0);
        let wrong = |change| reshard(&shards, change, 3, 0).unwrap_err().to_string();
        assert!(wrong(Reshard::Merge(ShardId(0), ShardId(2))).contains("not adjacent"));
        assert!(wrong(Reshard::Merge(ShardId(0), ShardId(0))).contains("not adjacent"));
        assert!(wrong(Reshard::Split(ShardId(0), 1)).contains("cannot be split"));
        assert!(wrong(Reshard::Split(ShardId(9), 1)).contains("no shard"));
        let after = reshard(&shards, Reshard::Merge(ShardId(1), ShardId(0)), 3, 0).unwrap();
        assert!(
            reshard(&after, Reshard::Split(ShardId(0), 10), 4, 0).unwrap_err().to_string().contains("closed")
        );
    }

    #[test]
    fn numbers_of_shards_are_read_as_kinesis_reads_them() {
        for text in ["shardId-000000000007", "shardId-7", "7", "a-00000000000007"] {
            assert_eq!(ShardId::parse(text), Some(ShardId(7)));
        }
        for text in ["", "shardId-", "2147483648", "ABKLFD8", "2.14E4", "+7"] {
            assert_eq!(ShardId::parse(text), None);
        }
    }
}
