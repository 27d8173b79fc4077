//! A topic of a Kafka cluster: each partition is read from an offset to an offset, what was committed alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::Fields;
use futures::future::try_join_all;
use krafka::auth::{AuthConfig, TlsConfig};
use krafka::consumer::{AutoOffsetReset, Consumer, IsolationLevel};
use krafka::{Kafka, KrafkaError};
use tokio::sync::OnceCell;

use crate::files::readable;
use crate::source::{Limits, StreamPosition, StreamSlice, StreamStanding};
use crate::streams::feed::{Feed, FeedRecord, SliceReader, gone, lost};
use crate::streams::metadata;
use crate::streams::options::{InitialPosition, KafkaTopic, Mechanism};
use crate::streams::source::Connections;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an answer without records is waited for.
const POLL: Duration = Duration::from_millis(500);

/// A topic.
#[derive(Debug)]
pub(crate) struct KafkaFeed {
    of: KafkaTopic,
    initial: InitialPosition,
    fails_on_loss: bool,
    connections: Arc<dyn Connections>,
    cluster: OnceCell<Cluster>,
}

/// The connection to a cluster, and a reader that asks where partitions begin and end.
struct Cluster {
    kafka: Kafka,
    asking: Consumer,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

/// A topic as it is now.
struct Topic {
    identity: String,
    /// Of each partition, the offset of the oldest record and the one behind the newest.
    bounds: BTreeMap<i32, (u64, u64)>,
}

impl KafkaFeed {
    pub(crate) fn new(
        of: KafkaTopic,
        initial: InitialPosition,
        fails_on_loss: bool,
        connections: Arc<dyn Connections>,
    ) -> Self {
        Self { of, initial, fails_on_loss, connections, cluster: OnceCell::new() }
    }

    fn name(&self) -> String {
        format!("topic \"{}\"", self.of.topic)
    }

    fn failed(&self, what: &str, error: KrafkaError) -> Error {
        let code = match &error {
            KrafkaError::Auth { .. } => Code::SERVICE_REFUSED,
            KrafkaError::Config { .. } => Code::OPTION_INVALID,
            _ => Code::INPUT_OUTPUT,
        };
        Error::new(code, format!("could not {what} {} at {}", self.name(), self.of.servers)).because(error)
    }

    async fn cluster(&self) -> Result<&Cluster> {
        self.cluster.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Cluster> {
        let failed = |error: KrafkaError| self.failed("reach", error);
        let security = self.security()?;
        let connecting = Kafka::builder(self.of.servers.clone())
            .client_id("catchment")
            .connect_timeout(PATIENCE)
            .request_timeout(PATIENCE)
            .allow_auto_create_topics(false)
            .security(security)
            .connect();
        let kafka = connecting.await.map_err(failed)?;
        let asking = reader(&kafka).await.map_err(failed)?;
        Ok(Cluster { kafka, asking })
    }

    fn security(&self) -> Result<AuthConfig> {
        let mut tls = TlsConfig::new();
        if let Some(file) = &self.of.authorities {
            tls = tls.with_ca_cert(file.clone());
        }
        let Some(mechanism) = self.of.mechanism else {
            return Ok(if self.of.is_encrypted { AuthConfig::ssl(tls) } else { AuthConfig::plaintext() });
        };
        let variable = |name: &str| {
            self.connections.variable(name).ok_or_else(|| {
                Error::new(Code::SERVICE_REFUSED, format!("{} asks for a name and a secret", self.name()))
                    .hint("set KAFKA_USERNAME and KAFKA_PASSWORD in the environment")
            })
        };
        let (name, secret) = (variable("KAFKA_USERNAME")?, variable("KAFKA_PASSWORD")?);
        let sasl = match mechanism {
            Mechanism::Plain => AuthConfig::sasl_plain(name, secret),
            Mechanism::Scram256 => AuthConfig::sasl_scram_sha256(name, secret),
            Mechanism::Scram512 => AuthConfig::sasl_scram_sha512(name, secret),
        };
        Ok(if self.of.is_encrypted { sasl.with_tls(tls) } else { sasl })
    }

    /// Asks for partitions and where they begin and end.
    async fn topic(&self) -> Result<Topic> {
        self.partitions(|_| true).await
    }

    /// Asks where some partitions begin and end.
    async fn partitions(&self, wanted: impl Fn(i32) -> bool) -> Result<Topic> {
        let asking = &self.cluster().await?.asking;
        let failed = |error: KrafkaError| self.failed("read", error);
        let found = asking.fetch_metadata(Some(&self.of.topic)).await.map_err(failed)?;
        let Some(info) = found.topics.into_iter().find(|topic| topic.name == self.of.topic) else {
            return Err(Error::new(
                Code::STREAM_UNKNOWN,
                format!("no {} at {}", self.name(), self.of.servers),
            ));
        };
        let partitions = info.partitions.keys().filter(|partition| wanted(**partition));
        let bounds = partitions.map(|partition| async {
            let (low, high) = asking.fetch_watermarks(&self.of.topic, *partition).await.map_err(failed)?;
            Ok::<_, Error>((*partition, (offset(low), offset(high))))
        });
        let bounds = try_join_all(bounds).await?.into_iter().collect();
        let identity = info.topic_id.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Topic { identity, bounds })
    }

