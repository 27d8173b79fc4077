//! Operations on streams: made, told of, settled, deleted.

use std::collections::BTreeSet;

use catchment_core::Code;
use catchment_log::{Mode, Stream, StreamName, StreamState};

use crate::kinesis::Kinesis;
use crate::kinesis::answer::{Answer, Fault};
use crate::kinesis::request::Request;
use crate::kinesis::value::{Structure, Value};

/// Every measure of a shard that there is.
const METRICS: &[&str] = &[
    "IncomingBytes",
    "IncomingRecords",
    "OutgoingBytes",
    "OutgoingRecords",
    "WriteProvisionedThroughputExceeded",
    "ReadProvisionedThroughputExceeded",
    "IteratorAgeMilliseconds",
];

/// How long records are kept, in hours.
const RETENTION: std::ops::RangeInclusive<u32> = 24..=8_760;

impl Kinesis {
    pub(super) fn create_stream(&self, request: &Request<'_>) -> Answer {
        let name = StreamName::new(request.required("StreamName"))?;
        let mode = mode(request);
        let shards = request.number("ShardCount");
        let count = match mode {
            // As AWS begins with.
            Mode::OnDemand => 4,
            Mode::Provisioned => {
                let count = shards.and_then(|count| u32::try_from(count).ok());
                count.ok_or_else(|| {
                    Fault::invalid("ShardCount must be given for a stream in PROVISIONED mode.")
                })?
            }
        };
        let open: usize = self.log.streams().iter().map(|stream| stream.state().open().count()).sum();
        if open + count as usize > self.shard_limit {
            return Err(Fault::new(
                "LimitExceededException",
                format!(
                    "This request would exceed the shard limit for the account {} in {}. Current shard count for the account: {open}. Limit: {}. Number of additional shards that would have resulted from this request: {count}. Refer to the AWS Service Limits page (http://docs.aws.amazon.com/general/latest/gr/aws_service_limits.html) for current limits and how to request higher limits.",
                    self.account, request.region, self.shard_limit
                ),
            ));
        }
        let tags = request.map("Tags");
        require_tags(
            &tags.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]).collect::<Vec<_>>(),
        )?;
        let record_bytes = request
            .number("MaxRecordSizeInKiB")
            .and_then(|kib| usize::try_from(kib).ok())
            .map(|kib| kib << 10);
        let made = self.log.create(&name, count, |state| {
            state.mode = mode;
            state.tags = tags;
            state.record_bytes = record_bytes.unwrap_or(state.record_bytes);
        });
        match made {
            Ok(_) => Ok(Value::Null),
            Err(error) if error.code() == Code::STREAM_EXISTS => Err(Fault::new(
                "ResourceInUseException",
                format!("Stream {name} under account {} already exists.", self.account),
            )),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn delete_stream(&self, request: &Request<'_>) -> Answer {
        let stream = self.stream(request)?;
        let state = stream.state();
        if !state.consumers.is_empty()
            && request.body.get("EnforceConsumerDeletion") == Some(&Value::Boolean(false))
        {
            return Err(Fault::new(
                "ResourceInUseException",
                format!("Stream {} under account {} has registered consumers.", state.name, self.account),
            ));
        }
        self.log.delete(&state.name)?;
        Ok(Value::Null)
    }

    pub(super) fn list_streams(&self, request: &Request<'_>) -> Answer {
        let after =
            request.text("ExclusiveStartStreamName").or(request.text("NextToken")).unwrap_or_default();
        let limit = request.limit("Limit", 100);
        let mut states: Vec<_> = self.log.streams().iter().map(|stream| stream.state()).collect();
        states.retain(|state| state.name.as_str() > after);
        let has_more = states.len() > limit;
        states.truncate(limit);
        let summary = |state: &StreamState| {
            Structure::default()
                .with("StreamName", state.name.as_str())
                .with("StreamARN", self.arn(&state.name, request.region))
                .with("StreamStatus", "ACTIVE")
                .with("StreamModeDetails", Structure::default().with("StreamMode", mode_text(state.mode)))
                .with("StreamCreationTimestamp", Value::Time(state.created_at))
                .into()
        };
        let next = states.last().filter(|_| has_more).map(|state| state.name.as_str().to_owned());
        Ok(Structure::default()
            .with("HasMoreStreams", has_more)
            .with_some("NextToken", next)
            .with("StreamNames", Value::List(states.iter().map(|state| state.name.as_str().into()).collect()))
            .with("StreamSummaries", Value::List(states.iter().map(|state| summary(state)).collect()))
            .into())
    }

    pub(super) fn describe_stream(&self, request: &Request<'_>) -> Answer {
        let stream = self.stream(request)?;
        let state = stream.state();
        let after = request.text("ExclusiveStartShardId").map(|text| self.shard(&state, text)).transpose()?;
        let limit = request.limit("Limit", 100);
        let shards: Vec<_> = state.shards.iter().filter(|shard| Some(shard.id) > after).collect();
        let has_more = shards.len() > limit;
        let shards = shards.into_iter().take(limit).map(Self::shard_value);
        let description = self
            .description(&state, request.region)
            .with("HasMoreShards", has_more)
            .with("Shards", Value::List(shards.collect()));
        Ok(Structure::default().with("StreamDescription", description).into())
    }

    pub(super) fn describe_summary(&self, request: &Request<'_>) -> Answer {
        let state = self.stream(request)?.state();
        let description = self
            .description(&state, request.region)
            .with("OpenShardCount", state.open().count())
            .with("ConsumerCount", state.consumers.len())
            .with("MaxRecordSizeInKiB", state.record_bytes >> 10);
        Ok(Structure::default().with("StreamDescriptionSummary", description).into())
    }

    fn description(&self, state: &StreamState, region: &str) -> Structure {
        let metrics = Value::List(state.shard_metrics.iter().map(|metric| metric.as_str().into()).collect());
        Structure::default()
            .with("StreamName", state.name.as_str())
            .with("StreamARN", self.arn(&state.name, region))
            .with("StreamStatus", "ACTIVE")
            .with("StreamModeDetails", Structure::default().with("StreamMode", mode_text(state.mode)))
            .with("RetentionPeriodHours", state.retention_hours as usize)
            .with("StreamCreationTimestamp", Value::Time(state.created_at))
            .with(
                "EnhancedMonitoring",
                Value::List(vec![Structure::default().with("ShardLevelMetrics", metrics).into()]),
            )
            .with("EncryptionType", if state.encryption_key.is_some() { "KMS" } else { "NONE" })
            .with_some("KeyId", state.encryption_key.clone())
    }

    pub(super) fn describe_limits(&self) -> Value {
        let states: Vec<_> = self.log.streams().iter().map(|stream| stream.state()).collect();
        Structure::default()
            .with("ShardLimit", self.shard_limit)
            .with("OpenShardCount", states.iter().map(|state| state.open().count()).sum::<usize>())
            .with("OnDemandStreamCount", states.iter().filter(|state| state.mode == Mode::OnDemand).count())
            .with("OnDemandStreamCountLimit", 50_usize)
            .into()
    }

    pub(super) async fn change_retention(&self, request: &Request<'_>, is_longer: bool) -> Answer {
        let stream = self.stream(request)?;
        let state = stream.state();
        let hours = u32::try_from(request.number("RetentionPeriodHours").unwrap_or(0)).unwrap_or(0);
        let (least, most) = (*RETENTION.start(), *RETENTION.end());
        let (name, before) = (&state.name, state.retention_hours);
        let wrong = if hours < least {
            format!(
                "Minimum allowed retention period is {least} hours. Requested retention period ({hours} hours) is too short."
            )
        } else if hours > most {
            format!(
                "Maximum allowed retention period is {most} hours. Requested retention period ({hours} hours) is too long."
            )
        } else if is_longer && hours < before {
            format!(
                "Requested retention period ({hours} hours) for stream {name} can not be shorter than existing retention period ({before} hours). Use DecreaseRetentionPeriod API."
            )
        } else if !is_longer && hours > before {
            format!(
                "Requested retention period ({hours} hours) for stream {name} can not be longer than existing retention period ({before} hours). Use IncreaseRetentionPeriod API."
            )
        } else {
            return change(&stream, move |state| state.retention_hours = hours).await;
        };
        Err(Fault::invalid(wrong))
    }

    pub(super) async fn update_mode(&self, request: &Request<'_>) -> Answer {
        let mode = mode(request);
        change(self.stream(request)?.as_ref(), move |state| state.mode = mode).await
    }

    pub(super) async fn encrypt(&self, request: &Request<'_>, is_on: bool) -> Answer {
        let key = is_on.then(|| request.required("KeyId").to_owned());
        change(self.stream(request)?.as_ref(), move |state| state.encryption_key = key).await
    }

    pub(super) async fn monitor(&self, request: &Request<'_>, is_on: bool) -> Answer {
        let stream = self.stream(request)?;
        let before = stream.state();
        let asked = request.texts("ShardLevelMetrics");
        if let Some(unknown) =
            asked.iter().find(|metric| *metric != "ALL" && !METRICS.contains(&metric.as_str()))
        {
            return Err(Fault::invalid(format!("Invalid ShardLevelMetric: {unknown}")));
        }
        let asked: BTreeSet<&str> = if asked.iter().any(|metric| metric == "ALL") {
            METRICS.iter().copied().collect()
        } else {
            asked.iter().map(String::as_str).collect()
        };
        let is_kept = |metric: &&&str| {
            let is_there = before.shard_metrics.iter().any(|there| there == **metric);
            if is_on { is_there || asked.contains(**metric) } else { is_there && !asked.contains(**metric) }
        };
        let after: Vec<String> = METRICS.iter().filter(is_kept).map(|metric| (*metric).to_owned()).collect();
        let list =
            |metrics: &[String]| Value::List(metrics.iter().map(|metric| metric.as_str().into()).collect());
        let answer = Structure::default()
            .with("StreamName", before.name.as_str())
            .with("StreamARN", self.arn(&before.name, request.region))
            .with("CurrentShardLevelMetrics", list(&before.shard_metrics))
            .with("DesiredShardLevelMetrics", list(&after));
        change(&stream, move |state| state.shard_metrics = after).await?;
        Ok(answer.into())
    }

    pub(super) async fn tag(&self, request: &Request<'_>) -> Answer {
        let stream = self.stream(request)?;
        let tags = request.map("Tags");
        let texts: Vec<&str> = tags.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]).collect();
        require_tags(&texts)?;
        let state = stream.state();
        if texts.iter().any(|text| text.contains('%')) {
            return Err(Fault::invalid(format!(
                "Failed to add tags to stream {} under account {} because some tags contained illegal characters. The allowed characters are Unicode letters, white-spaces, '_',',','/','=','+','-','@'.",
                state.name, self.account
            )));
        }
        let all: BTreeSet<&String> = state.tags.keys().chain(tags.keys()).collect();
        if all.len() > 50 {
            return Err(Fault::invalid(format!(
                "Failed to add tags to stream {} under account {} because a given stream cannot have more than 50 tags associated with it.",
                state.name, self.account
            )));
        }
        change(&stream, move |state| state.tags.extend(tags)).await
    }

    pub(super) async fn untag(&self, request: &Request<'_>) -> Answer {
        let stream = self.stream(request)?;
        let keys = request.texts("TagKeys");
        require_tags(&keys.iter().map(String::as_str).collect::<Vec<_>>())?;
        change(&stream, move |state| state.tags.retain(|key, _| !keys.contains(key))).await
    }

    pub(super) fn list_tags(&self, request: &Request<'_>) -> Answer {
        let state = self.stream(request)?.state();
        let after = request.text("ExclusiveStartTagKey").unwrap_or_default();
        let limit = request.limit("Limit", 50);
        let tags: Vec<_> = state.tags.iter().filter(|(key, _)| key.as_str() > after).collect();
        let tag = |(key, value): &(&String, &String)| {
            Structure::default().with("Key", key.as_str()).with("Value", value.as_str()).into()
        };
        Ok(Structure::default()
            .with("HasMoreTags", tags.len() > limit)
            .with("Tags", Value::List(tags.iter().take(limit).map(tag).collect()))
            .into())
    }

    pub(super) fn get_policy(&self, request: &Request<'_>) -> Answer {
        let state = self.resource(request)?.state();
        let policy = state.policies.get("stream").map_or("{}", String::as_str);
        Ok(Structure::default().with("Policy", policy).into())
    }

    pub(super) async fn put_policy(&self, request: &Request<'_>) -> Answer {
        let policy = request.required("Policy").to_owned();
        if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&policy).is_err() {
            return Err(Fault::invalid("Policy is no JSON object."));
        }
        change(self.resource(request)?.as_ref(), move |state| {
            state.policies.insert("stream".to_owned(), policy);
        })
        .await
    }

    pub(super) async fn delete_policy(&self, request: &Request<'_>) -> Answer {
        let stream = self.resource(request)?;
        if !stream.state().policies.contains_key("stream") {
            let arn = request.required("ResourceARN");
            return Err(Fault::not_found(format!("No resource policy found for resource ARN {arn}.")));
        }
        change(&stream, |state| {
            state.policies.remove("stream");
        })
        .await
    }

    /// A stream that is named as a resource.
    fn resource(&self, request: &Request<'_>) -> Answer<std::sync::Arc<Stream>> {
        let arn = request.required("ResourceARN");
        self.stream(request)
            .map_err(|_| Fault::not_found(format!("Stream {arn} under account {} not found.", self.account)))
    }
}

