//! What a target is told.

use catchment_catalog::Alert;
use catchment_core::timestamp_text;
use serde::Serialize;
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
        let row: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(self.row.get()).unwrap_or_default();
        let shown = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
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
