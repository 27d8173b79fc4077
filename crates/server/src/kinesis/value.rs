//! What requests and answers hold, whether they come as JSON 1.1 or as CBOR.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A value of a request or an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    /// Base64 in JSON, bytes in CBOR.
    Blob(Bytes),
    /// Milliseconds since the Unix epoch: seconds in JSON, tagged milliseconds in CBOR.
    Time(i64),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    /// A member of a structure; what is null is not there.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Map(members) => members
                .iter()
                .rev()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value)
                .filter(|value| **value != Value::Null),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Boolean(value)
    }
}

/// Builds a structure.
#[derive(Debug, Default)]
pub(super) struct Structure(Vec<(String, Value)>);

impl Structure {
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn with_some(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl From<Structure> for Value {
    fn from(structure: Structure) -> Self {
        Value::Map(structure.0)
    }
}

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Json,
    Cbor,
}

impl Codec {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Codec::Json => "application/x-amz-json-1.1",
            Codec::Cbor => "application/x-amz-cbor-1.1",
        }
    }

    /// Reads a request; `None` when it is not written so.
    pub(super) fn read(self, bytes: &[u8]) -> Option<Value> {
        match self {
            Codec::Json => serde_json::from_slice(bytes).ok(),
            Codec::Cbor => of_cbor(ciborium::de::from_reader_with_recursion_limit(bytes, 32).ok()?),
        }
    }

    pub(super) fn write(self, value: &Value) -> Vec<u8> {
        match self {
            Codec::Json => serde_json::to_vec(value).unwrap_or_default(),
            Codec::Cbor => {
                let mut bytes = Vec::new();
                // Writing to memory does not fail.
                let _ = ciborium::into_writer(&to_cbor(value), &mut bytes);
                bytes
            }
        }
    }
}

impl Serialize for Value {
    /// As JSON 1.1 has it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Boolean(value) => serializer.serialize_bool(*value),
            Value::Integer(value) => serializer.serialize_i64(*value),
            Value::Number(value) => serializer.serialize_f64(*value),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Blob(bytes) => serializer.serialize_str(&BASE64_STANDARD.encode(bytes)),
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of some thousand years fit")]
            Value::Time(millis) => serializer.serialize_f64(*millis as f64 / 1_000.0),
            Value::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                values.iter().try_for_each(|value| list.serialize_element(value))?;
                list.end()
            }
            Value::Map(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;

        impl<'de> Visitor<'de> for AnyValue {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Boolean(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Integer(value))
            }

            #[expect(clippy::cast_precision_loss, reason = "numbers this large are only told back")]
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(i64::try_from(value).map_or(Value::Number(value as f64), Value::Integer))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Number(value))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Value, E> {
                Ok(Value::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(Value::List(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Value::Map(members))
            }
        }

        deserializer.deserialize_any(AnyValue)
    }
}

fn of_cbor(value: ciborium::Value) -> Option<Value> {
    use ciborium::Value as Cbor;
    Some(match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(value) => Value::Boolean(value),
        Cbor::Integer(number) => Value::Integer(i64::try_from(number).ok()?),
        Cbor::Float(number) => Value::Number(number),
        Cbor::Text(text) => Value::Text(text),
        Cbor::Bytes(bytes) => Value::Blob(Bytes::from(bytes)),
        // Amazon's clients write milliseconds under the tag for a time.
        Cbor::Tag(1, time) => match *time {
            Cbor::Integer(millis) => Value::Time(i64::try_from(millis).ok()?),
            #[expect(clippy::cast_possible_truncation, reason = "times beyond the range end at it")]
            Cbor::Float(millis) => Value::Time(millis as i64),
            _ => return None,
        },
        Cbor::Array(values) => Value::List(values.into_iter().map(of_cbor).collect::<Option<_>>()?),
        Cbor::Map(members) => {
            let member = |(name, value): (Cbor, Cbor)| Some((name.into_text().ok()?, of_cbor(value)?));
            Value::Map(members.into_iter().map(member).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

fn to_cbor(value: &Value) -> ciborium::Value {
    use ciborium::Value as Cbor;
    match value {
        Value::Null => Cbor::Null,
        Value::Boolean(value) => Cbor::Bool(*value),
        Value::Integer(number) => Cbor::Integer((*number).into()),
        Value::Number(number) => Cbor::Float(*number),
        Value::Text(text) => Cbor::Text(text.clone()),
        Value::Blob(bytes) => Cbor::Bytes(bytes.to_vec()),
        Value::Time(millis) => Cbor::Tag(1, Box::new(Cbor::Integer((*millis).into()))),
        Value::List(values) => Cbor::Array(values.iter().map(to_cbor).collect()),
        Value::Map(members) => Cbor::Map(
            members.iter().map(|(name, value)| (Cbor::Text(name.clone()), to_cbor(value))).collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{Codec, Structure, Value};

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(Value::Integer),
            ".{0,20}".prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Blob(Bytes::from(bytes))),
            any::<i32>().prop_map(|millis| Value::Time(millis.into())),
        ];
        leaf.prop_recursive(4, 30, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
                prop::collection::vec(("[a-z]{0,6}", inner), 0..6).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn cbor_comes_back_as_it_was(value in value()) {
            prop_assert_eq!(Codec::Cbor.read(&Codec::Cbor.write(&value)), Some(value));
        }

        #[test]
        fn no_bytes_take_the_readers_down(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Codec::Cbor.read(&bytes), Codec::Json.read(&bytes));
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = [b"{\"a\":".repeat(100_000), b"1".to_vec()].concat();
        assert_eq!(Codec::Json.read(&deep), None);
        assert_eq!(Codec::Cbor.read(&[0x81; 100_000]), None);
    }

    #[test]
    fn json_has_base64_and_seconds() {
        let value: Value = Structure::default()
            .with("b", Value::Blob(Bytes::from_static(b"hi")))
            .with("t", Value::Time(1_500))
            .into();
        assert_eq!(Codec::Json.write(&value), br#"{"b":"aGk=","t":1.5}"#);
    }
}
