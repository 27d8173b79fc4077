//! Names of machines.

use std::net::IpAddr;

/// Whether a host, as it stands in a URL or in a `Host` header, with or without a port, is this machine's own.
///
/// ```
/// use catchment_core::is_this_machine;
///
/// assert!(is_this_machine("127.0.0.1:4566") && is_this_machine("[::1]") && is_this_machine("localhost"));
/// assert!(!is_this_machine("localhost.example.com"));
/// ```
#[must_use]
pub fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
