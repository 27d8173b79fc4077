//! Notifications of new objects: an SQS queue that a bucket tells of them, so that the bucket need not be listed.
//!
//! A message is deleted when all files that it tells of were taken by a published batch, or are none of the source's. Until
//! then the service hands it out again, to this process or to the next one: what was taken already is not taken twice,
//! since a flow knows its files. Messages get lost and are late, so that everything is listed every so often besides.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use catchment_core::{Code, Error, Result};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::files::stores::is_path;

/// How long one question may take, all tries together.
const PATIENCE: Duration = Duration::from_secs(30);

/// Messages that are taken before the files that they tell of are read.
const HELD: usize = 20_000;

/// Messages of one answer, the most that the service gives.
const AT_ONCE: i32 = 10;

/// A queue, and what it told that is not done yet.
#[derive(Debug)]
pub(crate) struct Queue {
    url: String,
    region: Option<String>,
    client: OnceCell<Client>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When everything was listed last.
    listed: Option<Instant>,
    /// By its id: what a message told, and by what it is deleted.
    messages: BTreeMap<String, Message>,
}

#[derive(Debug, Clone)]
struct Message {
    receipt: String,
    /// URLs of objects.
    objects: Vec<String>,
}

impl Queue {
    pub(crate) fn new(url: String, region: Option<String>) -> Self {
        Self { url, region, client: OnceCell::new(), state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything should be listed: at first, and when the last time is longer ago than `every`, in
    /// microseconds.
    pub(crate) fn is_listing_due(&self, every: i64) -> bool {
        let every = Duration::from_micros(every.unsigned_abs());
        self.state().listed.is_none_or(|listed| listed.elapsed() >= every)
    }

    /// Notes that everything was listed since `began`.
    pub(crate) fn listed(&self, began: Instant) {
        self.state().listed = Some(began);
    }

    /// Takes what the queue tells; gives the objects of all messages that are not done.
    ///
    /// # Errors
    /// Returns [`Code::INPUT_OUTPUT`] when the queue does not answer, and [`Code::SERVICE_REFUSED`] when it refuses.
    pub(crate) async fn receive(&self) -> Result<Vec<String>> {
        let client = self.client().await;
        while self.state().messages.len() < HELD {
            let answer = client.receive_message().queue_url(&self.url).max_number_of_messages(AT_ONCE);
            let answer = answer.send().await.map_err(|error| self.failed("read", error))?;
            let mut state = self.state();
            let before = state.messages.len();
            for message in answer.messages.unwrap_or_default() {
                let (Some(id), Some(receipt)) = (message.message_id, message.receipt_handle) else {
                    continue;
                };
                let mut objects = objects_of(&message.body.unwrap_or_default());
                // A key that no path can have is nobody's file.
                objects.retain(|object| is_path(object));
                state.messages.insert(id, Message { receipt, objects });
            }
            // What is held already may be handed out again and again.
            if state.messages.len() == before {
                break;
            }
        }
        let state = self.state();
        let mut objects: Vec<_> =
            state.messages.values().flat_map(|message| message.objects.iter().cloned()).collect();
        objects.sort();
        objects.dedup();
        Ok(objects)
    }

    /// Deletes the messages none of whose objects is waited for any more.
    ///
    /// # Errors
    /// As [`Queue::receive`].
    pub(crate) async fn delete(&self, is_waited_for: impl Fn(&str) -> bool) -> Result<()> {
        let done: Vec<(String, Message)> = {
            let state = self.state();
            let is_done = |message: &Message| !message.objects.iter().any(|object| is_waited_for(object));
            let done = state.messages.iter().filter(|(_, message)| is_done(message));
            done.map(|(id, message)| (id.clone(), message.clone())).collect()
        };
        let client = self.client().await;
        for messages in done.chunks(AT_ONCE as usize) {
            let mut request = client.delete_message_batch().queue_url(&self.url);
            for (index, (_, message)) in messages.iter().enumerate() {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                let entry = entry.receipt_handle(&message.receipt).build();
                request = request.entries(entry.map_err(|error| {
                    Error::new(Code::INTERNAL, "a message has no receipt").because(error)
                })?);
            }
            // What could not be deleted, such as by a receipt that is too old, is handed out again.
            request.send().await.map_err(|error| self.failed("delete messages of", error))?;
            let mut state = self.state();
            messages.iter().for_each(|(id, _)| _ = state.messages.remove(id));
        }
        Ok(())
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(async || {
                let timeouts = TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(5))
                    .operation_timeout(PATIENCE)
                    .build();
                let mut loader = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts);
                if let Some(region) = &self.region {
                    loader = loader.region(aws_sdk_sqs::config::Region::new(region.clone()));
                }
                Client::new(&loader.load().await)
            })
            .await
    }

