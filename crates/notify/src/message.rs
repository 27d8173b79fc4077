//! What a target is told.

use std::fmt;

use catchment_catalog::Alert;
use catchment_core::timestamp_text;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

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
    /// The row of the alert's query.
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
            row: RawValue::from_string(alert.record.clone()).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        };
        message.text = format!("{} ({}): {}", alert.alert, alert.severity, message.row_text());
        message
    }

    /// The columns of the row and their values, in one line.
    #[must_use]
    pub fn row_text(&self) -> String {
        let values: Vec<String> =
            self.values().into_iter().map(|(name, value)| format!("{name} = {value}")).collect();
        values.join(", ")
    }

    /// The columns of the row and their values as text.
    pub(crate) fn values(&self) -> Vec<(String, String)> {
        let Fields(row) = serde_json::from_str(self.row.get()).unwrap_or_default();
        // Numbers keep their digits, whatever they are.
        let shown = |value: Box<RawValue>| {
            serde_json::from_str::<String>(value.get()).unwrap_or_else(|_| value.get().to_owned())
        };
        row.into_iter().map(|(name, value)| (name, shown(value))).collect()
    }

    /// The message as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        // A text and a raw value always have a form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The fields of an object in their order, their values as they stand there.
#[derive(Default)]
struct Fields(Vec<(String, Box<RawValue>)>);

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
