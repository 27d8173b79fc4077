//! Operations on records: put, and read from an iterator.

use bytes::Bytes;
use catchment_log::{Entry, Read, Record, Sequence, ShardId, Stream, StreamState, hash_of};

use crate::kinesis::Kinesis;
use crate::kinesis::answer::{Answer, Fault};
use crate::kinesis::rates::{exceeded, message};
use crate::kinesis::request::{Request, blob, text};
use crate::kinesis::token::{LIFE, Token, TokenFault};
use crate::kinesis::value::{Structure, Value};

/// Bytes of records that one request may put, and one answer may hold.
const PUT_BYTES: usize = 5 << 20;
const GET_BYTES: usize = 10 << 20;

impl Kinesis {
    pub(super) async fn put_record(&self, request: &Request<'_>) -> Answer {
        let stream = self.stream(request)?;
        let state = stream.state();
        let entry =
            entry(request.required("PartitionKey"), request.text("ExplicitHashKey"), request.blob("Data"))?;
        require_size(&state, &entry, "data")?;
        if let Some(least) = request.text("SequenceNumberForOrdering") {
            self.require_ordering(&state, least)?;
        }
        if let Some(shard) = self.full_shard(&state, &entry) {
            return Err(exceeded(&state, shard, &self.account));
        }
        let appended = stream.append(vec![entry]).await?;
        let appended = appended.first().ok_or_else(|| Fault::bare("InternalFailure"))?;
        Ok(Structure::default()
            .with("ShardId", appended.shard.to_string())
            .with("SequenceNumber", appended.sequence.to_string())
            .with_some("EncryptionType", state.encryption_key.as_ref().map(|_| "KMS"))
            .into())
    }

