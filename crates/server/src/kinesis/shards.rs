//! Operations on shards: listed, split, merged.

use catchment_core::Code;
use catchment_log::{Mode, Reshard, Sequence, Shard, ShardId, StreamState};

use crate::kinesis::Kinesis;
use crate::kinesis::answer::{Answer, Fault};
use crate::kinesis::request::{Request, text, time};
use crate::kinesis::token::{Token, TokenFault};
use crate::kinesis::value::{Structure, Value};

impl Kinesis {
    pub(super) fn shard_value(shard: &Shard) -> Value {
        let first =
            Sequence { shard_created: shard.created, shard: shard.id, ordinal: 0, arrived: shard.created };
        let last = shard.closed_at.map(|closed_at| {
            let arrived = u64::try_from(closed_at / 1_000).unwrap_or(0);
            Sequence { ordinal: i64::MAX.cast_unsigned(), arrived, ..first }.to_string()
        });
        let parent = |index: usize| shard.parents.get(index).map(ToString::to_string);
        let hashes = Structure::default()
            .with("StartingHashKey", shard.range.start.to_string())
            .with("EndingHashKey", shard.range.end.to_string());
        let numbers = Structure::default()
            .with("StartingSequenceNumber", first.to_string())
            .with_some("EndingSequenceNumber", last);
        Structure::default()
            .with("ShardId", shard.id.to_string())
            .with_some("ParentShardId", parent(0))
            .with_some("AdjacentParentShardId", parent(1))
            .with("HashKeyRange", hashes)
            .with("SequenceNumberRange", numbers)
            .into()
    }

    pub(super) fn list_shards(&self, request: &Request<'_>) -> Answer {
        let now = self.clock.now_millis();
        let (stream, after) = match request.text("NextToken") {
            Some(token) => {
                for other in ["StreamName", "ExclusiveStartShardId"] {
                    if request.text(other).is_some() {
                        return Err(Fault::invalid(format!(
                            "NextToken and {other} cannot be provided together."
                        )));
                    }
                }
                let token = Token::read(token, now).map_err(|fault| match fault {
                    TokenFault::Expired => {
                        Fault::new("ExpiredNextTokenException", "The NextToken is expired.")
                    }
                    TokenFault::Invalid => Fault::invalid("Invalid NextToken."),
                })?;
                (self.stream_named(&token.stream)?, Some(token.shard))
            }
            None => {
                let stream = self.stream(request)?;
                let after = request
                    .text("ExclusiveStartShardId")
                    .map(|text| self.shard(&stream.state(), text))
                    .transpose()?;
                (stream, after)
            }
        };
        let state = stream.state();
        if request
            .time("StreamCreationTimestamp")
            .is_some_and(|millis| millis / 1_000 != state.created_at / 1_000)
        {
            return Err(Fault::not_found(format!(
                "Stream {} under account {} not found.",
                state.name, self.account
            )));
        }
        let filtered = filtered(&state, request.body.get("ShardFilter"), now)?;
        let shards: Vec<&Shard> = filtered.into_iter().filter(|shard| Some(shard.id) > after).collect();
        let limit = request.limit("MaxResults", 1_000);
        let next = shards.get(limit.wrapping_sub(1)).filter(|_| shards.len() > limit).map(|last| {
            let token = Token {
                made_at: now,
                stream: state.name.as_str().to_owned(),
                epoch: state.created_at,
                shard: last.id,
                ordinal: 0,
            };
            token.write()
        });
        let values = shards.into_iter().take(limit).map(Self::shard_value);
        Ok(Structure::default()
            .with("Shards", Value::List(values.collect()))
            .with_some("NextToken", next)
            .into())
    }

    pub(super) async fn split_shard(&self, request: &Request<'_>) -> Answer {
        let hash = request.required("NewStartingHashKey");
        self.shard_id(&self.stream_name(request)?, request.required("ShardToSplit"))?;
        let stream = self.stream(request)?;
        let state = stream.state();
        let id = self.shard(&state, request.required("ShardToSplit"))?;
        self.require_open(&state, id)?;
        let range = state.shard(id)?.range;
        let change = hash.parse::<u128>().ok().map(|at| Reshard::Split(id, at));
        let outside = || {
            Fault::invalid(format!(
                "NewStartingHashKey {hash} used in SplitShard() on shard {id} in stream {} under account {} is not both greater than one plus the shard's StartingHashKey {} and less than the shard's EndingHashKey {}.",
                state.name, self.account, range.start, range.end
            ))
        };
        self.require_room(1, request.region)?;
        match stream.reshard(change.ok_or_else(outside)?).await {
            Err(error) if error.code() == Code::RESHARD_INVALID => Err(outside()),
            done => Ok(done.map(|()| Value::Null)?),
        }
    }

