//! Readers with a name, and the records that are pushed to them.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use catchment_core::{Code, Error};
use catchment_log::{Consumer, Sequence, ShardId, Stream, StreamState};
use futures::Stream as Answers;
use tokio::sync::watch;

use crate::kinesis::Kinesis;
use crate::kinesis::answer::{Answer, Fault};
use crate::kinesis::event_stream::{event, initial};
use crate::kinesis::records::{Start, children};
use crate::kinesis::request::{Request, name_of_arn, text, time};
use crate::kinesis::token::{Token, TokenFault};
use crate::kinesis::value::{Codec, Structure, Value};

/// Readers with a name that a stream may have.
const MOST: usize = 20;

/// How long records are pushed for one request.
const SUBSCRIPTION: Duration = Duration::from_secs(300);

/// How often a reader is told that there is nothing.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Records and bytes of one event.
const EVENT_RECORDS: usize = 10_000;
const EVENT_BYTES: usize = 1 << 20;

/// How long a subscription lasts before another call of its consumer may end it.
const TAKEOVER_MILLIS: i64 = 5_000;

/// What is pushed to whom: the times at which stream and consumer were made, and the shard.
pub(super) type Subscribed = (i64, i64, ShardId);

/// A shard that is pushed to a consumer.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Milliseconds since the Unix epoch.
    begun: i64,
    /// Set when another call of the consumer goes on in its place.
    taken: watch::Sender<bool>,
}

impl Kinesis {
    fn consumer_arn(&self, state: &StreamState, consumer: &Consumer, region: &str) -> String {
        format!(
            "{}/consumer/{}:{}",
            self.arn(&state.name, region),
            consumer.name,
            consumer.created_at / 1_000
        )
    }

    fn consumer_value(&self, state: &StreamState, consumer: &Consumer, region: &str) -> Structure {
        Structure::default()
            .with("ConsumerName", consumer.name.as_str())
            .with("ConsumerARN", self.consumer_arn(state, consumer, region))
            .with("ConsumerStatus", "ACTIVE")
            .with("ConsumerCreationTimestamp", Value::Time(consumer.created_at))
    }

    pub(super) async fn register_consumer(&self, request: &Request<'_>) -> Answer {
        let stream = self.stream(request)?;
        let name = request.required("ConsumerName").to_owned();
        let tags = request.map("Tags");
        let account = self.account.clone();
        let asked = name.clone();
        let registered = stream
            .change(move |state, now| {
                if state.consumers.iter().any(|consumer| consumer.name == name) {
                    return Err(Error::new(
                        Code::STREAM_EXISTS,
                        format!("Consumer {name} under account {account} already exists."),
                    ));
                }
                if state.consumers.len() >= MOST {
                    return Err(Error::new(
                        Code::STREAM_BUSY,
                        format!(
                            "Stream {} under account {account} has {MOST} consumers already.",
                            state.name
                        ),
                    ));
                }
                state.consumers.push(Consumer { name, created_at: now, tags });
                Ok(())
            })
            .await;
        match registered {
            Err(error) if error.code() == Code::STREAM_BUSY => {
                return Err(Fault::new("LimitExceededException", error.message()));
            }
            other => other?,
        }
        let state = stream.state();
        let consumer = state.consumers.iter().find(|consumer| consumer.name == asked);
        let consumer = consumer.ok_or_else(|| Fault::bare("InternalFailure"))?;
        Ok(Structure::default()
            .with("Consumer", self.consumer_value(&state, consumer, request.region))
            .into())
    }

    pub(super) fn list_consumers(&self, request: &Request<'_>) -> Answer {
        let stream = self.stream(request)?;
        let state = stream.state();
        let now = self.clock.now_millis();
        let from = match request.text("NextToken") {
            None => 0,
            Some(token) => {
                let token = Token::read(token, now).map_err(|fault| match fault {
                    TokenFault::Expired => {
                        Fault::new("ExpiredNextTokenException", "The NextToken is expired.")
                    }
                    TokenFault::Invalid => Fault::invalid("Invalid NextToken."),
                })?;
                usize::try_from(token.ordinal).unwrap_or(usize::MAX)
            }
        };
        let limit = request.limit("MaxResults", 100);
        let page = state.consumers.iter().skip(from).take(limit);
        let values: Vec<Value> =
            page.map(|consumer| self.consumer_value(&state, consumer, request.region).into()).collect();
        let next = from.saturating_add(values.len());
        let token = (next < state.consumers.len()).then(|| {
            let stream = state.name.as_str().to_owned();
            Token { made_at: now, stream, epoch: state.created_at, shard: ShardId(0), ordinal: next as u64 }
                .write()
        });
        Ok(Structure::default().with("Consumers", Value::List(values)).with_some("NextToken", token).into())
    }

    /// The stream and the name of a consumer that a request names.
    fn consumer(&self, request: &Request<'_>) -> Answer<(Arc<Stream>, Consumer)> {
        let arn = request.text("ConsumerARN");
        let unknown =
            |what: &str| Fault::not_found(format!("Consumer {what}, account {} not found.", self.account));
        let (stream, wanted) = match (arn, request.text("StreamARN"), request.text("ConsumerName")) {
            (Some(arn), ..) => {
                let stream = name_of_arn(arn)
                    .and_then(|name| self.stream_named(name).ok())
                    .ok_or_else(|| unknown(arn))?;
                (stream, arn)
            }
            (None, Some(_), Some(name)) => (self.stream(request)?, name),
            _ => return Err(Fault::invalid("ConsumerARN, or StreamARN and ConsumerName, must be given.")),
        };
        let state = stream.state();
        let fits = |consumer: &&Consumer| match arn {
            Some(arn) => {
                arn.ends_with(&format!("/consumer/{}:{}", consumer.name, consumer.created_at / 1_000))
            }
            None => consumer.name == wanted,
        };
        let consumer = state.consumers.iter().find(fits).cloned().ok_or_else(|| unknown(wanted))?;
        Ok((stream, consumer))
    }