    /// Where each partition stands when a flow begins.
    async fn beginning(&self, topic: &Topic, initial: InitialPosition) -> Result<StreamStanding> {
        let mut next = BTreeMap::new();
        let since = match initial {
            InitialPosition::Since(millis) => {
                let asking = &self.cluster().await?.asking;
                let found = asking.offsets_for_times_for_topic(&self.of.topic, millis).await;
                found.map_err(|error| self.failed("read", error))?
            }
            _ => Default::default(),
        };
        for (partition, (low, high)) in &topic.bounds {
            let at = match initial {
                InitialPosition::Earliest => *low,
                InitialPosition::Latest => *high,
                InitialPosition::Since(_) => match since.get(partition) {
                    // There is none as new as that.
                    Some(Ok(found)) => u64::try_from(*found).unwrap_or(*high),
                    _ => *high,
                },
            };
            next.insert(partition.to_string(), StreamPosition::Ordinal(at));
        }
        Ok(StreamStanding { identity: topic.identity.clone(), next })
    }

    /// Makes sure that what the flow has not read is still there.
    fn require_no_loss(&self, topic: &Topic, standing: &StreamStanding) -> Result<()> {
        let name = self.name();
        if standing.identity != topic.identity {
            return lost(format!("{name} is another one than was read: it was deleted and made anew"));
        }
        for (partition, position) in &standing.next {
            let Some(next) = position.ordinal() else { continue };
            let Some((low, high)) = partition.parse().ok().and_then(|number: i32| topic.bounds.get(&number))
            else {
                return lost(format!("partition {partition} of {name} is gone before all of it was read"));
            };
            if next < *low {
                return lost(format!(
                    "records {next} to {} of partition {partition} of {name} are gone before they were read",
                    low - 1
                ));
            }
            if next > *high {
                return lost(format!(
                    "partition {partition} of {name} ends at {high}, and {next} was to be read next"
                ));
            }
        }
        Ok(())
    }
}

fn offset(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or(0)
}

async fn reader(kafka: &Kafka) -> Result<Consumer, KrafkaError> {
    kafka
        .consumer_without_group()
        .isolation_level(IsolationLevel::ReadCommitted)
        .auto_offset_reset(AutoOffsetReset::None)
        .enable_auto_commit(false)
        .build()
        .await
}

fn number(partition: &str) -> Result<i32> {
    partition
        .parse()
        .map_err(|_| Error::new(Code::PLAN_CORRUPT, format!("{partition:?} is no partition of a topic")))
}

fn ordinal(position: &StreamPosition) -> Result<u64> {
    position.ordinal().ok_or_else(|| Error::new(Code::PLAN_CORRUPT, "a slice of a topic has no offsets"))
}

#[async_trait]
impl Feed for KafkaFeed {
    async fn plan(
        &self,
        standing: Option<&StreamStanding>,
        horizon: Option<&StreamStanding>,
        _: Limits,
    ) -> Result<Option<(StreamStanding, Vec<StreamSlice>)>> {
        let topic = self.topic().await?;
        let mut upto = match standing {
            Some(standing) if self.fails_on_loss => {
                self.require_no_loss(&topic, standing)?;
                standing.clone()
            }
            Some(standing) if standing.identity == topic.identity => standing.clone(),
            Some(_) => self.beginning(&topic, InitialPosition::Earliest).await?,
            None => self.beginning(&topic, self.initial).await?,
        };
        let next = |upto: &StreamStanding, partition: i32, (low, high): (u64, u64)| {
            // A partition that came later is read from its beginning.
            let next = upto.next.get(&partition.to_string()).and_then(StreamPosition::ordinal).unwrap_or(low);
            next.clamp(low, high)
        };
        let waiting =
            topic.bounds.iter().filter(|(at, bounds)| next(&upto, **at, **bounds) < bounds.1).count();
        let share = (self.of.offsets / waiting.max(1) as u64).max(1);
        let mut slices = Vec::new();
        for (partition, bounds) in &topic.bounds {
            let from = next(&upto, *partition, *bounds);
            let key = partition.to_string();
            let end = match horizon {
                Some(horizon) => horizon.next.get(&key).and_then(StreamPosition::ordinal).unwrap_or(0),
                None => bounds.1,
            };
            let until = from.saturating_add(share).min(end.min(bounds.1)).max(from);
            if until > from {
                slices.push(StreamSlice {
                    partition: key.clone(),
                    from: StreamPosition::Ordinal(from),
                    until: StreamPosition::Ordinal(until),
                    records: None,
                });
            }
            upto.next.insert(key, StreamPosition::Ordinal(until));
        }
        let is_news = standing.is_none_or(|standing| *standing != upto);
        Ok(is_news.then_some((upto, slices)))
    }

