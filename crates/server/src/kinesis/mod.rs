//! The Amazon Kinesis Data Streams API over the stream log.
//!
//! JSON 1.1 and CBOR over `POST /`, as AWS's clients speak it. Behaviour follows AWS's recorded answers, then the public
//! service model, then moto, then kinesalite. Streams are ACTIVE at once, since making and resharding them takes no time.

mod answer;
mod consumers;
mod event_stream;
mod firehose;
mod operations;
mod rates;
mod records;
mod request;
mod shape;
mod shards;
mod streams;
mod token;
mod value;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use catchment_core::Clock;
use catchment_log::{Log, StreamName};
use tokio::sync::watch;

use crate::credentials::Credentials;
use crate::ingest::{self, RecordCheck, Refused};
use crate::kinesis::answer::{Answer, Fault};
use crate::kinesis::consumers::{Subscribed, Subscription};
use crate::kinesis::rates::Rates;
use crate::kinesis::request::Request;
use crate::kinesis::value::{Codec, Structure, Value};
use crate::sigv4::{SignatureFault, SignedRequest};

/// The target of operations, before their name.
const TARGET: &str = "Kinesis_20131202.";

/// The service.
pub struct Kinesis {
    log: Arc<Log>,
    clock: Arc<dyn Clock>,
    account: String,
    region: Option<String>,
    credentials: Option<Arc<dyn Credentials>>,
    shard_limit: usize,
    /// What shards let pass, where AWS's limits are kept.
    rates: Option<Rates>,
    checks: BTreeMap<String, RecordCheck>,
    /// The shards that are pushed to consumers now.
    subscriptions: Mutex<BTreeMap<Subscribed, Weak<Subscription>>>,
    /// Set when readers that are pushed to are to go.
    ended: watch::Sender<bool>,
}

/// What is told to clients, and asked of them.
#[derive(Clone)]
pub struct KinesisOptions {
    /// The account in names of resources, twelve digits.
    pub account: String,
    /// The region in names of resources; that which a request is signed for when there is none.
    pub region: Option<String>,
    /// Open shards that all streams together may have.
    pub shard_limit: usize,
    /// Limits of AWS that protect its fleet are kept: what a shard takes and gives in a second, shards halved at most.
    pub has_limits: bool,
    /// What records of plain HTTP are held to, by stream.
    pub checks: BTreeMap<String, RecordCheck>,
}

impl Default for KinesisOptions {
    fn default() -> Self {
        let checks = BTreeMap::new();
        Self {
            account: "000000000000".to_owned(),
            region: None,
            shard_limit: 6_000,
            has_limits: false,
            checks,
        }
    }
}

