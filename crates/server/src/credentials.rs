//! Where the secrets of access keys are asked for.

/// Knows access keys.
pub trait Credentials: Send + Sync {
    /// The secret of an access key, `None` for one that there is not.
    fn secret(&self, access_key: &str) -> Option<Vec<u8>>;
}
