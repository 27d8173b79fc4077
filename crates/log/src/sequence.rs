//! Sequence numbers: they sort as records came into a shard, and never repeat in a stream.
//!
//! They are built as those of Kinesis are, as far as that is known from kinesalite, so that clients which look into them find what they
//! expect: 47 hexadecimal digits, `2`, 9 for the second in which the shard was made, 1 for the last digit of its number,
//! 16 that count the shard's records, 2 that are zero, 9 for the second of the record, 8 for the number of the shard and `2`
//! for the version; written as a decimal number.

use std::fmt;

use crate::ShardId;

/// The place of a record in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// Seconds since the Unix epoch at which the shard was made.
    pub shard_created: u64,
    /// The shard.
    pub shard: ShardId,
    /// How many records the shard had with it: the first record's is 1.
    pub ordinal: u64,
    /// Seconds since the Unix epoch at which the record arrived.
    pub arrived: u64,
}

/// The highest second that fits, and that Kinesis takes.
const SECONDS: u64 = 16_025_175_000;

impl Sequence {
    /// Reads one; `None` when it is not one of a stream's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty()
            || text.len() > 57
            || text.starts_with('0')
            || !text.bytes().all(|byte| byte.is_ascii_digit())
        {
            return None;
        }
        let digits = hexadecimal(text);
        let digits = digits.strip_prefix('2').filter(|rest| rest.len() == 46)?;
        let field = |from: usize, to: usize| u64::from_str_radix(digits.get(from..to)?, 16).ok();
        let shard = ShardId(u32::try_from(field(37, 45)?).ok()?);
        let sequence =
            Self { shard_created: field(0, 9)?, shard, ordinal: field(10, 26)?, arrived: field(28, 37)? };
        let is_ours = field(45, 46)? == 2
            && field(26, 28)? == 0
            && field(9, 10)? == u64::from(shard.0 & 0xf)
            && sequence.ordinal <= i64::MAX.cast_unsigned()
            && sequence.shard_created < SECONDS
            && sequence.arrived < SECONDS;
        is_ours.then_some(sequence)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The upper 60 bits of the 188 and the lower 128 of them.
        let high = 2 << 56
            | u128::from(self.shard_created) << 20
            | u128::from(self.shard.0 & 0xf) << 16
            | u128::from(self.ordinal >> 48);
        let low = u128::from(self.ordinal & 0xffff_ffff_ffff) << 80
            | u128::from(self.arrived) << 36
            | u128::from(self.shard.0) << 4
            | 2;
        decimal(f, high, low)
    }
}

/// Ten to the 19th, the highest power of ten in 64 bits.
const CHUNK: u128 = 10_000_000_000_000_000_000;

/// Writes `high * 2^128 + low` as a decimal number. `high` is below 2^64.
fn decimal(f: &mut fmt::Formatter<'_>, high: u128, low: u128) -> fmt::Result {
    // Long division of three digits of 64 bits by ten to the 19th, three times.
    let mut digits = [high, low >> 64, low & u128::from(u64::MAX)];
    let mut parts = [0u128; 4];
    for part in &mut parts {
        let mut rest = 0;
        for digit in &mut digits {
            let value = rest << 64 | *digit;
            (*digit, rest) = (value / CHUNK, value % CHUNK);
        }
        *part = rest;
    }
    let text = format!("{:019}{:019}{:019}{:019}", parts[3], parts[2], parts[1], parts[0]);
    let text = text.trim_start_matches('0');
    f.write_str(if text.is_empty() { "0" } else { text })
}

/// A decimal number of at most 57 digits in hexadecimal, without zeros in front.
fn hexadecimal(text: &str) -> String {
    let mut digits = [0u128; 3];
    for byte in text.bytes() {
        let mut carry = u128::from(byte - b'0');
        for digit in digits.iter_mut().rev() {
            let value = *digit * 10 + carry;
            (*digit, carry) = (value & u128::from(u64::MAX), value >> 64);
        }
    }
    let text = format!("{:016x}{:016x}{:016x}", digits[0], digits[1], digits[2]);
    text.trim_start_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Sequence;
    use crate::ShardId;

    #[test]
    fn numbers_look_like_those_of_kinesis() {
        // Numbers of kinesalite's suite, which AWS answered: those that are refused, and the one in between.
        let text = "49039857307708443467467104868809893875799651909875269634";
        let sequence = Sequence::parse(text).unwrap();
        assert_eq!(sequence, Sequence { shard_created: 0, shard: ShardId(0), ordinal: 0, arrived: 0 });
        assert_eq!(sequence.to_string(), text);
        for wrong in [
            "",
            "0",
            "5",
            "049",
            "x",
            "26227199374822427428162556223570313216",
            "49039857307708443467467104868809893875799651909875269632",
            "73559785961562665201200657303214840813699477864812904449",
            "49039857307697293094867839557237917090843713134307311602",
            "49039857307719593840066370180380661734935976090628259842",
            "73559785961551514828601391991642864028743539089244946418",
            &"9".repeat(57),
            &"9".repeat(500),
        ] {
            assert_eq!(Sequence::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn numbers_sort_as_records_came(created in 0u64..16_000_000_000, shard: u32, ordinal in 0u64..i64::MAX as u64, arrived in 0u64..16_000_000_000, more in 1u64..1_000_000) {
            let first = Sequence { shard_created: created, shard: ShardId(shard), ordinal, arrived };
            prop_assert_eq!(Sequence::parse(&first.to_string()), Some(first));
            // A clock that went back does not matter.
            let next = Sequence { ordinal: ordinal.saturating_add(more).min(i64::MAX as u64 + 1), arrived: arrived / 2, ..first };
            let of_child = Sequence { shard_created: created + 1, shard: ShardId(shard.wrapping_add(1)), ordinal: 0, arrived: 0 };
            let as_number = |sequence: Sequence| format!("{:0>60}", sequence.to_string());
            prop_assert!(as_number(first) < as_number(next));
            prop_assert!(as_number(next) < as_number(of_child));
            prop_assert_eq!(first.to_string().len(), 56);
        }
    }
}
