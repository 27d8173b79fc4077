//! A stream of a Kinesis endpoint: each shard is read from where the flow stands, parents before their children.
//!
//! A shard does not tell how many records it has, so that planning has to read. What it read is kept until the next plan, and
//! read again from the service only when a process died in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::BehaviorVersion;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{Shard, ShardIteratorType};
use bytes::Bytes;
use catchment_core::{Code, Error, Result};
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::Fields;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::OnceCell;

use crate::source::{Limits, StreamPosition, StreamSlice, StreamStanding};
use crate::streams::feed::{Feed, FeedRecord, SliceReader, gone, lost};
use crate::streams::metadata;
use crate::streams::options::{InitialPosition, KinesisStream};
use crate::streams::source::Connections;

/// How long one question may take, all tries together.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait behind an answer without records: a shard may be asked five times a second.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers without records, one behind the other, after which the rest is left to the next plan.
const EMPTY: usize = 25;

/// Records handed on at once.
const BATCH_ROWS: usize = 8_192;

/// Shards that are read at the same time.
const AT_A_TIME: usize = 16;

/// A stream.
#[derive(Debug)]
pub(crate) struct KinesisFeed {
    of: KinesisStream,
    initial: InitialPosition,
    fails_on_loss: bool,
    connections: Arc<dyn Connections>,
    client: OnceCell<Client>,
    /// What planning has read, by slice.
    fetched: Mutex<HashMap<Slice, Arc<Vec<FeedRecord>>>>,
    /// Where reading a shard goes on without asking for a place.
    iterators: Mutex<HashMap<String, (StreamPosition, String)>>,
}

/// What tells a slice from others: its shard, and its last record.
type Slice = (String, String);

/// A stream as it is now.
struct About {
    identity: String,
    /// How long records are kept, in milliseconds.
    kept: i64,
    /// Shards by their ids: children have higher ones than their parents.
    shards: BTreeMap<String, Shard>,
}

impl About {
    /// The parents of a shard that are still there.
    fn parents<'a>(&'a self, shard: &'a Shard) -> impl Iterator<Item = &'a str> {
        parents(shard).filter(|parent| self.shards.contains_key(*parent))
    }
}

fn parents(shard: &Shard) -> impl Iterator<Item = &str> {
    shard.parent_shard_id().into_iter().chain(shard.adjacent_parent_shard_id())
}

/// What was read of a shard from a position on.
struct Fetched {
    records: Vec<FeedRecord>,
    next: StreamPosition,
}

impl KinesisFeed {
    pub(crate) fn new(
        of: KinesisStream,
        initial: InitialPosition,
        fails_on_loss: bool,
        connections: Arc<dyn Connections>,
    ) -> Self {
        Self {
            of,
            initial,
            fails_on_loss,
            connections,
            client: OnceCell::new(),
            fetched: Mutex::default(),
            iterators: Mutex::default(),
        }
    }

    fn name(&self) -> String {
        format!("Kinesis stream \"{}\"", self.of.stream)
    }

    async fn client(&self) -> &Client {
        self.client.get_or_init(|| self.connect()).await
    }

    async fn connect(&self) -> Client {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .operation_timeout(PATIENCE)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::standard().with_max_attempts(5))
            .timeout_config(timeouts);
        if let Some(region) = &self.of.region {
            loader = loader.region(aws_sdk_kinesis::config::Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.of.endpoint {
            loader = loader.endpoint_url(endpoint.clone());
        }
        Client::new(&loader.load().await)
    }

    fn failed<E>(&self, what: &str, error: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let refusals = [
            "AccessDeniedException",
            "IncompleteSignatureException",
            "InvalidSignatureException",
            "MissingAuthenticationTokenException",
            "UnrecognizedClientException",
            "InvalidClientTokenId",
        ];
        let code = match error.as_service_error().and_then(ProvideErrorMetadata::code) {
            Some("ResourceNotFoundException") => Code::STREAM_UNKNOWN,
            Some(code) if refusals.contains(&code) => Code::SERVICE_REFUSED,
            // Without a region or credentials nothing is sent.
            None if is_unsent(&error) => Code::SERVICE_REFUSED,
            _ => Code::INPUT_OUTPUT,
        };
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            why = error.to_string();
            cause = error.source();
        }
        let told = Error::new(code, format!("could not {what} {}: {why}", self.name()));
        match code {
            Code::SERVICE_REFUSED => {
                told.hint("credentials and region come from the environment, a profile or the machine's role")
            }
            _ => told,
        }
    }

