//! x
pub(crate) const PAGES: &[(&str, &str)] = &[];
