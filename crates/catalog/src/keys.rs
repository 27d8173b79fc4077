//! Access keys of programs, and the key under which their secrets are kept.
//!
//! A signature can be checked only by who knows the secret, so secrets are not hashed but sealed: AES-256-GCM, with the
//! key's id as what it belongs to. The master key comes from the environment, or lies in a file that only its owner reads.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use catchment_core::{Code, Error, Result};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// An access key with its sealed secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// What a program tells: 20 capitals and digits.
    pub id: String,
    /// The secret, sealed.
    pub sealed: Vec<u8>,
    /// When it was made, in microseconds since the Unix epoch.
    pub created_at: i64,
    /// What it is for, in somebody's words.
    pub note: String,
}

/// The key under which secrets are sealed.
pub struct MasterKey(LessSafeKey);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

impl MasterKey {
    /// Reads a master key of 64 hexadecimal digits.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] when it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let wrong = || {
            Error::new(Code::CONFIG_INVALID, "the master key is not 64 hexadecimal digits")
                .hint("make one with: openssl rand -hex 32")
        };
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        let bytes: Option<Vec<u8>> =
            (0..64).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect();
        let key = UnboundKey::new(&AES_256_GCM, &bytes.ok_or_else(wrong)?).map_err(|_| wrong())?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Reads the master key in a file, which is made if it is not there.
    ///
    /// # Errors
    /// Returns [`Code::CATALOG`] when it cannot be read or made.
    pub fn in_file(path: &Path) -> Result<Self> {
        let failed =
            |error: std::io::Error| Error::new(Code::CATALOG, format!("master key {path:?}")).because(error);
        if !path.exists() {
            let text = random_text(64, b"0123456789abcdef")?;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(failed)?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Self::parse(&std::fs::read_to_string(path).map_err(failed)?)
    }

    /// Makes an access key, and tells its secret: the only time that anybody is told.
    ///
    /// # Errors
    /// Returns [`Code::INTERNAL`] when the machine gives no random numbers.
    pub fn make(&self, note: &str, now_micros: i64) -> Result<(AccessKey, String)> {
        const CAPITALS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        const ANY: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let id = format!("CTKA{}", random_text(16, CAPITALS)?);
        let secret = random_text(40, ANY)?;
        let mut sealed = [0; NONCE_LEN].to_vec();
        SystemRandom::new().fill(&mut sealed).map_err(|_| no_chance())?;
        let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| no_chance())?;
        let mut bytes = secret.clone().into_bytes();
        self.0
            .seal_in_place_append_tag(nonce, Aad::from(id.as_bytes()), &mut bytes)
            .map_err(|_| no_chance())?;
        sealed.extend(bytes);
        Ok((AccessKey { id, sealed, created_at: now_micros, note: note.to_owned() }, secret))
    }

    /// The secret of an access key; `None` when it was sealed under another master key.
    #[must_use]
    pub fn open(&self, key: &AccessKey) -> Option<Vec<u8>> {
        let (nonce, sealed) = key.sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = sealed.to_vec();
        self.0
            .open_in_place(nonce, Aad::from(key.id.as_bytes()), &mut bytes)
            .ok()
            .map(|secret| secret.to_vec())
    }
}

/// Letters chosen by chance. The number of letters to choose from divides 256.
fn random_text(length: usize, letters: &[u8]) -> Result<String> {
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes).map_err(|_| no_chance())?;
    Ok(bytes.iter().map(|byte| char::from(letters[usize::from(*byte) % letters.len()])).collect())
}

fn no_chance() -> Error {
    Error::new(Code::INTERNAL, "the machine gives no random numbers")
}

#[cfg(test)]
mod tests {
    use super::MasterKey;

    #[test]
    fn a_secret_is_opened_with_the_key_it_was_sealed_under() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let (key, secret) = MasterKey::in_file(&path).unwrap().make("a test", 7).unwrap();
        assert_eq!((key.id.len(), secret.len(), key.created_at), (20, 40, 7));
        assert_eq!(MasterKey::in_file(&path).unwrap().open(&key), Some(secret.clone().into_bytes()));
        assert!(!key.sealed.windows(8).any(|part| part == &secret.as_bytes()[..8]));
        let other = MasterKey::parse(&"07".repeat(32)).unwrap();
        assert_eq!(other.open(&key), None);
        // A sealed secret belongs to its id.
        let stolen = super::AccessKey { id: "CTKAOTHER".into(), ..key };
        assert_eq!(MasterKey::in_file(&path).unwrap().open(&stolen), None);
        for wrong in ["", "07", &"zz".repeat(32), &"é".repeat(32)] {
            assert!(MasterKey::parse(wrong).is_err());
        }
    }
}
