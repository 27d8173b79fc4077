//! Where a flow stands: an epoch and a batch number, as one integer in the Delta log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bits of the batch number below the epoch.
const NUMBER_BITS: u32 = 40;

/// The position of a batch: flows count batches from 0 within an epoch; a rollback or a full
/// refresh opens the next epoch.
///
/// Positions order first by epoch, then by number, and so do their integers.
///
/// ```
/// use catchment_core::Position;
/// let position = Position::new(2, 7);
/// assert_eq!(position.to_version(), (2 << 40) | 7);
/// assert_eq!(Position::from_version(position.to_version()), Some(position));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Counts rollbacks and full refreshes of the flow, from 0.
    pub epoch: u32,
    /// Counts the batches of the epoch, from 0.
    pub number: u64,
}

impl Position {
    /// Makes a position; numbers count up to 2^40.
    #[must_use]
    pub fn new(epoch: u32, number: u64) -> Self {
        Self { epoch, number }
    }

    /// The `version` of the Delta `txn` action that stands for this position.
    #[must_use]
    pub fn to_version(self) -> i64 {
        (i64::from(self.epoch) << NUMBER_BITS) | (self.number as i64)
    }

    /// Reads a `txn` version; `None` when it is negative or its epoch is out of range.
    #[must_use]
    pub fn from_version(version: i64) -> Option<Self> {
        let epoch = u32::try_from(version >> NUMBER_BITS).ok()?;
        let number = u64::try_from(version & ((1 << NUMBER_BITS) - 1)).ok()?;
        Some(Self { epoch, number })
    }

    /// The next batch of the same epoch.
    #[must_use]
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl std::str::FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (epoch, number) = text.split_once('-').ok_or(())?;
        Ok(Self { epoch: epoch.parse().map_err(|_| ())?, number: number.parse().map_err(|_| ())? })
    }
}

#[cfg(test)]
mod tests {
    use super::Position;

    #[test]
    fn positions_order_like_their_integers() {
        let ordered = [Position::new(0, 0), Position::new(0, 9), Position::new(1, 0), Position::new(3, 5)];
        assert!(
            ordered.windows(2).all(|pair| pair[0] < pair[1] && pair[0].to_version() < pair[1].to_version())
        );
    }

    #[test]
    fn a_negative_version_is_no_position() {
        assert_eq!(Position::from_version(-1), None);
    }

    #[test]
    fn text_goes_there_and_back() {
        assert_eq!("4-12".parse(), Ok(Position::new(4, 12)));
        assert_eq!("4".parse::<Position>(), Err(()));
    }
}