    async fn about(&self) -> Result<About> {
        let client = self.client().await;
        let summary = client.describe_stream_summary().stream_name(&self.of.stream).send().await;
        let summary = summary.map_err(|error| self.failed("describe", error))?;
        let (mut identity, mut kept) = (String::new(), i64::MAX);
        if let Some(summary) = summary.stream_description_summary() {
            identity =
                summary.stream_creation_timestamp().to_millis().map(|at| at.to_string()).unwrap_or_default();
            kept = i64::from(summary.retention_period_hours()) * 3_600_000;
        }
        let mut shards = BTreeMap::new();
        let mut token = None;
        loop {
            let asking = match token.take() {
                None => client.list_shards().stream_name(&self.of.stream),
                Some(token) => client.list_shards().next_token(token),
            };
            let answer = asking.send().await.map_err(|error| self.failed("list shards of", error))?;
            let listed = answer.shards.unwrap_or_default();
            shards.extend(listed.into_iter().map(|shard| (shard.shard_id.clone(), shard)));
            match answer.next_token {
                Some(next) => token = Some(next),
                None => return Ok(About { identity, kept, shards }),
            }
        }
    }

    /// Where each shard stands when a flow begins.
    fn beginning(&self, about: &About, initial: InitialPosition) -> StreamStanding {
        let now = self.connections.now_millis();
        let at = match initial {
            InitialPosition::Latest => StreamPosition::Since(now),
            InitialPosition::Since(millis) if millis > now.saturating_sub(about.kept) => {
                StreamPosition::Since(millis)
            }
            InitialPosition::Since(_) | InitialPosition::Earliest => StreamPosition::Earliest,
        };
        // Of shards that are gone nothing was missed.
        let gone =
            about.shards.values().flat_map(parents).filter(|parent| !about.shards.contains_key(*parent));
        let mut next: BTreeMap<String, StreamPosition> =
            gone.map(|parent| (parent.to_owned(), StreamPosition::End)).collect();
        next.extend(about.shards.keys().map(|shard| (shard.clone(), at.clone())));
        StreamStanding { identity: about.identity.clone(), next }
    }

    /// Makes sure that what the flow has not read is still there.
    async fn require_no_loss(&self, about: &About, standing: &StreamStanding) -> Result<()> {
        let name = self.name();
        if standing.identity != about.identity {
            return lost(format!("{name} is another one than was read: it was deleted and made anew"));
        }
        let parents = about.shards.values().flat_map(parents).map(str::to_owned);
        let unread = |shard: &String| {
            standing.next.get(shard) != Some(&StreamPosition::End) && !about.shards.contains_key(shard)
        };
        if let Some(shard) = standing.next.keys().cloned().chain(parents).find(unread) {
            return lost(format!("shard {shard} of {name} is gone before all of it was read"));
        }
        let oldest = self.connections.now_millis().saturating_sub(about.kept);
        for (shard, position) in &standing.next {
            let is_kept = match position {
                StreamPosition::Behind { sequence, complete } if *complete < oldest => {
                    // Whether records were lost cannot be told, unless the last one that was read is still there.
                    self.is_there(shard, sequence).await?
                }
                StreamPosition::Since(millis) => *millis >= oldest,
                _ => true,
            };
            if !is_kept {
                return lost(format!(
                    "shard {shard} of {name} was not read for longer than it keeps its records, which may be gone"
                ));
            }
        }
        Ok(())
    }

    async fn is_there(&self, shard: &str, sequence: &str) -> Result<bool> {
        let asking = self
            .client()
            .await
            .get_shard_iterator()
            .stream_name(&self.of.stream)
            .shard_id(shard)
            .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
            .starting_sequence_number(sequence);
        let iterator = match asking.send().await {
            Ok(answer) => answer.shard_iterator,
            Err(error)
                if error.as_service_error().is_some_and(|error| error.is_invalid_argument_exception()) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(self.failed("find a place in", error)),
        };
        let Some(iterator) = iterator else { return Ok(false) };
        let answer = self.client().await.get_records().shard_iterator(iterator).limit(1).send().await;
        let answer = answer.map_err(|error| self.failed("read", error))?;
        Ok(answer.records().first().is_some_and(|record| record.sequence_number() == sequence))
    }

