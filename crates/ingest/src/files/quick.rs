//! Reads the JSON lines that machines write, without a general parser: columns in the order of the
//! schema, no escapes, plain numbers and times.
//!
//! A line that is anything else is declined, and read by `serde_json`. So this may only ever say what
//! that would say, which a property test holds it to.

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use crate::files::cells::Fitted;

/// The largest whole number below which every whole number is a double.
const EXACT: u64 = 1 << 53;

/// Powers of ten that a double holds exactly.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Reads lines into values of a schema's columns, or declines.
pub(crate) struct QuickReader {
    columns: Vec<QuickColumn>,
}

struct QuickColumn {
    /// The name and the quotation mark behind it.
    name: Vec<u8>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// A whole number in this range.
    Integer(i64, i64),
    Float,
    Boolean,
    Date,
    Timestamp,
    /// A type that this reader declines.
    Other,
}

impl QuickReader {
    pub(crate) fn new(schema: &Schema) -> Self {
        Self { columns: schema.fields().iter().map(|field| QuickColumn::new(field)).collect() }
    }

    /// Reads one line. When this returns false, the line was declined and `values` holds nothing of use.
    pub(crate) fn read<'a>(&self, line: &'a str, values: &mut Vec<Fitted<'a>>) -> bool {
        self.try_read(line, values).is_some()
    }

    fn try_read<'a>(&self, line: &'a str, values: &mut Vec<Fitted<'a>>) -> Option<()> {
        let mut cursor = Cursor { text: line, at: 0 };
        cursor.space();
        cursor.expect(b'{')?;
        cursor.space();
        if !cursor.take(b'}') {
            loop {
                cursor.expect(b'"')?;
                // Columns that the line leaves out are null.
                loop {
                    let column = self.columns.get(values.len())?;
                    if cursor.rest().starts_with(&column.name) {
                        cursor.at += column.name.len();
                        cursor.space();
                        cursor.expect(b':')?;
                        cursor.space();
                        values.push(cursor.value(column.kind)?);
                        break;
                    }
                    values.push(Fitted::Null);
                }
                cursor.space();
                if cursor.take(b'}') {
                    break;
                }
                cursor.expect(b',')?;
                cursor.space();
            }
        }
        cursor.space();
        if !cursor.rest().is_empty() {
            return None;
        }
        values.resize_with(self.columns.len(), || Fitted::Null);
        Some(())
    }
}

impl QuickColumn {
    fn new(field: &Field) -> Self {
        let mut kind = match field.data_type() {
            DataType::Utf8 => Kind::Text,
            DataType::Int8 => Kind::Integer(i8::MIN.into(), i8::MAX.into()),
            DataType::Int16 => Kind::Integer(i16::MIN.into(), i16::MAX.into()),
            DataType::Int32 => Kind::Integer(i32::MIN.into(), i32::MAX.into()),
            DataType::Int64 => Kind::Integer(i64::MIN, i64::MAX),
            DataType::Float32 | DataType::Float64 => Kind::Float,
            DataType::Boolean => Kind::Boolean,
            DataType::Date32 => Kind::Date,
            DataType::Timestamp(TimeUnit::Microsecond, _) => Kind::Timestamp,
            _ => Kind::Other,
        };
        if field.name().bytes().any(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
            kind = Kind::Other;
        }
        Self { name: format!("{}\"", field.name()).into_bytes(), kind }
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &[u8]) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn value(&mut self, kind: Kind) -> Option<Fitted<'a>> {
        if self.peek() == Some(b'n') {
            return self.word(b"null").then_some(Fitted::Null);
        }
        match kind {
            Kind::Text => self.string().map(|text| Fitted::Text(text.into())),
            Kind::Integer(least, most) => {
                let (negative, digits) = self.whole()?;
                if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
                    return None;
                }
                let value = i64::try_from(digits).ok()?;
                let value = if negative { -value } else { value };
                (least..=most).contains(&value).then_some(Fitted::Integer(value))
            }
            Kind::Float => self.float().map(Fitted::Float),
            Kind::Boolean if self.word(b"true") => Some(Fitted::Boolean(true)),
            Kind::Boolean if self.word(b"false") => Some(Fitted::Boolean(false)),
            Kind::Date => quick_date(self.string()?.as_bytes()).map(|days| Fitted::Integer(days.into())),
            Kind::Timestamp => quick_timestamp(self.string()?.as_bytes()).map(Fitted::Integer),
            Kind::Boolean | Kind::Other => None,
        }
    }

    /// A string without escapes.
    fn string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let begin = self.at;
        let end = begin + plain_length(self.rest());
        self.at = end;
        self.expect(b'"')?;
        // Both ends are at ASCII bytes.
        self.text.get(begin..end)
    }

    /// The digits of a whole number that fits 18 digits.
    fn whole(&mut self) -> Option<(bool, u64)> {
        let negative = self.take(b'-');
        let begin = self.at;
        let mut value = 0_u64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        let length = self.at - begin;
        let leading_zero = length > 1 && self.text.as_bytes()[begin] == b'0';
        (1..=18).contains(&length).then_some(())?;
        (!leading_zero).then_some((negative, value))
    }

    /// A number whose digits and power of ten a double holds exactly, so that one division rounds it right.
    fn float(&mut self) -> Option<f64> {
        let (negative, mut digits) = self.whole()?;
        let mut decimals = 0;
        if self.take(b'.') {
            while let Some(digit @ b'0'..=b'9') = self.peek() {
                digits = digits.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
                decimals += 1;
                self.at += 1;
            }
            if decimals == 0 {
                return None;
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) || digits >= EXACT {
            return None;
        }
        let value = digits as f64 / TENS.get(decimals)?;
        Some(if negative { -value } else { value })
    }
}