    fn failed<E>(&self, what: &str, error: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let service = error.as_service_error();
        // What the service refuses it refuses again, but for too many questions.
        let is_final =
            service.and_then(ProvideErrorMetadata::code).is_some_and(|code| !code.contains("Throttl"));
        let why = service.and_then(ProvideErrorMetadata::message).map(str::to_owned).unwrap_or_else(|| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            cause.to_string()
        });
        let code = if is_final { Code::SERVICE_REFUSED } else { Code::INPUT_OUTPUT };
        Error::new(code, format!("could not {what} queue {:?}: {why}", self.url))
    }
}

/// The objects that a message tells were created: of S3, of S3 through SNS, or of EventBridge.
fn objects_of(body: &str) -> Vec<String> {
    let Ok(told) = serde_json::from_str::<Value>(body) else { return Vec::new() };
    if let (Some(inner), None) = (told["Message"].as_str(), told.get("Records")) {
        return match serde_json::from_str::<Value>(inner) {
            // Only one step down: what stands deeper is not of a service.
            Ok(inner) if inner.get("Message").is_none() => objects_in(&inner),
            _ => Vec::new(),
        };
    }
    objects_in(&told)
}

fn objects_in(told: &Value) -> Vec<String> {
    let url = |bucket: &Value, key: &str| Some(format!("s3://{}/{key}", bucket["name"].as_str()?));
    if told["detail-type"] == "Object Created" {
        let detail = &told["detail"];
        return detail["object"]["key"]
            .as_str()
            .and_then(|key| url(&detail["bucket"], key))
            .into_iter()
            .collect();
    }
    let records = told["Records"].as_array().into_iter().flatten();
    records
        .filter(|record| record["eventName"].as_str().is_some_and(|name| name.contains("ObjectCreated:")))
        .filter_map(|record| {
            // Keys stand there as forms encode them.
            let key = record["s3"]["object"]["key"].as_str()?.replace('+', " ");
            let key = percent_decode_str(&key).decode_utf8().ok()?;
            url(&record["s3"]["bucket"], &key)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::objects_of;

    #[test]
    fn messages_of_all_three_services_tell_of_objects() {
        let record = |name: &str, key: &str| {
            format!(
                r#"{{"eventName":"{name}","s3":{{"bucket":{{"name":"b"}},"object":{{"key":"{key}","size":3}}}}}}"#
            )
        };
        let of_s3 = format!(
            r#"{{"Records":[{},{}]}}"#,
            record("ObjectCreated:Put", "in/a+b%2Bc%C3%A9.json"),
            record("ObjectRemoved:Delete", "in/gone.json")
        );
        assert_eq!(objects_of(&of_s3), ["s3://b/in/a b+cé.json"]);
        let through_sns = serde_json::json!({ "Type": "Notification", "Message": of_s3 }).to_string();
        assert_eq!(objects_of(&through_sns), ["s3://b/in/a b+cé.json"]);
        let of_bridge =
            r#"{"detail-type":"Object Created","detail":{"bucket":{"name":"b"},"object":{"key":"in/x y"}}}"#;
        assert_eq!(objects_of(of_bridge), ["s3://b/in/x y"]);
        // The message by which S3 tries a queue, and what is of nobody.
        for other in [
            r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"b"}"#,
            "",
            "[]",
            "{\"Records\":3}",
            "x",
        ] {
            assert!(objects_of(other).is_empty(), "{other}");
        }
        let nested = serde_json::json!({ "Message": through_sns }).to_string();
        assert!(objects_of(&nested).is_empty());
    }
}