    async fn iterator(&self, shard: &str, position: &StreamPosition) -> Result<String> {
        let known = self.iterators.lock().unwrap_or_else(PoisonError::into_inner).remove(shard);
        if let Some((_, iterator)) = known.filter(|(at, _)| at == position) {
            return Ok(iterator);
        }
        let asking = self.client().await.get_shard_iterator().stream_name(&self.of.stream).shard_id(shard);
        let asking = match position {
            StreamPosition::Since(millis) => asking
                .shard_iterator_type(ShardIteratorType::AtTimestamp)
                .timestamp(DateTime::from_millis(*millis)),
            StreamPosition::Behind { sequence, .. } => asking
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(sequence),
            _ => asking.shard_iterator_type(ShardIteratorType::TrimHorizon),
        };
        let answer = asking.send().await.map_err(|error| self.failed("find a place in", error))?;
        answer.shard_iterator.ok_or_else(|| {
            Error::new(Code::INPUT_OUTPUT, format!("{} gives no place in shard {shard}", self.name()))
        })
    }

    /// Keeps what was fetched for whoever reads it; `None` when that is nothing.
    fn keep(&self, shard: &str, from: StreamPosition, records: Vec<FeedRecord>) -> Option<StreamSlice> {
        let last = records.last()?;
        let until = StreamPosition::Behind {
            sequence: last.sequence.clone().unwrap_or_default(),
            complete: last.arrived,
        };
        let count = Some(records.len() as u64);
        let slice = StreamSlice { partition: shard.to_owned(), from, until, records: count };
        let mut kept = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(Self::key_of(&slice), Arc::new(records));
        Some(slice)
    }

    /// Reads a shard until there is nothing more, `bytes` were read, or what comes arrived later than the horizon.
    async fn fetch(
        &self,
        shard: &str,
        from: &StreamPosition,
        (bytes, horizon, kept): (u64, Option<i64>, i64),
    ) -> Result<Fetched> {
        let mut iterator = self.iterator(shard, from).await?;
        let (mut records, mut taken, mut empty): (Vec<FeedRecord>, u64, usize) = (Vec::new(), 0, 0);
        let (mut complete, mut ended) = (None, false);
        loop {
            let asked = self.connections.now_millis();
            // Many shards share the bytes: small records of each are not to fill the memory.
            let most = (bytes.saturating_sub(taken) / 512).clamp(100, 10_000) as i32;
            let answer = self.client().await.get_records().shard_iterator(&iterator).limit(most).send().await;
            let answer = answer.map_err(|error| self.failed("read", error))?;
            empty = if answer.records.is_empty() { empty + 1 } else { 0 };
            for record in answer.records {
                let arrived = record.approximate_arrival_timestamp.and_then(|at| at.to_millis().ok());
                let data = Bytes::from(record.data.into_inner());
                taken += data.len() as u64 + record.partition_key.as_ref().map_or(0, String::len) as u64;
                complete = arrived.or(complete);
                records.push(FeedRecord {
                    place: records.len() as u64,
                    ordinal: None,
                    sequence: Some(record.sequence_number),
                    key: record.partition_key,
                    arrived: arrived.unwrap_or(asked),
                    data: Some(data),
                });
            }
            let is_at_end = answer.millis_behind_latest.unwrap_or(0) <= 0;
            if is_at_end {
                complete = Some(asked);
            }
            match answer.next_shard_iterator {
                Some(next) => iterator = next,
                None => {
                    ended = true;
                    break;
                }
            }
            let is_later = horizon.is_some_and(|horizon| complete.is_some_and(|at| at >= horizon));
            if is_at_end || taken >= bytes || is_later || empty >= EMPTY {
                break;
            }
            if empty > 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let next = match records.last().and_then(|record| record.sequence.clone()) {
            _ if ended => StreamPosition::End,
            Some(sequence) => StreamPosition::Behind { sequence, complete: complete.unwrap_or_default() },
            None => moved_on(from, complete, kept),
        };
        if next != StreamPosition::End {
            let mut iterators = self.iterators.lock().unwrap_or_else(PoisonError::into_inner);
            iterators.insert(shard.to_owned(), (next.clone(), iterator));
        }
        Ok(Fetched { records, next })
    }

    /// Reads a slice again that this process did not plan, or has let go of.
    async fn fetch_again(&self, slice: &StreamSlice) -> Result<Arc<Vec<FeedRecord>>> {
        let StreamPosition::Behind { sequence: last, .. } = &slice.until else {
            return Err(Error::new(Code::PLAN_CORRUPT, "a slice of a Kinesis stream has no last record"));
        };
        let wanted = usize::try_from(slice.records.unwrap_or(0)).unwrap_or(usize::MAX);
        let mut records: Vec<FeedRecord> = Vec::new();
        let mut from = slice.from.clone();
        while records.last().is_none_or(|record| record.sequence.as_ref() != Some(last)) {
            let more = self.fetch(&slice.partition, &from, (1, None, i64::MAX)).await?;
            if more.records.is_empty() {
                return Err(gone(&self.name(), slice));
            }
            let first = records.len() as u64;
            records.extend(
                more.records.into_iter().map(|record| FeedRecord { place: first + record.place, ..record }),
            );
            if let Some(end) = records.iter().position(|record| record.sequence.as_ref() == Some(last)) {
                records.truncate(end + 1);
            }
            if records.len() > wanted {
                return Err(gone(&self.name(), slice));
            }
            from = more.next;
        }
        match records.len() == wanted {
            true => Ok(Arc::new(records)),
            false => Err(gone(&self.name(), slice)),
        }
    }

    fn key_of(slice: &StreamSlice) -> Slice {
        let last = match &slice.until {
            StreamPosition::Behind { sequence, .. } => sequence.clone(),
            _ => String::new(),
        };
        (slice.partition.clone(), last)
    }
}

fn is_unsent<E>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::ConstructionFailure(_) => true,
        SdkError::DispatchFailure(failure) => {
            failure.as_connector_error().is_some_and(|error| error.is_other())
        }
        _ => false,
    }
}

