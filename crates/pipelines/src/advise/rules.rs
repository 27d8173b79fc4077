//! The rules: from figures to advice. Nothing here reads anything.
//!
//! They follow a decision tree: which columns do queries filter by? A time splits by day, a category of few values by its
//! values, both by both, as long as each part is worth a file; anything finer is sorted, not split.

use std::collections::BTreeMap;

use catchment_core::{format_bytes, format_count};

use crate::advise::facts::{Facts, Filtered};

/// A partition smaller than this is not worth a folder, in bytes.
const WORTH: u64 = 128 << 20;

/// Tables smaller than this are read whole as fast as in parts, in bytes.
const SMALL_TABLE: u64 = 16 << 20;

/// Queries below which nothing is concluded from what they filter by.
const ENOUGH_QUERIES: u64 = 10;

/// A column is worth a layout when so many of the queries filter by it, as one in this number.
const ONE_IN: u64 = 4;

/// The most values by which a category splits a table.
const CATEGORY: u64 = 100;

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) finding: &'static str,
    pub(super) because: String,
    pub(super) advice: String,
}

/// What the rules go by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The size that files are joined towards, in bytes.
    pub(super) target_bytes: u64,
}

impl Rules {
    /// All that is to be said about a table, the most pressing first.
    pub(super) fn of(&self, facts: &Facts) -> Vec<Found> {
        let found = [
            self.too_many_partitions(facts),
            self.small_files(facts),
            skewed(facts),
            unused(facts),
            layout(facts),
            statistics(facts),
        ];
        found.into_iter().flatten().collect()
    }

    /// Partitions that hold little each, and what fewer columns would make of them.
    fn too_many_partitions(&self, facts: &Facts) -> Option<Found> {
        let (count, bytes) = (facts.partitions.len() as u64, total(facts));
        if count < 20 || bytes / count >= WORTH / 8 {
            return None;
        }
        let because =
            format!("{} partitions of {} on average", format_count(count), format_bytes(bytes / count));
        // Columns stand from coarse to fine.
        let fewer = (1..facts.partition_columns.len()).rev().map(|kept| {
            let (kept, left_out) = facts.partition_columns.split_at(kept);
            (parts(facts, kept), kept, left_out)
        });
        let advice = match fewer.into_iter().find(|(left, ..)| bytes / left >= WORTH / 8) {
            Some((left, kept, left_out)) => format!(
                "leave {0} out: PARTITIONED BY ({1}) CLUSTER BY ({0}) has {2} partitions of {3}",
                left_out.join(", "),
                kept.join(", "),
                format_count(left),
                format_bytes(bytes / left)
            ),
            None => format!("do not split it: CLUSTER BY ({})", facts.partition_columns.join(", ")),
        };
        Some(Found { finding: "too many partitions", because, advice })
    }

    /// Files that can be joined.
    fn small_files(&self, facts: &Facts) -> Option<Found> {
        let files: u64 = facts.partitions.values().map(|files| files.len() as u64).sum();
        let least: u64 = facts
            .partitions
            .values()
            .map(|files| files.iter().sum::<u64>().div_ceil(self.target_bytes.max(1)).max(1))
            .sum();
        if files < 10 || least * 2 > files {
            return None;
        }
        Some(Found {
            finding: "small files",
            because: format!(
                "{} files of {} on average, {} would do",
                format_count(files),
                format_bytes(total(facts) / files),
                format_count(least)
            ),
            advice: format!("OPTIMIZE {}", facts.table),
        })
    }
}

/// A partition that holds far more than the others.
fn skewed(facts: &Facts) -> Option<Found> {
    let mut sizes: Vec<(u64, String)> = facts
        .partitions
        .iter()
        .map(|(values, files)| {
            let name = values
                .iter()
                .map(|(column, value)| format!("{column}={}", value.as_deref().unwrap_or("null")));
            (files.iter().sum(), name.collect::<Vec<_>>().join("/"))
        })
        .collect();
    if sizes.len() < 4 {
        return None;
    }
    sizes.sort();
    let median = sizes[sizes.len() / 2].0.max(1);
    let (largest, name) = sizes.pop()?;
    if largest < 10 * median || largest < WORTH {
        return None;
    }
    Some(Found {
        finding: "skewed partitions",
        because: format!("{name} has {}, the median {}", format_bytes(largest), format_bytes(median)),
        advice: "split by another column besides, or sort by one with CLUSTER BY".to_owned(),
    })
}

