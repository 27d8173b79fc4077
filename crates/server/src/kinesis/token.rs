//! Shard iterators and next tokens: where to go on, in a text that clients hand back.
//!
//! Base64 of a version, the time of making, when the stream was made, the shard, the ordinal, the stream's name and a
//! checksum. They say nothing that their holder was not told, and give no right.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use catchment_log::ShardId;

/// How long a token is good, in milliseconds.
pub(super) const LIFE: i64 = 300_000;

const VERSION: u8 = 1;

/// A place in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// When it was made, in milliseconds since the Unix epoch.
    pub(super) made_at: i64,
    /// The stream's name.
    pub(super) stream: String,
    /// When the stream was made: another one of its name is another stream.
    pub(super) epoch: i64,
    /// The shard.
    pub(super) shard: ShardId,
    /// The ordinal to go on from.
    pub(super) ordinal: u64,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenFault {
    Invalid,
    Expired,
}

impl Token {
    pub(super) fn write(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.made_at.to_le_bytes());
        bytes.extend(self.epoch.to_le_bytes());
        bytes.extend(self.shard.0.to_le_bytes());
        bytes.extend(self.ordinal.to_le_bytes());
        bytes.extend(self.stream.as_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        BASE64_STANDARD.encode(bytes)
    }

    pub(super) fn read(text: &str, now: i64) -> Result<Self, TokenFault> {
        let token = Self::parse(text).ok_or(TokenFault::Invalid)?;
        // A clock that went back makes no token of the past older.
        if now - token.made_at > LIFE { Err(TokenFault::Expired) } else { Ok(token) }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if crc != crc32fast::hash(body).to_le_bytes() || body.first() != Some(&VERSION) {
            return None;
        }
        Some(Self {
            made_at: i64::from_le_bytes(body.get(1..9)?.try_into().ok()?),
            epoch: i64::from_le_bytes(body.get(9..17)?.try_into().ok()?),
            shard: ShardId(u32::from_le_bytes(body.get(17..21)?.try_into().ok()?)),
            ordinal: u64::from_le_bytes(body.get(21..29)?.try_into().ok()?),
            stream: std::str::from_utf8(body.get(29..)?).ok()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use catchment_log::ShardId;
    use proptest::prelude::*;

    use super::{LIFE, Token, TokenFault};

    proptest! {
        #[test]
        fn a_token_comes_back_until_it_expires(ordinal: u64, shard: u32, stream in "[a-zA-Z0-9_.-]{1,128}") {
            let token = Token { made_at: 1_000, stream, epoch: 7, shard: ShardId(shard), ordinal };
            let text = token.write();
            prop_assert!(text.len() <= 512);
            prop_assert_eq!(Token::read(&text, 1_000 + LIFE), Ok(token.clone()));
            prop_assert_eq!(Token::read(&text, 0), Ok(token));
            prop_assert_eq!(Token::read(&text, 1_001 + LIFE), Err(TokenFault::Expired));
        }

        #[test]
        fn other_texts_are_no_tokens(text in ".{0,200}") {
            prop_assert_eq!(Token::read(&text, 0), Err(TokenFault::Invalid));
        }
    }
}