    pub(super) async fn put_records(&self, request: &Request<'_>) -> Answer {
        let stream = self.stream(request)?;
        let state = stream.state();
        let Some(Value::List(records)) = request.body.get("Records") else {
            return Err(Fault::bare("InternalFailure"));
        };
        let size =
            |record: &Value| text(record, "PartitionKey").map_or(0, str::len) + blob(record, "Data").len();
        if records.iter().map(size).sum::<usize>() > PUT_BYTES {
            return Err(Fault::invalid("Records size exceeds 5 MB limit"));
        }
        let mut entries = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            let key = text(record, "PartitionKey").unwrap_or_default();
            let entry = entry(key, text(record, "ExplicitHashKey"), blob(record, "Data"))?;
            require_size(&state, &entry, &format!("records.{}.member.data", index + 1))?;
            entries.push(entry);
        }
        let full: Vec<_> = entries.iter().map(|entry| self.full_shard(&state, entry)).collect();
        let taken = entries.into_iter().zip(&full).filter(|(_, full)| full.is_none());
        let mut appended = stream.append(taken.map(|(entry, _)| entry).collect()).await?.into_iter();
        let mut put = |full: &Option<ShardId>| {
            let answer = Structure::default();
            match full {
                Some(shard) => answer
                    .with("ErrorCode", "ProvisionedThroughputExceededException")
                    .with("ErrorMessage", message(&state, *shard, &self.account)),
                None => {
                    let appended = appended.next();
                    answer
                        .with_some("SequenceNumber", appended.as_ref().map(|at| at.sequence.to_string()))
                        .with_some("ShardId", appended.as_ref().map(|at| at.shard.to_string()))
                }
            }
            .into()
        };
        let answers = full.iter().map(&mut put).collect();
        Ok(Structure::default()
            .with("FailedRecordCount", full.iter().flatten().count())
            .with_some("EncryptionType", state.encryption_key.as_ref().map(|_| "KMS"))
            .with("Records", Value::List(answers))
            .into())
    }

    /// The shard that a record would go to, when it takes no more now.
    fn full_shard(&self, state: &StreamState, entry: &Entry) -> Option<ShardId> {
        let rates = self.rates.as_ref()?;
        let shard = state.route(entry.hash)?;
        let bytes = entry.partition_key.len() + entry.data.len();
        (!rates.put(state, shard, bytes, self.clock.now_millis())).then_some(shard)
    }

    /// A number that records are to follow is one of this stream, and not of the future.
    fn require_ordering(&self, state: &StreamState, text: &str) -> Answer<()> {
        let is_ours = Sequence::parse(text).is_some_and(|sequence| {
            state
                .shards
                .iter()
                .any(|shard| shard.id == sequence.shard && shard.created == sequence.shard_created)
        });
        if is_ours {
            return Ok(());
        }
        Err(Fault::invalid(format!(
            "ExclusiveMinimumSequenceNumber {text} used in PutRecord on stream {} under account {} is invalid.",
            state.name, self.account
        )))
    }

    pub(super) fn get_iterator(&self, request: &Request<'_>) -> Answer {
        let name = self.stream_name(request)?;
        let id = self.shard_id(&name, request.required("ShardId"))?;
        // Whether the stream or the shard is not there is not told apart.
        let stream = self.stream(request).map_err(|_| self.missing_shard(&name, id))?;
        let state = stream.state();
        state.shard(id).map_err(|_| self.missing_shard(&name, id))?;
        let kind = request.required("ShardIteratorType");
        let number = request.text("StartingSequenceNumber");
        let wants_number = matches!(kind, "AT_SEQUENCE_NUMBER" | "AFTER_SEQUENCE_NUMBER");
        if wants_number != number.is_some() && kind != "AT_TIMESTAMP" {
            let what = if wants_number { "no" } else { "also a" };
            return Err(Fault::invalid(format!(
                "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber or (2) TRIM_HORIZON or LATEST and no StartingSequenceNumber. Request specified {kind} and {what} StartingSequenceNumber."
            )));
        }
        let start = Start { kind, number, time: request.time("Timestamp"), call: "GetShardIterator" };
        let ordinal = self.start(&stream, id, &start)?;
        Ok(Structure::default().with("ShardIterator", self.token(&state, id, ordinal)).into())
    }

    pub(super) fn missing_shard(&self, stream: &str, id: ShardId) -> Fault {
        Fault::not_found(format!(
            "Shard {id} in stream {stream} under account {} does not exist",
            self.account
        ))
    }

    fn token(&self, state: &StreamState, shard: ShardId, ordinal: u64) -> String {
        let stream = state.name.as_str().to_owned();
        Token { made_at: self.clock.now_millis(), stream, epoch: state.created_at, shard, ordinal }.write()
    }

    /// The ordinal at which a reader begins.
    pub(super) fn start(&self, stream: &Stream, id: ShardId, start: &Start<'_>) -> Answer<u64> {
        match start.kind {
            "TRIM_HORIZON" => Ok(stream.oldest(id)?),
            "LATEST" => Ok(stream.head(id)),
            "AT_TIMESTAMP" => {
                let millis = start.time.ok_or_else(|| {
                    Fault::invalid("Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current request has no timestamp parameter.")
                })?;
                let now = self.clock.now_millis();
                if millis > now {
                    return Err(Fault::invalid(format!(
                        "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. timestampInMillis: {millis}, currentTimestampInMillis: {now}"
                    )));
                }
                Ok(stream.since(id, millis)?)
            }
            kind => {
                let sequence = self.sequence(stream, id, start)?;
                Ok(if kind == "AT_SEQUENCE_NUMBER" {
                    sequence.ordinal
                } else {
                    sequence.ordinal.saturating_add(1)
                }
                .max(1))
            }
        }
    }

    /// The place that a starting sequence number names.
    fn sequence(&self, stream: &Stream, id: ShardId, start: &Start<'_>) -> Answer<Sequence> {
        let state = stream.state();
        let text = start.number.unwrap_or_default();
        let invalid = || {
            Fault::invalid(format!(
                "StartingSequenceNumber {text} used in {} on shard {id} in stream {} under account {} is invalid.",
                start.call, state.name, self.account
            ))
        };
        let sequence = Sequence::parse(text).ok_or_else(invalid)?;
        if sequence.shard != id {
            return Err(Fault::invalid(format!(
                "Invalid StartingSequenceNumber. It encodes {}, while it was used in a call to a shard with {id}",
                sequence.shard
            )));
        }
        if sequence.shard_created != state.shard(id)?.created {
            return Err(Fault::invalid(format!(
                "StartingSequenceNumber {text} used in {} on shard {id} in stream {} under account {} is invalid because it did not come from this stream.",
                start.call, state.name, self.account
            )));
        }
        Ok(sequence)
    }

    pub(super) fn get_records(&self, request: &Request<'_>) -> Answer {
        let now = self.clock.now_millis();
        let iterator = request.required("ShardIterator");
        let token = Token::read(iterator, now).map_err(|fault| match fault {
            TokenFault::Invalid => Fault::invalid("Invalid ShardIterator."),
            TokenFault::Expired => {
                let made_at = Token::parse(iterator).map_or(0, |token| token.made_at);
                let time = |millis: i64| catchment_core::timestamp_text(millis * 1_000);
                Fault::new("ExpiredIteratorException", format!(
                    "Iterator expired. The iterator was created at time {} while right now it is {} which is further in the future than the tolerated delay of {LIFE} milliseconds.",
                    time(made_at), time(now)
                ))
            }
        })?;
        let stream =
            self.stream_named(&token.stream).map_err(|_| self.missing_shard(&token.stream, token.shard))?;
        let state = stream.state();
        if state.created_at != token.epoch {
            return Err(self.missing_shard(&token.stream, token.shard));
        }
        let limit = request.limit("Limit", 10_000);
        if self.rates.as_ref().is_some_and(|rates| !rates.begin_read(&state, token.shard, now)) {
            return Err(exceeded(&state, token.shard, &self.account));
        }
        // A shard that retention removed has nothing more to read.
        let read = match state.shard(token.shard) {
            Ok(_) => stream.read(token.shard, token.ordinal, limit, GET_BYTES)?,
            Err(_) => Read { is_end: true, ..Read::default() },
        };
        if let Some(rates) = &self.rates {
            let bytes =
                read.records.iter().map(|record| record.partition_key.len() + record.data.len()).sum();
            rates.end_read(&state, token.shard, bytes, now);
        }
        let next = (!read.is_end).then(|| self.token(&state, token.shard, read.next));
        Ok(Structure::default()
            .with("Records", self.record_values(&stream, token.shard, &read.records)?)
            .with("NextShardIterator", next.map_or(Value::Null, Value::Text))
            .with("MillisBehindLatest", Value::Integer(read.behind_millis))
            .with_some("ChildShards", read.is_end.then(|| children(&state, token.shard)))
            .into())
    }

    pub(super) fn record_values(&self, stream: &Stream, shard: ShardId, records: &[Record]) -> Answer {
        let state = stream.state();
        let created = state.shard(shard).map(|shard| shard.created).unwrap_or_default();
        let is_encrypted = state.encryption_key.is_some();
        let value = |record: &Record| {
            let arrived = u64::try_from(record.arrived / 1_000).unwrap_or(0);
            let sequence = Sequence { shard_created: created, shard, ordinal: record.ordinal, arrived };
            Structure::default()
                .with("SequenceNumber", sequence.to_string())
                .with("ApproximateArrivalTimestamp", Value::Time(record.arrived))
                .with("Data", Value::Blob(record.data.clone()))
                .with("PartitionKey", record.partition_key.as_str())
                .with_some("EncryptionType", is_encrypted.then_some("KMS"))
                .into()
        };
        Ok(Value::List(records.iter().map(value).collect()))
    }
}

