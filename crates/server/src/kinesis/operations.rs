//! The members of each operation's request, in the order in which their errors are told.

use crate::kinesis::shape::{Kind, Member, Pattern, Rule};

use Kind::{Blob, Boolean, Integer, Map, Structure, Structures, Text, Texts, Time};
use Rule::{AtLeast, AtMost, EachShorter, KeysShorter, Longer, Matches, OneOf, Shorter, ValuesShorter};

const fn member(name: &'static str, kind: Kind, rules: &'static [Rule]) -> Member {
    Member { name, kind, is_required: false, rules }
}

const fn required(name: &'static str, kind: Kind, rules: &'static [Rule]) -> Member {
    Member { name, kind, is_required: true, rules }
}

/// Members that are known when this is compiled.
macro_rules! list {
    ($($member:expr),* $(,)?) => {
        const { &[$($member),*] as &[Member] }
    };
}

const NAME_RULES: &[Rule] = &[Matches(Pattern::Name), Longer(1), Shorter(128)];
const STREAM: Member = member("StreamName", Text, NAME_RULES);
const STREAM_ARN: Member =
    member("StreamARN", Text, &[Matches(Pattern::StreamArn), Longer(1), Shorter(2048)]);
const OF_STREAM: Member =
    required("StreamARN", Text, &[Matches(Pattern::StreamArn), Longer(1), Shorter(2048)]);
const RESOURCE: Member =
    required("ResourceARN", Text, &[Matches(Pattern::StreamArn), Longer(1), Shorter(2048)]);
const CONSUMER_ARN: &[Rule] = &[Matches(Pattern::ConsumerArn), Longer(1), Shorter(2048)];
const TOKEN: Member = member("NextToken", Text, &[Longer(1), Shorter(1_048_576)]);
const TAGS: &[Rule] = &[Longer(1), Shorter(200), KeysShorter(128), ValuesShorter(256)];
const TAG_KEYS: Member = required("TagKeys", Texts, &[Longer(1), Shorter(50), EachShorter(128)]);
const HOURS: Member = required("RetentionPeriodHours", Integer, &[AtLeast(1)]);
const MODE: &[Member] = &[required("StreamMode", Text, &[OneOf(&["PROVISIONED", "ON_DEMAND"])])];
const ENCRYPTION: Member = required("EncryptionType", Text, &[OneOf(&["NONE", "KMS"])]);
const KEY: Member = required("KeyId", Text, &[Longer(1), Shorter(2048)]);
const METRICS: Member = required("ShardLevelMetrics", Texts, &[Longer(1), Shorter(7)]);
const CREATED: Member = member("StreamCreationTimestamp", Time, &[]);
const HASH: Member = member("ExplicitHashKey", Text, &[Matches(Pattern::Hash)]);
const PARTITION: Member = required("PartitionKey", Text, &[Longer(1), Shorter(256)]);
const DATA: Member = required("Data", Blob, &[Shorter(10_485_760)]);
const START_TYPES: Rule =
    OneOf(&["AFTER_SEQUENCE_NUMBER", "LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON"]);
const FILTER: &[Member] = &[
    required(
        "Type",
        Text,
        &[OneOf(&[
            "AFTER_SHARD_ID",
            "AT_TRIM_HORIZON",
            "FROM_TRIM_HORIZON",
            "AT_LATEST",
            "AT_TIMESTAMP",
            "FROM_TIMESTAMP",
        ])],
    ),
    member("ShardId", Text, NAME_RULES),
    member("Timestamp", Time, &[]),
];
const START: &[Member] = &[
    required("Type", Text, &[START_TYPES]),
    member("SequenceNumber", Text, &[Matches(Pattern::Sequence)]),
    member("Timestamp", Time, &[]),
];

