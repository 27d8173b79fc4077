//! Scales of charts: which numbers and times stand at an axis, and how they are written.

use catchment_core::timestamp_text;

/// Steps of time that people read well, in microseconds.
const STEPS: [i64; 19] = [
    1_000_000,
    5_000_000,
    15_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    1_800_000_000,
    3_600_000_000,
    10_800_000_000,
    21_600_000_000,
    43_200_000_000,
    DAY,
    2 * DAY,
    7 * DAY,
    30 * DAY,
    91 * DAY,
    365 * DAY,
    3_650 * DAY,
];

const DAY: i64 = 86_400_000_000;

/// Round numbers from below `low` to above `high`, about `count` of them; the first and last bound the axis.
pub(crate) fn number_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let span = if high > low { high - low } else { high.abs().max(1.0) };
    let rough = span / count.max(1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step).floor(), (low.max(high) / step).ceil().max((low / step).floor() + 1.0));
    // Whoever asks for few gets few; more would be numbers that are no more different.
    let steps = ((last - first) as usize).min(100);
    (0..=steps).map(|index| (first + index as f64) * step).collect()
}

/// Round times within `low` and `high`, at most `count` of them; `low` where there is none.
pub(crate) fn time_ticks(low: i64, high: i64, count: usize) -> Vec<i64> {
    let span = high.saturating_sub(low);
    let fits = |step: &&i64| span / **step < i64::try_from(count).unwrap_or(i64::MAX);
    let step = STEPS.iter().find(fits).copied().unwrap_or(span.max(1));
    let below = low.div_euclid(step).saturating_mul(step);
    let first = if low.rem_euclid(step) == 0 { low } else { below.saturating_add(step) };
    let ticks: Vec<i64> = (0..=count as i64)
        .map(|index| first.saturating_add(index.saturating_mul(step)))
        .take_while(|time| *time <= high)
        .collect();
    if ticks.is_empty() { vec![low] } else { ticks }
}

/// A time at an axis that spans `span` microseconds: as little of it as tells it apart.
pub(crate) fn short_time(micros: i64, span: i64) -> String {
    let text = timestamp_text(micros);
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or(&text).to_owned();
    match span {
        span if span <= 300_000_000 => part(11, 19),
        span if span <= 2 * DAY => part(11, 16),
        span if span <= 365 * DAY => part(5, 10),
        _ => part(0, 10),
    }
}

/// A number as people read it: thousands apart, no more digits than say something.
pub(crate) fn number_text(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    if value.abs() >= 1e15 || value != 0.0 && value.abs() < 1e-4 {
        return format!("{value:.2e}");
    }
    if value.fract() == 0.0 {
        return grouped(&(value as i64).to_string());
    }
    let digits = match value.abs() {
        size if size >= 1000.0 => 1,
        size if size >= 1.0 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    grouped(text)
}

/// A number as text, with its thousands apart; what is none is as it was.
pub(crate) fn grouped(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, rest) = digits.split_once('.').map_or((digits, None), |(whole, rest)| (whole, Some(rest)));
    if whole.is_empty() || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.to_owned();
    }
    let mut grouped = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(rest) = rest {
        grouped.push('.');
        grouped.push_str(rest);
    }
    grouped
}