    pub(super) fn describe_consumer(&self, request: &Request<'_>) -> Answer {
        let (stream, consumer) = self.consumer(request)?;
        let state = stream.state();
        let description = self
            .consumer_value(&state, &consumer, request.region)
            .with("StreamARN", self.arn(&state.name, request.region));
        Ok(Structure::default().with("ConsumerDescription", description).into())
    }

    pub(super) async fn deregister_consumer(&self, request: &Request<'_>) -> Answer {
        let (stream, consumer) = self.consumer(request)?;
        crate::kinesis::streams::change(&stream, move |state| {
            state.consumers.retain(|one| one.name != consumer.name)
        })
        .await
    }

    /// Begins to push a shard to a consumer; an older subscription ends, unless that is too young.
    fn begin_subscription(&self, key: Subscribed, consumer: &str) -> Answer<Arc<Subscription>> {
        let begun = self.clock.now_millis();
        let mut all = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, known| known.strong_count() > 0);
        if let Some(older) = all.get(&key).and_then(Weak::upgrade) {
            if begun - older.begun < TAKEOVER_MILLIS {
                return Err(Fault::new(
                    "ResourceInUseException",
                    format!(
                        "Another active subscription exists for this consumer: {consumer}, shard {}, under account {}.",
                        key.2, self.account
                    ),
                ));
            }
            older.taken.send_replace(true);
        }
        let subscription = Arc::new(Subscription { begun, taken: watch::Sender::new(false) });
        all.insert(key, Arc::downgrade(&subscription));
        Ok(subscription)
    }

    /// Pushes records to a reader, for five minutes or until the shard ends.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        request: &Request<'_>,
        codec: Codec,
    ) -> Answer<impl Answers<Item = Result<Vec<u8>, std::io::Error>> + use<>> {
        let (stream, consumer) = self.consumer(request)?;
        let state = stream.state();
        let shard = self.shard_id(state.name.as_str(), request.required("ShardId"))?;
        state.shard(shard).map_err(|_| self.missing_shard(state.name.as_str(), shard))?;
        let position = request.body.get("StartingPosition").cloned().unwrap_or(Value::Null);
        let start = Start {
            kind: text(&position, "Type").unwrap_or_default(),
            number: text(&position, "SequenceNumber"),
            time: time(&position, "Timestamp"),
            call: "SubscribeToShard",
        };
        let mut next = self.start(&stream, shard, &start)?;
        let subscription =
            self.begin_subscription((state.created_at, consumer.created_at, shard), &consumer.name)?;
        let mut changes = stream.changes();
        let mut ended = self.ended.subscribe();
        let kinesis = Arc::clone(self);
        let ends = tokio::time::Instant::now() + SUBSCRIPTION;
        let created = state.shard(shard)?.created;
        let mut taken = subscription.taken.subscribe();
        Ok(async_stream::stream! {
            // It is active for as long as somebody reads this.
            let _active = subscription;
            yield Ok(initial(codec));
            loop {
                changes.mark_unchanged();
                let reader = Arc::clone(&stream);
                let read = tokio::task::spawn_blocking(move || reader.read(shard, next, EVENT_RECORDS, EVENT_BYTES)).await;
                let Ok(Ok(read)) = read else { return };
                next = read.next;
                let state = stream.state();
                let last = read.records.last();
                let arrived = last.map_or(0, |record| u64::try_from(record.arrived / 1_000).unwrap_or(0));
                let at = Sequence { shard_created: created, shard, ordinal: next.saturating_sub(1), arrived };
                let Ok(records) = kinesis.record_values(&stream, shard, &read.records) else { return };
                let body = Structure::default()
                    .with("Records", records)
                    .with_some("ContinuationSequenceNumber", (!read.is_end).then(|| at.to_string()))
                    .with("MillisBehindLatest", Value::Integer(read.behind_millis))
                    .with_some("ChildShards", read.is_end.then(|| children(&state, shard)));
                yield Ok(event("SubscribeToShardEvent", codec, &body.into()));
                let now = tokio::time::Instant::now();
                if read.is_end || now >= ends || *taken.borrow() {
                    return;
                }
                if read.behind_millis == 0 && next >= stream.head(shard) {
                    // Woken by records of other shards too, and by time: then the reader learns that all is well.
                    let until = (now + HEARTBEAT).min(ends);
                    loop {
                        let changed = tokio::select! {
                            changed = tokio::time::timeout_at(until, changes.changed()) => changed,
                            _ = ended.wait_for(|ended| *ended) => return,
                            _ = taken.wait_for(|taken| *taken) => return,
                        };
                        if stream.is_closed() {
                            return;
                        }
                        let has_more = stream.head(shard) > next || stream.state().shard(shard).is_ok_and(|shard| !shard.is_open());
                        if has_more || changed.is_err() {
                            break;
                        }
                    }
                }
            }
        })
    }
}