/// A position behind which nothing has come. It is told anew before what is known of it is as old as the oldest record.
fn moved_on(from: &StreamPosition, complete: Option<i64>, kept: i64) -> StreamPosition {
    let is_old = |since: i64| complete.is_some_and(|complete| complete - since > kept / 2);
    match (from, complete) {
        (StreamPosition::Behind { sequence, complete: since }, Some(complete)) if is_old(*since) => {
            StreamPosition::Behind { sequence: sequence.clone(), complete }
        }
        (StreamPosition::Since(since), Some(complete)) if is_old(*since) => StreamPosition::Since(complete),
        _ => from.clone(),
    }
}

/// A shard that can be read, from where, and up to which time; `None` for one that waits for its parents or has
/// nothing to give.
fn ready<'a>(
    about: &'a About,
    upto: &StreamStanding,
    horizon: Option<&StreamStanding>,
    id: &str,
) -> Option<(&'a String, StreamPosition, Option<i64>)> {
    let (id, shard) = about.shards.get_key_value(id)?;
    let until = horizon.map(|horizon| match horizon.next.get(id) {
        Some(StreamPosition::Since(millis)) => *millis,
        // The shard was made later than that.
        _ => i64::MIN,
    });
    let from = upto.next.get(id).cloned().unwrap_or(StreamPosition::Earliest);
    let waits = about.parents(shard).any(|parent| upto.next.get(parent) != Some(&StreamPosition::End));
    let is_over = until.is_some_and(|until| until == i64::MIN || is_complete(&from, until));
    (from != StreamPosition::End && !waits && !is_over).then_some((id, from, until))
}

/// Whether everything that had arrived by a time was read.
fn is_complete(position: &StreamPosition, horizon: i64) -> bool {
    match position {
        StreamPosition::Behind { complete, .. } => *complete >= horizon,
        StreamPosition::Since(millis) => *millis >= horizon,
        _ => false,
    }
}