/// Partition columns that no query filters by.
fn unused(facts: &Facts) -> Option<Found> {
    if facts.queries < ENOUGH_QUERIES {
        return None;
    }
    let unused: Vec<&str> = facts
        .partition_columns
        .iter()
        .filter(|column| !facts.filters.contains_key(*column))
        .map(String::as_str)
        .collect();
    (!unused.is_empty()).then(|| Found {
        finding: "unused partition columns",
        because: format!(
            "none of {} recorded queries filters by {}",
            format_count(facts.queries),
            unused.join(" or ")
        ),
        advice: format!("leave {} out of PARTITIONED BY", unused.join(", ")),
    })
}

/// The layout that serves the filters best: the decision tree.
fn layout(facts: &Facts) -> Option<Found> {
    let bytes = total(facts);
    if facts.queries < ENOUGH_QUERIES || bytes < SMALL_TABLE {
        return None;
    }
    let serves = |column: &String| {
        facts.partition_columns.contains(column) || facts.cluster_columns.first() == Some(column)
    };
    let mut frequent: Vec<(&String, &Filtered)> = facts
        .filters
        .iter()
        .filter(|(column, filtered)| filtered.queries * ONE_IN >= facts.queries && !serves(column))
        .collect();
    frequent.sort_by_key(|(column, filtered)| (std::cmp::Reverse(filtered.queries), (*column).clone()));
    let (first, _) = frequent.first()?;
    let because = frequent
        .iter()
        .map(|(column, filtered)| {
            format!(
                "{} of {} queries filter by {column}",
                format_count(filtered.queries),
                format_count(facts.queries)
            )
        })
        .collect::<Vec<_>>()
        .join(", ");
    let (mut split, mut sorted, mut parts) = (Vec::new(), Vec::new(), facts.partitions.len().max(1) as u64);
    for (column, filtered) in &frequent {
        let splits = filtered.is_time || filtered.values <= CATEGORY;
        let more = parts.saturating_mul(filtered.values.max(1));
        // A time column that is no date needs a column of its own to split by.
        if splits && filtered.values > 1 && bytes / more >= WORTH {
            parts = more;
            split.push(if filtered.is_time { format!("the day of {column}") } else { (*column).clone() });
        } else {
            sorted.push((*column).clone());
        }
    }
    let mut advice = Vec::new();
    if !split.is_empty() {
        advice.push(format!("PARTITIONED BY {}", split.join(" and ")));
    }
    match sorted.as_slice() {
        [] => {}
        [one] => advice.push(format!("CLUSTER BY ({one})")),
        several => advice.push(format!("OPTIMIZE {} ZORDER BY ({})", facts.table, several.join(", "))),
    }
    let finding = if facts.partition_columns.contains(first) { "layout" } else { "filters that read much" };
    Some(Found { finding, because, advice: advice.join("; ") })
}

/// Columns that filters use and files tell nothing of.
fn statistics(facts: &Facts) -> Option<Found> {
    if facts.without_statistics.is_empty() {
        return None;
    }
    let names: Vec<&str> = facts.without_statistics.iter().map(String::as_str).collect();
    let mut chosen: Vec<&str> = facts.filters.keys().map(String::as_str).collect();
    chosen.retain(|column| !facts.partition_columns.iter().any(|known| known == column));
    Some(Found {
        finding: "no statistics",
        because: format!("queries filter by {}, of which files tell nothing", names.join(", ")),
        advice: format!("TBLPROPERTIES ('delta.dataSkippingStatsColumns' = '{}')", chosen.join(",")),
    })
}

fn total(facts: &Facts) -> u64 {
    facts.partitions.values().flatten().sum()
}