    pub(super) async fn merge_shards(&self, request: &Request<'_>) -> Answer {
        for shard in ["ShardToMerge", "AdjacentShardToMerge"] {
            self.shard_id(&self.stream_name(request)?, request.required(shard))?;
        }
        let stream = self.stream(request)?;
        let state = stream.state();
        let first = self.shard(&state, request.required("ShardToMerge"))?;
        let second = self.shard(&state, request.required("AdjacentShardToMerge"))?;
        self.require_open(&state, first)?;
        self.require_open(&state, second)?;
        match stream.reshard(Reshard::Merge(first, second)).await {
            Err(error) if error.code() == Code::RESHARD_INVALID => Err(Fault::invalid(format!(
                "Shards {first} and {second} in stream {} under account {} are not an adjacent pair of shards eligible for merging",
                state.name, self.account
            ))),
            done => Ok(done.map(|()| Value::Null)?),
        }
    }

    pub(super) async fn update_count(&self, request: &Request<'_>) -> Answer {
        let stream = self.stream(request)?;
        let state = stream.state();
        if state.mode == Mode::OnDemand {
            return Err(Fault::new(
                "ValidationException",
                format!(
                    "Request is invalid. Stream {} under account {} is in On-Demand mode.",
                    state.name, self.account
                ),
            ));
        }
        let (current, target) = (state.open().count(), request.limit("TargetShardCount", 1));
        if target > current * 2 {
            return Err(Fault::new(
                "LimitExceededException",
                format!(
                    "UpdateShardCount cannot scale up over double your current open shard count. Current open shard count: {current} Target shard count: {target}"
                ),
            ));
        }
        if target * 2 < current && self.rates.is_some() {
            return Err(Fault::new(
                "LimitExceededException",
                format!(
                    "UpdateShardCount cannot scale down below half your current open shard count. Current open shard count: {current} Target shard count: {target}"
                ),
            ));
        }
        self.require_room(target.saturating_sub(current), request.region)?;
        stream.scale(target).await?;
        Ok(Structure::default()
            .with("StreamName", state.name.as_str())
            .with("StreamARN", self.arn(&state.name, request.region))
            .with("CurrentShardCount", current)
            .with("TargetShardCount", target)
            .into())
    }

    fn require_open(&self, state: &StreamState, id: ShardId) -> Answer<()> {
        if state.shard(id)?.is_open() {
            return Ok(());
        }
        Err(Fault::invalid(format!(
            "Shard {id} in stream {} under account {} has already been merged or split, and thus is not eligible for merging or splitting.",
            state.name, self.account
        )))
    }

    fn require_room(&self, more: usize, region: &str) -> Answer<()> {
        let open: usize = self.log.streams().iter().map(|stream| stream.state().open().count()).sum();
        if open + more <= self.shard_limit {
            return Ok(());
        }
        Err(Fault::new(
            "LimitExceededException",
            format!(
                "This request would exceed the shard limit for the account {} in {region}. Current shard count for the account: {open}. Limit: {}. Number of additional shards that would have resulted from this request: {more}.",
                self.account, self.shard_limit
            ),
        ))
    }
}

/// The shards that a filter asks for.
fn filtered<'a>(state: &'a StreamState, filter: Option<&Value>, now: i64) -> Answer<Vec<&'a Shard>> {
    let Some(filter) = filter else { return Ok(state.shards.iter().collect()) };
    let kind = text(filter, "Type").unwrap_or_default();
    let at = match kind {
        "AT_TIMESTAMP" | "FROM_TIMESTAMP" => time(filter, "Timestamp").ok_or_else(|| {
            Fault::invalid(format!("Timestamp must be given for a ShardFilter of type {kind}."))
        })?,
        _ => now - i64::from(state.retention_hours) * 3_600_000,
    };
    let after = match kind {
        "AFTER_SHARD_ID" => {
            let id = text(filter, "ShardId").and_then(ShardId::parse);
            Some(id.ok_or_else(|| {
                Fault::invalid("ShardId must be given for a ShardFilter of type AFTER_SHARD_ID.")
            })?)
        }
        _ => None,
    };
    let was_made =
        |shard: &Shard| i64::try_from(shard.created).unwrap_or(i64::MAX).saturating_mul(1_000) <= at;
    let still_open = |shard: &Shard| shard.closed_at.is_none_or(|closed_at| closed_at > at);
    // Shards of the beginning were made at the second in which the stream was.
    let first = |shard: &Shard| shard.parents.is_empty();
    Ok(state
        .shards
        .iter()
        .filter(|shard| match kind {
            "AFTER_SHARD_ID" => Some(shard.id) > after,
            "AT_LATEST" => shard.is_open(),
            "AT_TRIM_HORIZON" | "AT_TIMESTAMP" => (was_made(shard) || first(shard)) && still_open(shard),
            _ => still_open(shard),
        })
        .collect())
}