/// A request as it came.
pub struct Incoming<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path.
    pub path: &'a str,
    /// What stands behind the question mark.
    pub query: &'a str,
    /// The host that it was sent to, where HTTP/2 told it.
    pub authority: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Kinesis {
    /// Makes the service. Without credentials everyone may do everything.
    #[must_use]
    pub fn new(
        log: Arc<Log>,
        clock: Arc<dyn Clock>,
        options: KinesisOptions,
        credentials: Option<Arc<dyn Credentials>>,
    ) -> Self {
        let KinesisOptions { account, region, shard_limit, has_limits, checks } = options;
        Self {
            log,
            clock,
            account,
            region,
            credentials,
            shard_limit,
            rates: has_limits.then(Rates::default),
            checks,
            subscriptions: Mutex::default(),
            ended: watch::Sender::new(false),
        }
    }

    /// Ends what would go on for minutes: the pushing of records to readers.
    pub fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Deletes every stream.
    ///
    /// # Errors
    /// Returns errors of the disk.
    pub fn delete_everything(&self) -> catchment_core::Result<()> {
        self.log.streams().iter().try_for_each(|stream| self.log.delete(&stream.state().name))
    }

    /// Answers a request.
    pub async fn handle(self: &Arc<Self>, incoming: Incoming<'_>) -> Response<Body> {
        let content_type = header_text(incoming.headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        let codec = match content_type.as_str() {
            "application/x-amz-json-1.1" => Codec::Json,
            "application/x-amz-cbor-1.1" => Codec::Cbor,
            other => return self.other_protocol(other, &incoming),
        };
        let target = header_text(incoming.headers, "x-amz-target").unwrap_or_default();
        let delivered = target.strip_prefix(firehose::TARGET);
        let operation = delivered.or(target.strip_prefix(TARGET)).unwrap_or_default().to_owned();
        let (service, members) = match delivered {
            Some(operation) => ("firehose", firehose::members(operation)),
            None => ("kinesis", operations::members(&operation)),
        };
        let answer = match members {
            None => Err(Fault::bare("UnknownOperationException")),
            // Who sent it is known before anything is made of it.
            Some(members) => {
                self.permitted(&incoming, service).and_then(|region| match codec.read(&incoming.body) {
                    None => Err(Fault::bare("SerializationException")),
                    Some(body) => Ok((shape::check(members, body)?, region)),
                })
            }
        };
        let (body, region) = match answer {
            Ok(request) => request,
            Err(fault) => return fault_response(codec, &fault),
        };
        let request = Request { body, region: &region };
        if delivered.is_some() {
            return match self.deliver(&operation, &request).await {
                Ok(value) => with_ids(Response::new(Body::from(codec.write(&value))), codec.content_type()),
                Err(fault) => fault_response(codec, &fault),
            };
        }
        if operation == "SubscribeToShard" {
            return match self.subscribe(&request, codec) {
                Ok(events) => {
                    with_ids(Response::new(Body::from_stream(events)), "application/vnd.amazon.eventstream")
                }
                Err(fault) => fault_response(codec, &fault),
            };
        }
        match self.perform(&operation, request).await {
            Ok(Value::Null) => with_ids(Response::new(Body::empty()), codec.content_type()),
            Ok(value) => with_ids(Response::new(Body::from(codec.write(&value))), codec.content_type()),
            Err(fault) => fault_response(codec, &fault),
        }
    }

    /// Who may send a request, and for which region it is.
    fn permitted(&self, incoming: &Incoming<'_>, service: &str) -> Answer<String> {
        let asked = self.signer(incoming, service).map_err(|fault| match fault {
            SignatureFault::Missing => {
                Fault::new("MissingAuthenticationTokenException", "Missing Authentication Token")
            }
            SignatureFault::Incomplete(message) => Fault::new("IncompleteSignatureException", message),
            SignatureFault::UnknownKey => Fault::new(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            ),
            SignatureFault::Wrong(message) => Fault::new("InvalidSignatureException", message),
        })?;
        Ok(self.region.clone().or(asked).unwrap_or_else(|| "us-east-1".to_owned()))
    }

    /// The region that a request is signed for, when it may be sent.
    fn signer(&self, incoming: &Incoming<'_>, service: &str) -> Result<Option<String>, SignatureFault> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let mut headers: Vec<(String, String)> =
            incoming.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        if let Some(authority) = incoming.authority {
            // Clients of HTTP/2 sign it under either name.
            headers.push((":authority".to_owned(), authority.to_owned()));
            if !incoming.headers.contains_key(header::HOST) {
                headers.push(("host".to_owned(), authority.to_owned()));
            }
        }
        let signed = SignedRequest {
            method: incoming.method.as_str(),
            path: incoming.path,
            query: incoming.query,
            headers: &headers,
            body: &incoming.body,
        };
        let Some(credentials) = &self.credentials else { return Ok(signed.region()) };
        let secret = |key: &str| credentials.secret(key);
        signed.verify(service, self.clock.now_micros(), secret).map(|signer| Some(signer.region))
    }

    /// Answers `POST /v1/streams/{name}`: signed for `kinesis`, or with a key and its secret as `Authorization: Bearer KEY:SECRET`.
    pub async fn ingest(&self, name: &str, incoming: Incoming<'_>) -> Response<Body> {
        if let Err(refused) = self.require_key(&incoming) {
            return refused.into_response();
        }
        let key = incoming.query.split('&').find_map(|part| part.strip_prefix("key="));
        // A field without a name decides nothing.
        let key = key
            .filter(|key| !key.is_empty())
            .map(|key| percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned());
        match StreamName::new(name).and_then(|name| self.log.stream(&name)) {
            Ok(stream) => {
                let check = self.checks.get(name);
                ingest::put(&stream, incoming.headers, incoming.body, key.as_deref(), check).await
            }
            Err(error) => Refused::new(StatusCode::NOT_FOUND, error.to_string()).into_response(),
        }
    }

    /// Whether requests need a key.
    pub(crate) fn asks_for_keys(&self) -> bool {
        self.credentials.is_some()
    }

    /// Whether a request of a browser comes from somebody with a key: its name and secret as HTTP's basic authentication.
    pub(crate) fn is_reader(&self, incoming: &Incoming<'_>) -> bool {
        let Some(credentials) = &self.credentials else { return true };
        let basic = header_text(incoming.headers, header::AUTHORIZATION.as_str())
            .and_then(|text| text.strip_prefix("Basic ").map(str::to_owned));
        let decoded = basic.and_then(|text| STANDARD.decode(text).ok());
        let Some(decoded) = decoded.and_then(|bytes| String::from_utf8(bytes).ok()) else {
            return self.require_key(incoming).is_ok();
        };
        let (key, given) = decoded.split_once(':').unwrap_or((&decoded, ""));
        credentials.secret(key).is_some_and(|secret| is_same(&secret, given.as_bytes()))
    }

    /// Makes sure that a request of plain HTTP comes from somebody with a key.
    pub(crate) fn require_key(&self, incoming: &Incoming<'_>) -> Result<(), Refused> {
        let bearer = header_text(incoming.headers, header::AUTHORIZATION.as_str())
            .and_then(|text| text.strip_prefix("Bearer ").map(str::to_owned));
        let is_permitted = match (&self.credentials, bearer) {
            (Some(credentials), Some(bearer)) => {
                let (key, given) = bearer.split_once(':').unwrap_or((&bearer, ""));
                credentials.secret(key).is_some_and(|secret| is_same(&secret, given.as_bytes()))
            }
            _ => self.signer(incoming, "kinesis").is_ok(),
        };
        match is_permitted {
            true => Ok(()),
            false => Err(Refused::new(
                StatusCode::UNAUTHORIZED,
                "sign the request, or send Authorization: Bearer KEY:SECRET",
            )),
        }
    }

    async fn perform(self: &Arc<Self>, operation: &str, request: Request<'_>) -> Answer {
        match operation {
            "AddTagsToStream" | "TagResource" => self.tag(&request).await,
            "CreateStream" => self.create_stream(&request),
            "DecreaseStreamRetentionPeriod" => self.change_retention(&request, false).await,
            "IncreaseStreamRetentionPeriod" => self.change_retention(&request, true).await,
            "DeleteResourcePolicy" => self.delete_policy(&request).await,
            "DeleteStream" => self.delete_stream(&request),
            "DeregisterStreamConsumer" => self.deregister_consumer(&request).await,
            "DescribeLimits" => Ok(self.describe_limits()),
            "DescribeStream" => self.describe_stream(&request),
            "DescribeStreamConsumer" => self.describe_consumer(&request),
            "DescribeStreamSummary" => self.describe_summary(&request),
            "DisableEnhancedMonitoring" => self.monitor(&request, false).await,
            "EnableEnhancedMonitoring" => self.monitor(&request, true).await,
            "GetRecords" => tokio::task::block_in_place(|| self.get_records(&request)),
            "GetResourcePolicy" => self.get_policy(&request),
            "GetShardIterator" => tokio::task::block_in_place(|| self.get_iterator(&request)),
            "ListShards" => self.list_shards(&request),
            "ListStreamConsumers" => self.list_consumers(&request),
            "ListStreams" => self.list_streams(&request),
            "ListTagsForResource" | "ListTagsForStream" => self.list_tags(&request),
            "MergeShards" => self.merge_shards(&request).await,
            "PutRecord" => self.put_record(&request).await,
            "PutRecords" => self.put_records(&request).await,
            "PutResourcePolicy" => self.put_policy(&request).await,
            "RegisterStreamConsumer" => self.register_consumer(&request).await,
            "RemoveTagsFromStream" | "UntagResource" => self.untag(&request).await,
            "SplitShard" => self.split_shard(&request).await,
            "StartStreamEncryption" => self.encrypt(&request, true).await,
            "StopStreamEncryption" => self.encrypt(&request, false).await,
            "UpdateShardCount" => self.update_count(&request).await,
            "UpdateStreamMode" => self.update_mode(&request).await,
            _ => Err(Fault::bare("UnknownOperationException")),
        }
    }

    /// Requests of a content type that is not one of the two, answered as AWS answers them.
    fn other_protocol(&self, content_type: &str, incoming: &Incoming<'_>) -> Response<Body> {
        let target = header_text(incoming.headers, "x-amz-target").unwrap_or_default();
        let is_known =
            target.strip_prefix(TARGET).is_some_and(|operation| operations::members(operation).is_some());
        if content_type == "application/json" && is_known {
            let parsed = Codec::Json.read(&incoming.body);
            let (status, kind) = match parsed {
                Some(_) => (404, "com.amazon.coral.service#UnknownOperationException"),
                None => (400, "com.amazon.coral.service#SerializationException"),
            };
            let output = Structure::default().with("__type", kind);
            let body = Structure::default().with("Output", output).with("Version", "1.0");
            let mut response =
                with_ids(Response::new(Body::from(Codec::Json.write(&body.into()))), "application/json");
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            return response;
        }
        fault_response(Codec::Cbor, &Fault::bare("UnknownOperationException"))
    }
}

/// What clients learn who ask for something else than an operation.
pub(crate) fn no_service() -> Response<Body> {
    let body = "<AccessDeniedException>\n  <Message>Unable to determine service/operation name to be authorized</Message>\n</AccessDeniedException>\n";
    let mut response = with_ids(Response::new(Body::from(body)), "application/xml");
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

/// Compares secrets in a time that does not tell where they differ.
fn is_same(secret: &[u8], given: &[u8]) -> bool {
    let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    digest(secret).as_ref().iter().zip(digest(given).as_ref()).fold(0, |rest, (a, b)| rest | (a ^ b)) == 0
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn fault_response(codec: Codec, fault: &Fault) -> Response<Body> {
    // The protocol's own error has its message in capitals, the service's have not.
    let key =
        if fault.kind == "SerializationException" && codec == Codec::Json { "Message" } else { "message" };
    let body = Structure::default().with("__type", fault.kind).with_some(key, fault.message.clone());
    let mut response = with_ids(Response::new(Body::from(codec.write(&body.into()))), codec.content_type());
    *response.status_mut() = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_REQUEST);
    response
}

/// The headers that AWS's clients look for.
fn with_ids(mut response: Response<Body>, content_type: &'static str) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let id = uuid::Uuid::new_v4();
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert("x-amzn-requestid", value);
    }
    if let Ok(value) = HeaderValue::from_str(&id.simple().to_string()) {
        headers.insert("x-amz-id-2", value);
    }
    response
}