/// The partitions that some of the columns would make.
fn parts(facts: &Facts, columns: &[String]) -> u64 {
    let kept = |values: &Vec<(String, Option<String>)>| -> Vec<(String, Option<String>)> {
        values.iter().filter(|(column, _)| columns.contains(column)).cloned().collect()
    };
    let made: BTreeMap<_, ()> = facts.partitions.keys().map(|values| (kept(values), ())).collect();
    made.len() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Facts, Filtered, Rules};

    const MB: u64 = 1 << 20;

    /// A table with partitions by day and hour, each of so many files of a size.
    fn table(days: u64, hours: u64, files: usize, size: u64) -> Facts {
        let mut partitions = BTreeMap::new();
        for day in 0..days {
            for hour in 0..hours.max(1) {
                let mut values = vec![("day".to_owned(), Some(day.to_string()))];
                if hours > 0 {
                    values.push(("hour".to_owned(), Some(hour.to_string())));
                }
                partitions.insert(values, vec![size; files]);
            }
        }
        let columns: &[&str] = if hours > 0 { &["day", "hour"] } else { &["day"] };
        Facts {
            table: "t.e".to_owned(),
            partitions,
            partition_columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            ..Facts::default()
        }
    }

    fn plain(bytes: u64) -> Facts {
        Facts {
            table: "t.e".to_owned(),
            partitions: BTreeMap::from([(Vec::new(), vec![bytes])]),
            ..Facts::default()
        }
    }

    fn asked(mut facts: Facts, queries: u64, filters: &[(&str, u64, bool, u64)]) -> Facts {
        facts.queries = queries;
        for (column, queries, is_time, values) in filters {
            let filtered = Filtered { queries: *queries, is_time: *is_time, values: *values };
            facts.filters.insert((*column).to_owned(), filtered);
        }
        facts
    }

    fn advice(facts: &Facts) -> Vec<String> {
        let rules = Rules { target_bytes: 128 * MB };
        rules.of(facts).into_iter().map(|found| format!("{}: {}", found.finding, found.advice)).collect()
    }

    #[test]
    fn partitions_that_are_too_fine_lose_their_finest_column() {
        let found = advice(&table(30, 24, 1, 6 * MB));
        assert_eq!(
            found,
            [
                "too many partitions: leave hour out: PARTITIONED BY (day) CLUSTER BY (hour) has 30 partitions of 144.0 MB"
            ]
        );
        assert_eq!(advice(&table(30, 0, 1, MB)), ["too many partitions: do not split it: CLUSTER BY (day)"]);
        assert_eq!(advice(&table(30, 0, 1, 200 * MB)), [] as [&str; 0]);
    }

    #[test]
    fn files_that_can_be_joined_are_told() {
        assert_eq!(advice(&table(2, 0, 10, 16 * MB)), ["small files: OPTIMIZE t.e"]);
        assert_eq!(advice(&table(2, 0, 10, 100 * MB)), [] as [&str; 0]);
    }

    #[test]
    fn the_decision_tree_splits_by_what_is_coarse_and_sorts_by_the_rest() {
        let time = |bytes| asked(plain(bytes), 20, &[("at", 20, true, 30)]);
        assert_eq!(advice(&time(30 * 200 * MB)), ["filters that read much: PARTITIONED BY the day of at"]);
        assert_eq!(advice(&time(30 * 20 * MB)), ["filters that read much: CLUSTER BY (at)"]);
        let both = asked(
            plain(300 * 200 * MB),
            20,
            &[("at", 20, true, 30), ("region", 10, false, 10), ("user", 6, false, 1_000_000)],
        );
        assert_eq!(
            advice(&both),
            ["filters that read much: PARTITIONED BY the day of at and region; CLUSTER BY (user)"]
        );
        let keys = asked(plain(1_000 * MB), 20, &[("user", 12, false, 1_000_000), ("page", 8, false, 5_000)]);
        assert_eq!(advice(&keys), ["filters that read much: OPTIMIZE t.e ZORDER BY (user, page)"]);
        // Rarely asked for, small, or served already.
        assert_eq!(advice(&asked(plain(1_000 * MB), 20, &[("user", 4, false, 9)])), [] as [&str; 0]);
        assert_eq!(advice(&asked(plain(MB), 20, &[("user", 20, false, 9)])), [] as [&str; 0]);
        let served = Facts {
            cluster_columns: vec!["user".to_owned()],
            ..asked(plain(1_000 * MB), 20, &[("user", 20, false, 9)])
        };
        assert_eq!(advice(&served), [] as [&str; 0]);
    }

    #[test]
    fn partition_columns_that_nobody_asks_for_and_skew_are_told() {
        let unused = asked(table(30, 2, 1, 200 * MB), 12, &[("day", 12, true, 30)]);
        assert_eq!(advice(&unused), ["unused partition columns: leave hour out of PARTITIONED BY"]);
        let mut skewed = table(5, 0, 1, 20 * MB);
        skewed.partitions.insert(vec![("day".to_owned(), None)], vec![100 * MB; 4]);
        assert_eq!(
            advice(&skewed),
            ["skewed partitions: split by another column besides, or sort by one with CLUSTER BY"]
        );
    }

    #[test]
    fn filters_on_columns_without_statistics_are_told() {
        let mut facts = asked(plain(MB), 1, &[("late", 1, false, 9), ("user", 1, false, 9)]);
        facts.without_statistics = BTreeSet::from(["late".to_owned()]);
        assert_eq!(
            advice(&facts),
            ["no statistics: TBLPROPERTIES ('delta.dataSkippingStatsColumns' = 'late,user')"]
        );
    }
}