/// The members of an operation's request; `None` for an operation that there is not.
pub(super) fn members(operation: &str) -> Option<&'static [Member]> {
    Some(match operation {
        "AddTagsToStream" => list![required("Tags", Map, TAGS), STREAM, STREAM_ARN],
        "CreateStream" => list![
            member("ShardCount", Integer, &[AtLeast(1), AtMost(100_000)]),
            required("StreamName", Text, NAME_RULES),
            member("StreamModeDetails", Structure(MODE), &[]),
            member("Tags", Map, TAGS),
            member("WarmThroughputMiBps", Integer, &[AtLeast(0)]),
            member("MaxRecordSizeInKiB", Integer, &[AtLeast(1_024), AtMost(10_240)]),
        ],
        "DecreaseStreamRetentionPeriod" | "IncreaseStreamRetentionPeriod" => list![HOURS, STREAM, STREAM_ARN],
        "DeleteResourcePolicy" | "GetResourcePolicy" | "ListTagsForResource" => list![RESOURCE],
        "DeleteStream" => list![STREAM, STREAM_ARN, member("EnforceConsumerDeletion", Boolean, &[])],
        "DeregisterStreamConsumer" | "DescribeStreamConsumer" => {
            list![
                STREAM_ARN,
                member("ConsumerName", Text, NAME_RULES),
                member("ConsumerARN", Text, CONSUMER_ARN)
            ]
        }
        "DescribeLimits" => list![],
        "DescribeStream" => list![
            member("Limit", Integer, &[AtLeast(1), AtMost(10_000)]),
            member("ExclusiveStartShardId", Text, NAME_RULES),
            STREAM,
            STREAM_ARN,
        ],
        "DescribeStreamSummary" => list![STREAM, STREAM_ARN],
        "DisableEnhancedMonitoring" | "EnableEnhancedMonitoring" => list![METRICS, STREAM, STREAM_ARN],
        "GetRecords" => list![
            member("Limit", Integer, &[AtLeast(1), AtMost(10_000)]),
            required("ShardIterator", Text, &[Longer(1), Shorter(512)]),
            STREAM_ARN,
        ],
        "GetShardIterator" => list![
            required("ShardId", Text, NAME_RULES),
            required("ShardIteratorType", Text, &[START_TYPES]),
            member("StartingSequenceNumber", Text, &[Matches(Pattern::Sequence)]),
            member("Timestamp", Time, &[]),
            STREAM,
            STREAM_ARN,
        ],
        "ListShards" => list![
            member("ExclusiveStartShardId", Text, NAME_RULES),
            member("MaxResults", Integer, &[AtLeast(1), AtMost(10_000)]),
            TOKEN,
            STREAM,
            STREAM_ARN,
            CREATED,
            member("ShardFilter", Structure(FILTER), &[]),
        ],
        "ListStreamConsumers" => {
            list![OF_STREAM, TOKEN, member("MaxResults", Integer, &[AtLeast(1), AtMost(10_000)]), CREATED]
        }
        "ListStreams" => list![
            member("Limit", Integer, &[AtLeast(1), AtMost(10_000)]),
            member("ExclusiveStartStreamName", Text, NAME_RULES),
            TOKEN,
        ],
        "ListTagsForStream" => list![
            member("Limit", Integer, &[AtLeast(1), AtMost(50)]),
            member("ExclusiveStartTagKey", Text, &[Longer(1), Shorter(128)]),
            STREAM,
            STREAM_ARN,
        ],
        "MergeShards" => list![
            required("ShardToMerge", Text, NAME_RULES),
            required("AdjacentShardToMerge", Text, NAME_RULES),
            STREAM,
            STREAM_ARN,
        ],
        "PutRecord" => list![
            member("SequenceNumberForOrdering", Text, &[Matches(Pattern::Sequence)]),
            PARTITION,
            HASH,
            DATA,
            STREAM,
            STREAM_ARN,
        ],
        "PutRecords" => list![
            required("Records", Structures(&[PARTITION, HASH, DATA]), &[Longer(1), Shorter(500)]),
            STREAM,
            STREAM_ARN,
        ],
        "PutResourcePolicy" => list![RESOURCE, required("Policy", Text, &[])],
        "RegisterStreamConsumer" => {
            list![OF_STREAM, required("ConsumerName", Text, NAME_RULES), member("Tags", Map, TAGS)]
        }
        "RemoveTagsFromStream" => list![TAG_KEYS, STREAM, STREAM_ARN],
        "SplitShard" => list![
            required("NewStartingHashKey", Text, &[Matches(Pattern::Hash)]),
            STREAM,
            required("ShardToSplit", Text, NAME_RULES),
            STREAM_ARN,
        ],
        "StartStreamEncryption" | "StopStreamEncryption" => list![ENCRYPTION, KEY, STREAM, STREAM_ARN],
        "SubscribeToShard" => list![
            required("ConsumerARN", Text, CONSUMER_ARN),
            required("ShardId", Text, NAME_RULES),
            required("StartingPosition", Structure(START), &[]),
        ],
        "TagResource" => list![required("Tags", Map, TAGS), RESOURCE],
        "UntagResource" => list![TAG_KEYS, RESOURCE],
        "UpdateShardCount" => list![
            required("TargetShardCount", Integer, &[AtLeast(1)]),
            required("ScalingType", Text, &[OneOf(&["UNIFORM_SCALING"])]),
            STREAM,
            STREAM_ARN,
        ],
        "UpdateStreamMode" => list![
            required("StreamModeDetails", Structure(MODE), &[]),
            OF_STREAM,
            member("WarmThroughputMiBps", Integer, &[AtLeast(0)]),
        ],
        _ => return None,
    })
}