/// Where a reader wants to begin.
pub(super) struct Start<'a> {
    pub(super) kind: &'a str,
    pub(super) number: Option<&'a str>,
    pub(super) time: Option<i64>,
    pub(super) call: &'static str,
}

/// The shards that came of one that is read to its end.
pub(super) fn children(state: &StreamState, shard: ShardId) -> Value {
    let child = |child: &catchment_log::Shard| {
        let parents = child.parents.iter().map(|parent| parent.to_string().into()).collect();
        let hashes = Structure::default()
            .with("StartingHashKey", child.range.start.to_string())
            .with("EndingHashKey", child.range.end.to_string());
        Structure::default()
            .with("ShardId", child.id.to_string())
            .with("ParentShards", Value::List(parents))
            .with("HashKeyRange", hashes)
            .into()
    };
    Value::List(state.children(shard).map(child).collect())
}

fn entry(key: &str, hash: Option<&str>, data: Bytes) -> Answer<Entry> {
    let hash = match hash {
        Some(text) => text.parse().map_err(|_| {
            Fault::invalid(format!(
                "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was {text}"
            ))
        })?,
        None => hash_of(key),
    };
    Ok(Entry { partition_key: key.to_owned(), hash, data })
}

fn require_size(state: &StreamState, entry: &Entry, place: &str) -> Answer<()> {
    if entry.partition_key.len() + entry.data.len() <= state.record_bytes {
        return Ok(());
    }
    Err(Fault::new(
        "ValidationException",
        format!(
            "1 validation error detected: Value at '{place}' failed to satisfy constraint: Member must have length less than or equal to {}",
            state.record_bytes
        ),
    ))
}
