//! What a target is told.

use std::fmt;

use catchment_catalog::Alert;
use catchment_core::timestamp_text;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The most bytes of a row that are sent; a topic of SNS takes messages of 256 KB.
const ROW_BYTES: usize = 100_000;

/// The most characters of a value in the line for people.
const SHOWN: usize = 500;

/// What a target is told of an alert: the same words each time it is sent.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// The alert's id, by which a message that comes twice is known.
    pub id: String,
    /// The alert's name.
    pub alert: String,
    /// How bad it is.
    pub severity: String,
    /// When it was raised, as text in UTC.
    pub raised_at: String,
    /// All of it in one line, for people; chats show what is called so.
    pub text: String,
    /// The row of the alert's query. Of one that is very large, long values are texts of their beginnings; the alert has all.
    pub row: Box<RawValue>,
}

impl Message {
    /// The message of an alert.
    #[must_use]
    pub fn of(alert: &Alert) -> Self {
        let mut message = Self {
            id: alert.id.clone(),
            alert: alert.alert.clone(),
            severity: alert.severity.clone(),
            raised_at: timestamp_text(alert.raised_at),
            text: String::new(),
            row: row_of(&alert.record).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        };
        message.text = format!("{} ({}): {}", alert.alert, alert.severity, message.row_text());
        message
    }

    /// The columns of the row and their values, in one line.
    #[must_use]
    pub fn row_text(&self) -> String {
        let values = self.values().into_iter();
        let values = values.map(|(name, value)| format!("{name} = {}", beginning(&value, SHOWN)));
        values.collect::<Vec<_>>().join(", ")
    }

    /// The columns of the row and their values as text.
    pub(crate) fn values(&self) -> Vec<(String, String)> {
        let Fields(row) = serde_json::from_str(self.row.get()).unwrap_or_default();
        row.into_iter().map(|(name, value)| (name, shown(&value))).collect()
    }

    /// The message as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        // A text and a raw value always have a form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A row as it is sent.
fn row_of(record: &str) -> serde_json::Result<Box<RawValue>> {
    if record.len() <= ROW_BYTES {
        return RawValue::from_string(record.to_owned());
    }
    let Fields(mut row) = serde_json::from_str(record)?;
    let most = ROW_BYTES / row.len().max(1);
    for (_, value) in row.iter_mut().filter(|(_, value)| value.get().len() > most) {
        // A character takes at most six bytes as JSON.
        *value = serde_json::value::to_raw_value(&beginning(&shown(value), most / 6))?;
    }
    serde_json::value::to_raw_value(&Fields(row))
}

/// A value as text; numbers keep their digits, whatever they are.
fn shown(value: &RawValue) -> String {
    serde_json::from_str::<String>(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

/// At most so many characters of a text, with a mark where it goes on.
fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The fields of an object in their order, their values as they stand there.
#[derive(Default)]
struct Fields(Vec<(String, Box<RawValue>)>);

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Reading)
    }
}

#[cfg(test)]
mod tests {
    use catchment_catalog::Alert;
    use serde_json::{Value, json};

    use super::{Message, ROW_BYTES};

    fn message(record: &Value) -> Message {
        Message::of(&Alert {
            id: "1".to_owned(),
            alert: "a".to_owned(),
            severity: "warning".to_owned(),
            key: "[]".to_owned(),
            record: record.to_string(),
            raised_at: 0,
            resolved_at: None,
            repeats: 0,
        })
    }

    #[test]
    fn a_row_is_sent_as_it_is_but_for_what_nobody_takes() {
        let small = message(&json!({ "n": 1.50, "text": "é".repeat(600) }));
        assert_eq!(small.row.get(), json!({ "n": 1.50, "text": "é".repeat(600) }).to_string());
        assert_eq!(small.text, format!("a (warning): n = 1.5, text = {}…", "é".repeat(500)));
        let large = message(&json!({ "n": 12, "text": "\u{1}".repeat(1 << 20), "list": vec![7; 100_000] }));
        let row: Value = serde_json::from_str(large.row.get()).unwrap();
        assert!(large.row.get().len() <= ROW_BYTES + 10, "{}", large.row.get().len());
        assert_eq!(row["n"], 12);
        assert!(row["text"].as_str().unwrap().ends_with("\u{1}…"), "{row}");
        assert!(row["list"].as_str().unwrap().starts_with("[7,7,"), "{row}");
    }
}