/// Changes settings, and answers nothing.
pub(super) async fn change(
    stream: &Stream,
    change: impl FnOnce(&mut StreamState) + Send + 'static,
) -> Answer {
    stream
        .change(move |state, _| {
            change(state);
            Ok(())
        })
        .await?;
    Ok(Value::Null)
}

fn mode(request: &Request<'_>) -> Mode {
    let mode = request.body.get("StreamModeDetails").and_then(|details| details.get("StreamMode"));
    if mode == Some(&Value::from("ON_DEMAND")) { Mode::OnDemand } else { Mode::Provisioned }
}

fn mode_text(mode: Mode) -> &'static str {
    match mode {
        Mode::Provisioned => "PROVISIONED",
        Mode::OnDemand => "ON_DEMAND",
    }
}

/// Makes sure that keys and values of tags are of the characters that tags may have.
fn require_tags(texts: &[&str]) -> Answer<()> {
    let is_known = |character: char| {
        character.is_alphanumeric()
            || character == ' '
            || character == '\u{a0}'
            || "_./=+-%@:".contains(character)
    };
    if texts.iter().all(|text| text.chars().all(is_known)) {
        return Ok(());
    }
    Err(Fault::invalid(
        "Some tags contain invalid characters. Valid characters: Unicode letters, digits, white space, _ . / = + - % @.",
    ))
}
