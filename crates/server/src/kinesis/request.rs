//! What operations read of a request whose shape was checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use catchment_core::Code;
use catchment_log::{ShardId, Stream, StreamName, StreamState};

use crate::kinesis::Kinesis;
use crate::kinesis::answer::{Answer, Fault};
use crate::kinesis::value::Value;

/// A request, with the region that it was meant for.
pub(super) struct Request<'a> {
    pub(super) body: Value,
    pub(super) region: &'a str,
}

impl Request<'_> {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        text(&self.body, name)
    }

    /// A text that the shape requires.
    pub(super) fn required(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    pub(super) fn number(&self, name: &str) -> Option<i64> {
        match self.body.get(name) {
            Some(Value::Integer(number)) => Some(*number),
            _ => None,
        }
    }

    /// A number of things to answer with.
    pub(super) fn limit(&self, name: &str, otherwise: usize) -> usize {
        self.number(name).and_then(|number| usize::try_from(number).ok()).unwrap_or(otherwise)
    }

    pub(super) fn time(&self, name: &str) -> Option<i64> {
        time(&self.body, name)
    }

    pub(super) fn blob(&self, name: &str) -> Bytes {
        blob(&self.body, name)
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        match self.body.get(name) {
            Some(Value::List(values)) => values
                .iter()
                .filter_map(|value| if let Value::Text(text) = value { Some(text.clone()) } else { None })
                .collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn map(&self, name: &str) -> BTreeMap<String, String> {
        match self.body.get(name) {
            Some(Value::Map(members)) => members
                .iter()
                .filter_map(|(name, value)| {
                    if let Value::Text(text) = value { Some((name.clone(), text.clone())) } else { None }
                })
                .collect(),
            _ => BTreeMap::new(),
        }
    }
}

pub(super) fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    match value.get(name) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

pub(super) fn time(value: &Value, name: &str) -> Option<i64> {
    match value.get(name) {
        Some(Value::Time(millis)) => Some(*millis),
        _ => None,
    }
}

pub(super) fn blob(value: &Value, name: &str) -> Bytes {
    match value.get(name) {
        Some(Value::Blob(bytes)) => bytes.clone(),
        _ => Bytes::new(),
    }
}

impl Kinesis {
    /// The stream that a request names, by its name or its ARN.
    pub(super) fn stream(&self, request: &Request<'_>) -> Answer<Arc<Stream>> {
        self.stream_named(&self.stream_name(request)?)
    }

    pub(super) fn stream_named(&self, name: &str) -> Answer<Arc<Stream>> {
        let unknown = || Fault::not_found(format!("Stream {name} under account {} not found.", self.account));
        let known = StreamName::new(name).map_err(|_| unknown())?;
        self.log
            .stream(&known)
            .map_err(|error| if error.code() == Code::STREAM_UNKNOWN { unknown() } else { error.into() })
    }

    /// The name of a request's stream.
    pub(super) fn stream_name(&self, request: &Request<'_>) -> Answer<String> {
        let by_arn = request.text("StreamARN").or(request.text("ResourceARN")).and_then(name_of_arn);
        match (request.text("StreamName"), by_arn) {
            (Some(name), Some(other)) if name != other => {
                Err(Fault::invalid(format!("StreamName {name} and StreamARN do not name the same stream.")))
            }
            (Some(name), _) | (None, Some(name)) => Ok(name.to_owned()),
            (None, None) => Err(Fault::invalid("Either StreamName or StreamARN must be given.")),
        }
    }

    pub(super) fn arn(&self, name: &StreamName, region: &str) -> String {
        format!("arn:aws:kinesis:{region}:{}:stream/{name}", self.account)
    }

    /// The number of a shard as a request names it, whether there is one or not.
    pub(super) fn shard_id(&self, stream: &str, text: &str) -> Answer<ShardId> {
        ShardId::parse(text).ok_or_else(|| self.no_shard(stream, text))
    }

    /// A shard as a request names it.
    pub(super) fn shard(&self, state: &StreamState, text: &str) -> Answer<ShardId> {
        let id = self.shard_id(state.name.as_str(), text)?;
        state.shard(id).map_err(|_| self.no_shard(state.name.as_str(), &id.to_string()))?;
        Ok(id)
    }

    fn no_shard(&self, stream: &str, shard: &str) -> Fault {
        Fault::not_found(format!(
            "Could not find shard {shard} in stream {stream} under account {}.",
            self.account
        ))
    }
}

/// The stream in an ARN, of a stream or of one of its consumers.
pub(super) fn name_of_arn(arn: &str) -> Option<&str> {
    let (_, rest) = arn.split_once("stream/")?;
    Some(rest.split('/').next().unwrap_or(rest))
}