    async fn open(&self, identity: &str, slice: &StreamSlice, place: u64) -> Result<Box<dyn SliceReader>> {
        let (partition, from) = (number(&slice.partition)?, ordinal(&slice.from)?);
        // Slices are opened one for each partition: to ask for all of them each time would be their square.
        let topic = self.partitions(|other| other == partition).await?;
        let is_there = topic.bounds.get(&partition).is_some_and(|(low, _)| *low <= from);
        if topic.identity != identity || !is_there {
            return Err(gone(&self.name(), slice));
        }
        let failed = |error: KrafkaError| self.failed("read", error);
        let consumer = reader(&self.cluster().await?.kafka).await.map_err(failed)?;
        consumer.assign(&self.of.topic, vec![partition]).await.map_err(failed)?;
        let next = from + place;
        let start = i64::try_from(next).unwrap_or(i64::MAX);
        consumer.seek(&self.of.topic, partition, start).await.map_err(failed)?;
        Ok(Box::new(TopicReader {
            name: format!("{} at {}", self.name(), self.of.servers),
            topic: self.of.topic.clone(),
            consumer,
            partition,
            from,
            next,
            until: ordinal(&slice.until)?,
        }))
    }

    async fn holds(&self, standing: &StreamStanding, slices: &[StreamSlice]) -> Result<bool> {
        let topic = self.topic().await?;
        if topic.identity != standing.identity {
            return Ok(false);
        }
        for slice in slices {
            let (partition, from) = (number(&slice.partition)?, ordinal(&slice.from)?);
            if topic.bounds.get(&partition).is_none_or(|(low, _)| *low > from) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn horizon(&self) -> Result<StreamStanding> {
        let topic = self.topic().await?;
        let end = |(at, (_, high)): (&i32, &(u64, u64))| (at.to_string(), StreamPosition::Ordinal(*high));
        let next = topic.bounds.iter().map(end).collect();
        Ok(StreamStanding { identity: topic.identity, next })
    }

    fn sequence(&self, _: &StreamSlice, record: &FeedRecord) -> Result<String> {
        Ok(record.ordinal.unwrap_or_default().to_string())
    }

    fn metadata_fields(&self) -> Fields {
        metadata::of_topics()
    }

    fn metadata(&self, slice: &StreamSlice, records: &[&FeedRecord]) -> Result<Vec<ArrayRef>> {
        Ok(metadata::topic_columns(&self.of.topic, number(&slice.partition)?, records))
    }
}

/// Reads a slice of a partition.
struct TopicReader {
    name: String,
    topic: String,
    consumer: Consumer,
    partition: i32,
    from: u64,
    next: u64,
    until: u64,
}

#[async_trait]
impl SliceReader for TopicReader {
    async fn next(&mut self) -> Result<Option<Vec<FeedRecord>>> {
        let started = Instant::now();
        while self.next < self.until {
            let polled = self.consumer.poll(POLL).await.map_err(|error| {
                Error::new(Code::INPUT_OUTPUT, format!("could not read {}", self.name)).because(error)
            })?;
            // What was undone, and what only marks it, takes offsets and is no record.
            if let Some(position) = self.consumer.position(&self.topic, self.partition).await {
                self.next = self.next.max(offset(position));
            }
            let wanted = polled.into_iter().filter(|record| offset(record.offset) < self.until);
            let records: Vec<FeedRecord> = wanted
                .map(|record| FeedRecord {
                    place: offset(record.offset) - self.from,
                    ordinal: Some(offset(record.offset)),
                    sequence: None,
                    key: record.key.as_deref().map(readable),
                    arrived: record.timestamp,
                    data: record.value,
                })
                .collect();
            if !records.is_empty() {
                return Ok(Some(records));
            }
            if started.elapsed() > PATIENCE {
                let message = format!("{} gives no records from {} on", self.name, self.next);
                return Err(Error::new(Code::INPUT_OUTPUT, message));
            }
        }
        // Nothing waits for what it still holds.
        let _ = self.consumer.close().await;
        Ok(None)
    }
}
