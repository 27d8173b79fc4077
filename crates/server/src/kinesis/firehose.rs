//! Amazon Data Firehose's `PutRecord` and `PutRecordBatch`: a delivery stream is a stream of the same name.
//!
//! What Firehose does behind it is what flows do: gather, convert, partition, write.

use bytes::Bytes;
use catchment_log::Entry;

use crate::kinesis::Kinesis;
use crate::kinesis::answer::{Answer, Fault};
use crate::kinesis::request::{Request, blob};
use crate::kinesis::shape::{Kind, Member, Pattern, Rule};
use crate::kinesis::value::{Structure, Value};

/// The target of operations, before their name.
pub(super) const TARGET: &str = "Firehose_20150804.";

/// Bytes of the largest record, and of all of a batch.
const RECORD_BYTES: usize = 1_024_000;
const BATCH_BYTES: usize = 4 << 20;

const NAME: Member = Member {
    name: "DeliveryStreamName",
    kind: Kind::Text,
    is_required: true,
    rules: &[Rule::Matches(Pattern::Name), Rule::Longer(1), Rule::Shorter(64)],
};
const RECORD: &[Member] =
    &[Member { name: "Data", kind: Kind::Blob, is_required: true, rules: &[Rule::Shorter(RECORD_BYTES)] }];

/// The members of an operation's request; `None` for an operation that there is not.
pub(super) fn members(operation: &str) -> Option<&'static [Member]> {
    Some(match operation {
        "PutRecord" => {
            const {
                &[
                    NAME,
                    Member { name: "Record", kind: Kind::Structure(RECORD), is_required: true, rules: &[] },
                ]
            }
        }
        "PutRecordBatch" => {
            const {
                &[
                    NAME,
                    Member {
                        name: "Records",
                        kind: Kind::Structures(RECORD),
                        is_required: true,
                        rules: &[Rule::Longer(1), Rule::Shorter(500)],
                    },
                ]
            }
        }
        _ => return None,
    })
}

impl Kinesis {
    pub(super) async fn deliver(&self, operation: &str, request: &Request<'_>) -> Answer {
        let name = request.required("DeliveryStreamName");
        let records: Vec<Bytes> = match (operation, request.body.get("Record"), request.body.get("Records")) {
            ("PutRecord", Some(record), _) => vec![blob(record, "Data")],
            (_, _, Some(Value::List(records))) => records.iter().map(|record| blob(record, "Data")).collect(),
            _ => return Err(Fault::bare("InternalFailure")),
        };
        if records.iter().map(Bytes::len).sum::<usize>() > BATCH_BYTES {
            return Err(Fault::invalid("Records size exceeds 4 MB limit"));
        }
        let stream = self.stream_named(name).map_err(|_| {
            Fault::not_found(format!("Firehose {name} under account {} not found.", self.account))
        })?;
        // Records of Firehose have no key: they go to all shards.
        let entries =
            records.into_iter().map(|data| Entry::new(uuid::Uuid::new_v4().to_string(), data)).collect();
        let appended = stream.append(entries).await.map_err(|error| {
            let fault = Fault::from(error);
            match fault.kind {
                "ProvisionedThroughputExceededException" => {
                    Fault { status: 503, kind: "ServiceUnavailableException", ..fault }
                }
                _ => fault,
            }
        })?;
        let id = |appended: &catchment_log::Appended| {
            Structure::default().with("RecordId", format!("{}.{}", appended.shard, appended.sequence))
        };
        let answer = match (operation, appended.first()) {
            ("PutRecord", Some(first)) => id(first),
            _ => Structure::default().with("FailedPutCount", 0_usize).with(
                "RequestResponses",
                Value::List(appended.iter().map(|appended| id(appended).into()).collect()),
            ),
        };
        Ok(answer.with("Encrypted", stream.state().encryption_key.is_some()).into())
    }
}