#[async_trait]
impl Feed for KinesisFeed {
    async fn plan(
        &self,
        standing: Option<&StreamStanding>,
        horizon: Option<&StreamStanding>,
        limits: Limits,
    ) -> Result<Option<(StreamStanding, Vec<StreamSlice>)>> {
        let about = self.about().await?;
        let mut upto = match standing {
            Some(standing) if self.fails_on_loss => {
                self.require_no_loss(&about, standing).await?;
                standing.clone()
            }
            Some(standing) if standing.identity == about.identity => standing.clone(),
            Some(_) => self.beginning(&about, InitialPosition::Earliest),
            None => self.beginning(&about, self.initial),
        };
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let is_end = |upto: &StreamStanding, shard: &str| upto.next.get(shard) == Some(&StreamPosition::End);
        let open = about.shards.keys().filter(|shard| !is_end(&upto, shard)).count().max(1) as u64;
        let mut slices = Vec::new();
        let mut left: BTreeSet<&String> = about.shards.keys().collect();
        loop {
            // Parents before their children, and all that wait for nothing at the same time.
            let mut fetches = Vec::new();
            for (id, from, until) in left.iter().filter_map(|id| ready(&about, &upto, horizon, id)) {
                let limits = (limits.bytes / open, until, about.kept);
                let fetch = async move { Ok((id, self.fetch(id, &from, limits).await?, from)) };
                fetches.push(fetch.boxed());
            }
            if fetches.is_empty() {
                break;
            }
            let mut fetches = futures::stream::iter(fetches).buffered(AT_A_TIME);
            while let Some((id, fetched, from)) = fetches.try_next().await? {
                left.remove(id);
                slices.extend(self.keep(id, from, fetched.records));
                upto.next.insert(id.clone(), fetched.next);
            }
        }
        // Of shards that are gone only the parents of others need to be remembered.
        upto.next.retain(|id, _| {
            about.shards.contains_key(id)
                || about.shards.values().flat_map(parents).any(|parent| parent == id)
        });
        let is_news = standing.is_none_or(|standing| *standing != upto);
        Ok(is_news.then_some((upto, slices)))
    }

    async fn open(&self, identity: &str, slice: &StreamSlice, place: u64) -> Result<Box<dyn SliceReader>> {
        let kept =
            self.fetched.lock().unwrap_or_else(PoisonError::into_inner).get(&Self::key_of(slice)).cloned();
        let records = match kept {
            Some(records) if slice.records == Some(records.len() as u64) => records,
            _ => {
                if self.about().await?.identity != identity {
                    return Err(gone(&self.name(), slice));
                }
                let records = self.fetch_again(slice).await?;
                let mut kept = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
                kept.insert(Self::key_of(slice), Arc::clone(&records));
                records
            }
        };
        Ok(Box::new(ShardReader { records, next: usize::try_from(place).unwrap_or(usize::MAX) }))
    }

    async fn holds(&self, standing: &StreamStanding, slices: &[StreamSlice]) -> Result<bool> {
        let about = self.about().await?;
        if about.identity != standing.identity {
            return Ok(false);
        }
        for slice in slices {
            let is_there = about.shards.contains_key(&slice.partition)
                && match self.fetch_again(slice).await {
                    Ok(records) => {
                        let mut kept = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
                        kept.insert(Self::key_of(slice), records);
                        true
                    }
                    Err(error) if error.code() == Code::HISTORY_GONE => false,
                    Err(error) => return Err(error),
                };
            if !is_there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn horizon(&self) -> Result<StreamStanding> {
        let now = self.connections.now_millis();
        let about = self.about().await?;
        let next = about.shards.into_keys().map(|shard| (shard, StreamPosition::Since(now))).collect();
        Ok(StreamStanding { identity: about.identity, next })
    }

    fn sequence(&self, _: &StreamSlice, record: &FeedRecord) -> Result<String> {
        Ok(record.sequence.clone().unwrap_or_default())
    }

    fn metadata_fields(&self) -> Fields {
        metadata::of_shards()
    }

    fn metadata(&self, slice: &StreamSlice, records: &[&FeedRecord]) -> Result<Vec<ArrayRef>> {
        let sequences = records.iter().map(|record| record.sequence.clone().unwrap_or_default()).collect();
        Ok(metadata::shard_columns(&self.of.stream, &slice.partition, sequences, records))
    }
}

/// Hands on the records of a slice.
struct ShardReader {
    records: Arc<Vec<FeedRecord>>,
    next: usize,
}

#[async_trait]
impl SliceReader for ShardReader {
    async fn next(&mut self) -> Result<Option<Vec<FeedRecord>>> {
        let rest = self.records.get(self.next..).unwrap_or_default();
        let records: Vec<FeedRecord> = rest.iter().take(BATCH_ROWS).cloned().collect();
        self.next += records.len();
        Ok((!records.is_empty()).then_some(records))
    }
}
