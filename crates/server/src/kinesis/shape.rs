//! What a request must look like, and what Kinesis says when it does not.
//!
//! The texts are those that kinesalite's suite recorded of AWS.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use crate::kinesis::answer::{Answer, Fault};
use crate::kinesis::value::Value;

/// A member of a request.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_required: bool,
    pub(super) rules: &'static [Rule],
}

/// What a member is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    Integer,
    Boolean,
    Blob,
    Time,
    /// Names with texts.
    Map,
    Texts,
    Structures(&'static [Member]),
    Structure(&'static [Member]),
}

/// What a member's value must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    AtLeast(i64),
    AtMost(i64),
    Matches(Pattern),
    /// At least, in characters, bytes or members.
    Longer(usize),
    Shorter(usize),
    OneOf(&'static [&'static str]),
    /// Each text of a list has at most so many characters.
    EachShorter(usize),
    KeysShorter(usize),
    ValuesShorter(usize),
}

/// A pattern of the service's model.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pattern {
    Name,
    Hash,
    Sequence,
    StreamArn,
    ConsumerArn,
}

impl Pattern {
    fn text(self) -> &'static str {
        match self {
            Pattern::Name => "[a-zA-Z0-9_.-]+",
            Pattern::Hash => r"0|([1-9]\d{0,38})",
            Pattern::Sequence => r"0|([1-9]\d{0,128})",
            Pattern::StreamArn => r"arn:aws.*:kinesis:.*:\d{12}:stream/\S+",
            Pattern::ConsumerArn => {
                r"^(arn):aws.*:kinesis:.*:\d{12}:.*stream\/[a-zA-Z0-9_.-]+\/consumer\/[a-zA-Z0-9_.-]+:[0-9]+"
            }
        }
    }

    fn fits(self, text: &str) -> bool {
        let number = |digits: usize| {
            text == "0"
                || (text.len() <= digits
                    && !text.starts_with('0')
                    && !text.is_empty()
                    && text.bytes().all(|byte| byte.is_ascii_digit()))
        };
        match self {
            Pattern::Name => is_name(text),
            Pattern::Hash => number(39),
            Pattern::Sequence => number(129),
            Pattern::StreamArn => of_arn(text).is_some_and(|rest| {
                rest.starts_with("stream/") && rest.len() > 7 && !rest.contains(char::is_whitespace)
            }),
            Pattern::ConsumerArn => of_arn(text).is_some_and(|rest| {
                let parts: Vec<&str> = rest.split('/').collect();
                let [kind, stream, "consumer", consumer] = parts[..] else { return false };
                let Some((name, epoch)) = consumer.split_once(':') else { return false };
                kind.ends_with("stream")
                    && is_name(stream)
                    && is_name(name)
                    && !epoch.is_empty()
                    && epoch.bytes().all(|byte| byte.is_ascii_digit())
            }),
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// What follows the account in an ARN of Kinesis.
fn of_arn(text: &str) -> Option<&str> {
    let mut parts = text.splitn(6, ':');
    let (arn, partition, service) = (parts.next()?, parts.next()?, parts.next()?);
    let (_, account, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    (arn == "arn" && partition.starts_with("aws") && service == "kinesis" && is_account).then_some(rest)
}

/// Makes of a request what its members say, or tells what is wrong with it.
pub(super) fn check(members: &[Member], request: Value) -> Answer {
    let request = convert(members, request)?;
    let mut wrong = Vec::new();
    constrain(members, &request, "", &mut wrong);
    match wrong.len() {
        0 => Ok(request),
        // The service tells at most ten.
        count => {
            let errors = if count == 1 { "error" } else { "errors" };
            wrong.truncate(10);
            Err(Fault::new(
                "ValidationException",
                format!("{count} validation {errors} detected: {}", wrong.join("; ")),
            ))
        }
    }
}

fn serialization(message: impl Into<String>) -> Fault {
    Fault::new("SerializationException", message)
}

fn convert(members: &[Member], request: Value) -> Answer {
    let Value::Map(given) = request else {
        return Err(match request {
            Value::List(_) => serialization("Start of list found where not expected"),
            _ => serialization("Expected null"),
        });
    };
    let mut converted = Vec::with_capacity(given.len());
    for (name, value) in given {
        // What nobody knows is left out, as what is null is.
        if let Some(member) = members.iter().find(|member| member.name == name)
            && value != Value::Null
        {
            converted.push((name, convert_one(member.kind, value)?));
        }
    }
    Ok(Value::Map(converted))
}

fn convert_one(kind: Kind, value: Value) -> Answer {
    match (kind, value) {
        (Kind::Text, Value::Text(text)) => Ok(Value::Text(text)),
        (Kind::Integer, Value::Integer(number)) => {
            Ok(Value::Integer(number.clamp(i32::MIN.into(), i32::MAX.into())))
        }
        #[expect(clippy::cast_possible_truncation, reason = "the service truncates as well")]
        (Kind::Integer, Value::Number(number)) => Ok(Value::Integer(i64::from(number as i32))),
        (Kind::Boolean, Value::Boolean(value)) => Ok(Value::Boolean(value)),
        (Kind::Blob, Value::Blob(bytes)) => Ok(Value::Blob(bytes)),
        (Kind::Blob, Value::Text(text)) => decode(&text).map(Value::Blob),
        (Kind::Time, Value::Time(millis)) => Ok(Value::Time(millis)),
        (Kind::Time, Value::Integer(seconds)) => Ok(Value::Time(seconds.saturating_mul(1_000))),
        #[expect(clippy::cast_possible_truncation, reason = "times beyond the range end at it")]
        (Kind::Time, Value::Number(seconds)) => Ok(Value::Time((seconds * 1_000.0).round() as i64)),
        (Kind::Map, Value::Map(members)) => {
            let text = |(name, value)| Ok((name, convert_one(Kind::Text, value)?));
            members.into_iter().map(text).collect::<Answer<Vec<_>>>().map(Value::Map)
        }
        (Kind::Texts, Value::List(values)) => values
            .into_iter()
            .map(|value| convert_one(Kind::Text, value))
            .collect::<Answer<Vec<_>>>()
            .map(Value::List),
        (Kind::Structures(members), Value::List(values)) => values
            .into_iter()
            .map(|value| convert(members, value))
            .collect::<Answer<Vec<_>>>()
            .map(Value::List),
        (Kind::Structure(members), value @ Value::Map(_)) => convert(members, value),
        (kind, value) => Err(serialization(unfit(kind, &value))),
    }
}

/// What is said of a value of the wrong type.
fn unfit(kind: Kind, value: &Value) -> String {
    match (kind, value) {
        (_, Value::List(_)) => return "Start of list found where not expected".to_owned(),
        (_, Value::Map(_)) => return "Start of structure or map found where not expected.".to_owned(),
        (Kind::Map, _) => return "Expected map or null".to_owned(),
        (Kind::Texts | Kind::Structures(_), _) => return "Expected list or null".to_owned(),
        (Kind::Structure(_), _) => return "Expected null".to_owned(),
        _ => {}
    }
    let class = match value {
        Value::Boolean(_) => "java.lang.Boolean",
        Value::Text(_) => "java.lang.String",
        Value::Blob(_) => "java.nio.HeapByteBuffer",
        _ => "com.amazon.coral.value.json.numbers.TruncatingBigNumber",
    };
    let wanted = match kind {
        Kind::Integer => "an Integer",
        Kind::Boolean => "an Boolean",
        Kind::Blob => "a Blob",
        Kind::Time => "milliseconds since epoch",
        _ => "an String",
    };
    format!("class {class} can not be converted to {wanted}")
}

fn decode(text: &str) -> Answer<Bytes> {
    BASE64_STANDARD.decode(text).map(Bytes::from).map_err(|_| {
        let is_known = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
        let data = text.trim_end_matches('=');
        let why = match data.bytes().find(|byte| !is_known(byte)) {
            _ if !text.len().is_multiple_of(4) => {
                format!("Base64 encoded length is expected a multiple of 4 bytes but found: {}", text.len())
            }
            Some(byte) => format!("Invalid Base64 character: '{}'", char::from(byte)),
            None => "Invalid last non-pad Base64 character dectected".to_owned(),
        };
        serialization(format!("'{text}' can not be converted to a Blob: {why}"))
    })
}

fn constrain(members: &[Member], request: &Value, place: &str, wrong: &mut Vec<String>) {
    for member in members {
        let mut name = member.name.to_owned();
        name[..1].make_ascii_lowercase();
        // Names that begin with an abbreviation keep it: streamARN, but resourceARN and consumerARN alike.
        let at = format!("{place}{name}");
        let Some(value) = request.get(member.name) else {
            if member.is_required {
                wrong.push(format!(
                    "Value null at '{at}' failed to satisfy constraint: Member must not be null"
                ));
            }
            continue;
        };
        for rule in member.rules {
            if let Some(must) = broken(*rule, value) {
                wrong.push(format!("{} at '{at}' failed to satisfy constraint: {must}", told(value)));
            }
        }
        match (member.kind, value) {
            (Kind::Structures(inner), Value::List(values)) => {
                for (index, value) in values.iter().enumerate() {
                    constrain(inner, value, &format!("{at}.{}.member.", index + 1), wrong);
                }
            }
            (Kind::Structure(inner), value) => constrain(inner, value, &format!("{at}."), wrong),
            _ => {}
        }
    }
}

/// What a value must be and is not.
fn broken(rule: Rule, value: &Value) -> Option<String> {
    let number = if let Value::Integer(number) = value { *number } else { 0 };
    let text = if let Value::Text(text) = value { text.as_str() } else { "" };
    let length = match value {
        Value::Text(text) => text.chars().count(),
        Value::Blob(bytes) => bytes.len(),
        Value::List(values) => values.len(),
        Value::Map(members) => members.len(),
        _ => 0,
    };
    let longest = |texts: &mut dyn Iterator<Item = &Value>| {
        let length = |value: &Value| if let Value::Text(text) = value { text.chars().count() } else { 0 };
        texts.map(length).max().unwrap_or(0)
    };
    let each = |least: usize, most: usize| {
        format!(
            "[Member must have length less than or equal to {most}, Member must have length greater than or equal to {least}]"
        )
    };
    let (holds, must) = match (rule, value) {
        (Rule::AtLeast(least), _) => {
            (number >= least, format!("Member must have value greater than or equal to {least}"))
        }
        (Rule::AtMost(most), _) => {
            (number <= most, format!("Member must have value less than or equal to {most}"))
        }
        (Rule::Matches(pattern), _) => (
            pattern.fits(text),
            format!("Member must satisfy regular expression pattern: {}", pattern.text()),
        ),
        (Rule::Longer(least), _) => {
            (length >= least, format!("Member must have length greater than or equal to {least}"))
        }
        (Rule::Shorter(most), _) => {
            (length <= most, format!("Member must have length less than or equal to {most}"))
        }
        (Rule::OneOf(known), _) => {
            (known.contains(&text), format!("Member must satisfy enum value set: [{}]", known.join(", ")))
        }
        (Rule::EachShorter(most), Value::List(values)) => (
            longest(&mut values.iter()) <= most,
            format!("Member must satisfy constraint: {}", each(1, most)),
        ),
        (Rule::KeysShorter(most), Value::Map(members)) => {
            let longest = members.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
            (longest <= most, format!("Map keys must satisfy constraint: {}", each(1, most)))
        }
        (Rule::ValuesShorter(most), Value::Map(members)) => {
            let longest = longest(&mut members.iter().map(|(_, value)| value));
            (longest <= most, format!("Map value must satisfy constraint: {}", each(0, most)))
        }
        _ => (true, String::new()),
    };
    (!holds).then_some(must)
}

/// A value as an error tells it. What may be long, or a secret, is not.
fn told(value: &Value) -> String {
    let shown = |value: &Value| match value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    let text = match value {
        Value::List(values) => values
            .iter()
            .map(shown)
            .collect::<Option<Vec<_>>>()
            .map(|values| format!("[{}]", values.join(", "))),
        Value::Map(members) => {
            let member = |(name, value): &(String, Value)| Some(format!("{name}={}", shown(value)?));
            members
                .iter()
                .map(member)
                .collect::<Option<Vec<_>>>()
                .map(|members| format!("{{{}}}", members.join(", ")))
        }
        other => shown(other),
    };
    text.map_or_else(|| "Value".to_owned(), |text| format!("Value '{text}'"))
}
