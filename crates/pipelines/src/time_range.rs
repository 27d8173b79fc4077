//! Spans of time as conditions on the partition columns of a table.

use catchment_core::{Code, Error, Result, TableName, parse_time, timestamp_text};
use catchment_lake::TableSpec;
use chrono::{DateTime, Datelike, Days, Months, NaiveDateTime, TimeDelta, Timelike};
use datafusion::arrow::datatypes::DataType;

/// Half-open, from `from` to before `to`, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    from: NaiveDateTime,
    to: NaiveDateTime,
}

/// A length of time that one commit covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Hours.
    Hours(u32),
    /// Days.
    Days(u32),
    /// Calendar months.
    Months(u32),
}

/// The column, or columns, that tell the time of a partition.
enum Clock {
    Date(String),
    Time(String),
    /// Names of columns for year, month, day and hour, as far as there are any.
    Parts(Vec<String>),
}

impl TimeRange {
    /// Reads the bounds: dates or times, UTC unless they have an offset.
    ///
    /// # Errors
    /// Returns [`Code::OPTION_INVALID`] when they are no times or the range is empty.
    pub fn parse(from: &str, to: &str) -> Result<Self> {
        let time = |text: &str| {
            let micros = parse_time(text).and_then(DateTime::from_timestamp_micros);
            micros.map(|time| time.naive_utc()).ok_or_else(|| {
                Error::new(Code::OPTION_INVALID, format!("{text:?} is no time"))
                    .hint("write 2024-01-31 or '2024-01-31 10:00:00'")
            })
        };
        let range = Self { from: time(from)?, to: time(to)? };
        if range.from >= range.to {
            return Err(Error::new(
                Code::OPTION_INVALID,
                format!("there is no time from {from} to before {to}"),
            ));
        }
        Ok(range)
    }

    /// The range cut into steps; the last one may be shorter.
    #[must_use]
    pub fn steps(self, step: Option<Step>) -> Vec<Self> {
        let Some(step) = step else { return vec![self] };
        let mut steps = Vec::new();
        let mut from = self.from;
        // Each end is counted from the beginning, so that months do not lose days on the way.
        for number in 1_u32.. {
            let to =
                step.times(number).and_then(|step| step.after(self.from)).unwrap_or(self.to).min(self.to);
            steps.push(Self { from, to });
            if to >= self.to {
                break;
            }
            from = to;
        }
        steps
    }

    /// The range as a condition on the partition columns of a table.
    ///
    /// # Errors
    /// Returns [`Code::OPTION_INVALID`] when no column tells the time, or the bounds are not those of partitions.
    pub fn condition(self, name: &TableName, table: &TableSpec) -> Result<String> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let whole = |unit: &str, is_whole: &dyn Fn(NaiveDateTime) -> bool| match [self.from, self.to]
            .into_iter()
            .find(|time| !is_whole(*time))
        {
            None => Ok(()),
            Some(time) => Err(Error::new(
                Code::OPTION_INVALID,
                format!("{} is within a partition of \"{name}\": each holds a whole {unit}", text(time)),
            )),
        };
        let is_day = |time: NaiveDateTime| time.num_seconds_from_midnight() == 0 && time.nanosecond() == 0;
        Ok(match Clock::of(name, table)? {
            Clock::Date(column) => {
                whole("day", &is_day)?;
                let column = quoted(&column);
                format!("{column} >= DATE '{}' AND {column} < DATE '{}'", self.from.date(), self.to.date())
            }
            Clock::Time(column) => {
                let column = quoted(&column);
                format!(
                    "{column} >= TIMESTAMP '{}' AND {column} < TIMESTAMP '{}'",
                    text(self.from),
                    text(self.to)
                )
            }
            Clock::Parts(columns) => {
                match columns.len() {
                    1 => whole("year", &|time| is_day(time) && time.ordinal() == 1)?,
                    2 => whole("month", &|time| is_day(time) && time.day() == 1)?,
                    3 => whole("day", &is_day)?,
                    _ => whole("hour", &|time| {
                        time.minute() == 0 && time.second() == 0 && time.nanosecond() == 0
                    })?,
                }
                // One number for all columns, in which times are in order.
                let number = |time: NaiveDateTime| {
                    let parts = [time.year().unsigned_abs(), time.month(), time.day(), time.hour()];
                    parts.iter().take(columns.len()).fold(0_u64, |sum, part| sum * 100 + u64::from(*part))
                };
                let number_of = columns
                    .iter()
                    .map(|column| format!("CAST({} AS BIGINT)", quoted(column)))
                    .reduce(|sum, column| format!("({sum}) * 100 + {column}"))
                    .unwrap_or_default();
                format!("{number_of} >= {} AND {number_of} < {}", number(self.from), number(self.to))
            }
        })
    }
}

impl Step {
    /// Reads `12h`, `7d`, `2w` or `1month`.
    ///
    /// # Errors
    /// Returns [`Code::OPTION_INVALID`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: Option<u32> = number.parse().ok().filter(|number| *number > 0);
        match (number, unit.trim()) {
            (Some(number), "h") => Ok(Step::Hours(number)),
            (Some(number), "d") => Ok(Step::Days(number)),
            (Some(number), "w") => Ok(Step::Days(number.saturating_mul(7))),
            (Some(number), "month" | "months") => Ok(Step::Months(number)),
            _ => Err(Error::new(Code::OPTION_INVALID, format!("{text:?} is no length of time"))
                .hint("write 12h, 7d, 2w or 1month")),
        }
    }

    fn times(self, number: u32) -> Option<Self> {
        Some(match self {
            Step::Hours(hours) => Step::Hours(hours.checked_mul(number)?),
            Step::Days(days) => Step::Days(days.checked_mul(number)?),
            Step::Months(months) => Step::Months(months.checked_mul(number)?),
        })
    }

    fn after(self, time: NaiveDateTime) -> Option<NaiveDateTime> {
        match self {
            Step::Hours(hours) => time.checked_add_signed(TimeDelta::hours(hours.into())),
            Step::Days(days) => time.checked_add_days(Days::new(days.into())),
            Step::Months(months) => time.checked_add_months(Months::new(months)),
        }
    }
}

