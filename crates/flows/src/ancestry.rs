//! The batches that a flow's position stands on.
//!
//! A rollback opens a new epoch that goes on from a batch of an older one. What came after that batch in
//! the older epoch was undone: its input counts as not taken.

use catchment_core::{Position, Result};

use crate::records::Records;

/// The last batch of each epoch that a position stands on, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ancestry {
    ends: Vec<Position>,
}

impl Ancestry {
    /// Follows the parents of epochs back from a position.
    pub(crate) async fn of(records: &Records<'_>, position: Position) -> Result<Self> {
        let mut ends = vec![position];
        let mut opening = Position::new(position.epoch, 0);
        // Plans that open an epoch with a parent are kept for good; where there is none, it has none.
        while let Some(parent) = records.kept_plan(opening).await?.and_then(|plan| plan.parent) {
            ends.push(parent);
            opening = Position::new(parent.epoch, 0);
        }
        ends.reverse();
        Ok(Self { ends })
    }

    pub(crate) fn ends(&self) -> Vec<Position> {
        self.ends.clone()
    }

    /// Whether a batch is one that the position stands on.
    pub(crate) fn holds(&self, at: Position) -> bool {
        self.ends.iter().any(|end| end.epoch == at.epoch && at <= *end)
    }
}