/// The number of bytes before a quotation mark, a backslash or a control character.
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let mut at = 0;
    // Eight bytes at a time ("Bit Twiddling Hacks", determine if a word has a byte less than n).
    while let Some(Ok(word)) = bytes.get(at..at + 8).map(<[u8; 8]>::try_from) {
        let word = u64::from_le_bytes(word);
        let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let found = control | zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let tail = &bytes[at..];
    at + tail.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(tail.len())
}

/// Days since 1970-01-01 of `YYYY-MM-DD`.
pub(crate) fn quick_date(text: &[u8]) -> Option<i32> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = i32::from(two(*y1, *y2)?) * 100 + i32::from(two(*y3, *y4)?);
    let (month, day) = (two(*m1, *m2)?, two(*d1, *d2)?);
    days(year, month, day)
}

/// Microseconds since 1970 of `YYYY-MM-DDTHH:MM:SS[.f]`, UTC, with `Z` or nothing behind it.
pub(crate) fn quick_timestamp(text: &[u8]) -> Option<i64> {
    let (date, time) = text.split_at_checked(10)?;
    let days = quick_date(date)?;
    let time = time.strip_suffix(b"Z").unwrap_or(time);
    let (clock, fraction) = time.split_at_checked(9)?;
    let [b'T' | b' ', h1, h2, b':', m1, m2, b':', s1, s2] = clock else { return None };
    let (hour, minute, second) = (two(*h1, *h2)?, two(*m1, *m2)?, two(*s1, *s2)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => {
            let mut micros = 0_i64;
            for place in 0..6 {
                let digit = digits.get(place).copied().unwrap_or(b'0');
                micros = micros * 10 + i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
            }
            micros
        }
        _ => return None,
    };
    let seconds =
        ((i64::from(days) * 24 + i64::from(hour)) * 60 + i64::from(minute)) * 60 + i64::from(second);
    Some(seconds * 1_000_000 + micros)
}

fn two(tens: u8, ones: u8) -> Option<u8> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| (tens - b'0') * 10 + (ones - b'0'))
}

/// Days since 1970-01-01 in the Gregorian calendar ("chrono-Compatible Low-Level Date Algorithms", days_from_civil).
fn days(year: i32, month: u8, day: u8) -> Option<i32> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + u8::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year == 0 || day == 0 || day > last {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((i32::from(month) + 9) % 12) + 2) / 5 + i32::from(day) - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}
