//! The line of versions that a table's newest one stands on.
//!
//! A restore brings back an older version, and so undoes those in between. They stay in the log, but what
//! they added is not in the table. Each restore keeps the line in a property of the table, so that readers
//! of added rows need not look for restores in the log.

use std::fmt;

/// The property of a table that holds what was undone, as `after-upto` pairs.
pub(crate) const UNDONE: &str = "catchment.undone";

/// The versions of a table, without those that restores undid.
///
/// ```
/// use catchment_lake::Line;
/// // Version 6 is a restore of version 3, which was the newest but two.
/// let line = Line::at(3).restored_by(6);
/// assert!(line.holds(3) && !line.holds(4) && line.holds(6) && line.is_restore(6));
/// assert_eq!(line.previous(6), Some(3));
/// assert_eq!(line.next(2), Some(3));
/// assert_eq!(line.next(3), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    tip: u64,
    /// Versions above the first and below the second of each pair are undone; the second is the restore.
    /// The pairs are in order and do not overlap.
    undone: Vec<(u64, u64)>,
}

impl Line {
    /// The line of a table that was never restored.
    #[must_use]
    pub fn at(tip: u64) -> Self {
        Self { tip, undone: Vec::new() }
    }

    /// Reads what was undone; pairs that are none count as none.
    pub(crate) fn parse(tip: u64, undone: &str) -> Self {
        let pair = |text: &str| {
            let (after, upto) = text.split_once('-')?;
            Some((after.parse().ok()?, upto.parse().ok()?))
        };
        Self { tip, undone: undone.split(',').filter_map(pair).collect() }
    }

    /// The line of the version that restores this line's tip.
    #[must_use]
    pub fn restored_by(mut self, version: u64) -> Self {
        self.undone.push((self.tip, version));
        Self { tip: version, undone: self.undone }
    }

    /// The newest version.
    #[must_use]
    pub fn tip(&self) -> u64 {
        self.tip
    }

    /// Whether a version is part of the line.
    #[must_use]
    pub fn holds(&self, version: u64) -> bool {
        version <= self.tip && !self.undone.iter().any(|(after, upto)| *after < version && version < *upto)
    }

    /// Whether a version is a restore: it has the rows of an older one.
    #[must_use]
    pub fn is_restore(&self, version: u64) -> bool {
        self.undone.iter().any(|(_, upto)| *upto == version)
    }

    /// The version after one of the line that is no restore.
    #[must_use]
    pub fn next(&self, version: u64) -> Option<u64> {
        // A restore of a restore begins where that one ends.
        let mut last = version;
        while let Some((_, upto)) = self.undone.iter().find(|(after, _)| *after == last) {
            last = *upto;
        }
        (last < self.tip).then_some(last + 1)
    }

    /// The version before one of the line; before a restore that is the version which it brought back.
    #[must_use]
    pub fn previous(&self, version: u64) -> Option<u64> {
        match self.undone.iter().find(|(_, upto)| *upto == version) {
            Some((after, _)) => Some(*after),
            None => version.checked_sub(1),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.undone.iter().map(|(after, upto)| format!("{after}-{upto}")).collect();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    proptest::proptest! {
        /// Whatever is restored, the line is the chain from each version to the one that it stands on.
        #[test]
        fn a_line_is_what_its_versions_stand_on(moves in proptest::collection::vec(proptest::option::of(0_usize..40), 1..40)) {
            let mut lines = vec![Line::at(0)];
            // What each version stands on, and whether it is a restore.
            let mut before: Vec<(Option<u64>, bool)> = vec![(None, false)];
            for choice in moves {
                let tip = lines.len() as u64;
                match choice.map(|choice| choice % lines.len()) {
                    None => {
                        let line = lines.last().map_or(Line::at(0), Clone::clone);
                        lines.push(Line::parse(tip, &line.to_string()));
                        before.push((Some(tip - 1), false));
                    }
                    Some(version) => {
                        lines.push(lines[version].clone().restored_by(tip));
                        before.push((Some(version as u64), true));
                    }
                }
            }
            for line in &lines {
                proptest::prop_assert_eq!(&Line::parse(line.tip(), &line.to_string()), line);
                let mut chain = vec![line.tip()];
                while let Some(version) = before[chain[chain.len() - 1] as usize].0 {
                    chain.push(version);
                }
                for version in 0..lines.len() as u64 {
                    proptest::prop_assert_eq!(line.holds(version), chain.contains(&version), "{:?} {}", line, version);
                }
                let mut newer = None;
                for version in chain {
                    let (stands_on, is_restore) = before[version as usize];
                    proptest::prop_assert_eq!(line.previous(version), stands_on);
                    proptest::prop_assert_eq!(line.is_restore(version), is_restore);
                    proptest::prop_assert_eq!(line.next(version), newer);
                    newer = if is_restore { newer } else { Some(version) };
                }
            }
        }
    }
}