impl Clock {
    fn of(name: &TableName, table: &TableSpec) -> Result<Self> {
        let mut clocks = Vec::new();
        for column in &table.partition_columns {
            match table.schema.field_with_name(column).map(|field| field.data_type().clone()) {
                Ok(DataType::Date32) => clocks.push(Clock::Date(column.clone())),
                Ok(DataType::Timestamp(..)) => clocks.push(Clock::Time(column.clone())),
                _ => {}
            }
        }
        let named = |wanted: &str| {
            table.partition_columns.iter().find(|column| column.eq_ignore_ascii_case(wanted)).cloned()
        };
        let parts: Vec<String> = ["year", "month", "day", "hour"].into_iter().map_while(named).collect();
        match (clocks.pop(), clocks.is_empty(), parts.is_empty()) {
            (Some(clock), true, _) => Ok(clock),
            (None, _, false) => Ok(Clock::Parts(parts)),
            (found, ..) => {
                let columns = table.partition_columns.join(", ");
                let why = match (table.partition_columns.is_empty(), found.is_some()) {
                    (true, _) => format!("\"{name}\" has no partitions"),
                    (_, true) => {
                        format!("several of the partition columns of \"{name}\" tell the time: {columns}")
                    }
                    (_, false) => {
                        format!("none of the partition columns of \"{name}\" tells the time: {columns}")
                    }
                };
                Err(Error::new(Code::OPTION_INVALID, why)
                    .hint("name the partitions with --where, such as --where \"region = 'eu'\""))
            }
        }
    }
}

fn text(time: NaiveDateTime) -> String {
    timestamp_text(time.and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use catchment_core::TableName;
    use catchment_lake::TableSpec;
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::{Step, TimeRange};

    fn table(columns: &[(&str, DataType)]) -> TableSpec {
        let fields: Vec<_> =
            columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
        TableSpec {
            schema: Arc::new(Schema::new(fields)),
            partition_columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
            comment: None,
            properties: Vec::new(),
        }
    }

    fn condition(from: &str, to: &str, columns: &[(&str, DataType)]) -> Result<String, String> {
        let range = TimeRange::parse(from, to).map_err(|error| error.one_line())?;
        range.condition(&TableName::new("s", "t"), &table(columns)).map_err(|error| error.one_line())
    }

    #[test]
    fn a_range_becomes_a_condition_on_what_tells_the_time() {
        let day = [("region", DataType::Utf8), ("day", DataType::Date32)];
        assert_eq!(
            condition("2024-01-31", "2024-03-01", &day).as_deref(),
            Ok("\"day\" >= DATE '2024-01-31' AND \"day\" < DATE '2024-03-01'")
        );
        let parts = [("year", DataType::Int32), ("month", DataType::Utf8)];
        assert_eq!(
            condition("2023-12-01", "2024-02-01", &parts).as_deref(),
            Ok(
                "(CAST(\"year\" AS BIGINT)) * 100 + CAST(\"month\" AS BIGINT) >= 202312 AND (CAST(\"year\" AS BIGINT)) * 100 + CAST(\"month\" AS BIGINT) < 202402"
            )
        );
    }

    #[test]
    fn bounds_within_a_partition_and_partitions_without_a_time_are_refused() {
        let refused = |from, to, columns: &[(&str, DataType)]| condition(from, to, columns).unwrap_err();
        let day = [("day", DataType::Date32)];
        assert!(refused("2024-01-31 10:00:00", "2024-02-01", &day).contains("a whole day"));
        assert!(refused("2024-02-01", "2024-02-01", &day).contains("there is no time"));
        assert!(
            refused("2024-01-02", "2024-02-01", &[("year", DataType::Int32), ("month", DataType::Int32)])
                .contains("a whole month")
        );
        assert!(
            refused("2024-01-02", "2024-02-01", &[("region", DataType::Utf8)])
                .contains("none of the partition columns")
        );
        let two = [("sold", DataType::Date32), ("paid", DataType::Date32)];
        assert!(refused("2024-01-02", "2024-02-01", &two).contains("several of the partition columns"));
    }

    #[test]
    fn steps_cover_the_range_without_gaps() {
        let range = TimeRange::parse("2024-01-31", "2024-05-01").unwrap();
        let starts = |step: &str| -> Vec<String> {
            let steps = range.steps(Some(Step::parse(step).unwrap()));
            assert!(steps.windows(2).all(|pair| pair[0].to == pair[1].from));
            assert_eq!((steps[0].from, steps[steps.len() - 1].to), (range.from, range.to));
            steps.iter().map(|step| step.from.date().to_string()).collect()
        };
        assert_eq!(starts("1month"), ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"]);
        assert_eq!(starts("2w").len(), 7);
        assert_eq!(starts("36h").len(), 61);
        assert_eq!(range.steps(None), [range]);
        assert!(Step::parse("0d").is_err() && Step::parse("d").is_err() && Step::parse("3y").is_err());
    }
}
