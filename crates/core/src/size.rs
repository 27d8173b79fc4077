//! Sizes that people write and read.

/// Reads `512`, `64KB`, `128 MB` or `1GiB` as bytes; units are powers of 1024.
///
/// ```
/// assert_eq!(catchment_core::parse_bytes("64 MB"), Some(64 << 20));
/// assert_eq!(catchment_core::parse_bytes("many"), None);
/// ```
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Writes bytes for a person: `9.3 MB`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KB", "MB", "GB"] {
        if size < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TB")
}

/// Writes a count with thousands apart: `336,776`.
///
/// ```
/// assert_eq!(catchment_core::format_count(336776), "336,776");
/// ```
#[must_use]
pub fn format_count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{format_bytes, format_count, parse_bytes};

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("1GiB"), Some(1 << 30));
        assert_eq!(parse_bytes("7"), Some(7));
        assert_eq!(parse_bytes("99999999999999TB"), None);
        assert_eq!(parse_bytes("-1"), None);
    }

    #[test]
    fn sizes_are_written() {
        assert_eq!([0, 1023, 1024, 9 << 20].map(format_bytes), ["0 B", "1023 B", "1.0 KB", "9.0 MB"]);
        assert_eq!([0, 999, 1000, 1234567].map(format_count), ["0", "999", "1,000", "1,234,567"]);
    }
}
