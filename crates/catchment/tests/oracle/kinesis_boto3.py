"""Uses a Kinesis endpoint with boto3, signatures and all. Arguments: endpoint, access key, secret."""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, key, secret = sys.argv[1:]


def client(key, secret):
    config = Config(retries={"max_attempts": 1})
    return boto3.client("kinesis", endpoint_url=endpoint, region_name="eu-west-1", aws_access_key_id=key,
                        aws_secret_access_key=secret, config=config)


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        found = error.response["Error"]["Code"]
        if found != code:
            raise SystemExit(f"{code} expected, {found} came: {error}")
        return
    raise SystemExit(f"{code} expected, the call was done")


def read(shard):
    """All records of a shard, to its end or until there are no more."""
    iterator = kinesis.get_shard_iterator(StreamName="clicks", ShardId=shard, ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    records = []
    while iterator:
        answer = kinesis.get_records(ShardIterator=iterator, Limit=7)
        records += answer["Records"]
        iterator = answer["NextShardIterator"] if "NextShardIterator" in answer else None
        if iterator and not answer["Records"]:
            break
    return records


kinesis = client(key, secret)
refused("InvalidSignatureException", client(key, secret[:-1] + "?").list_streams)
refused("UnrecognizedClientException", client("CTKANOBODY", secret).list_streams)
kinesis.create_stream(StreamName="clicks", ShardCount=2, Tags={"team": "shop"})
kinesis.get_waiter("stream_exists").wait(StreamName="clicks")
refused("ResourceInUseException", kinesis.create_stream, StreamName="clicks", ShardCount=2)
refused("ResourceNotFoundException", kinesis.put_record, StreamName="other", Data=b"x", PartitionKey="k")

sent = {}


def put(count):
    records = []
    for _ in range(count):
        name = f"user-{len(sent) % 10}-é"
        data = f"{name} {len(sent)}".encode()
        records.append({"Data": data, "PartitionKey": name})
        sent[data] = name
    answer = kinesis.put_records(StreamName="clicks", Records=records)
    assert answer["FailedRecordCount"] == 0 and len(answer["Records"]) == count
    assert len({record["SequenceNumber"] for record in answer["Records"]}) == count


put(100)
kinesis.split_shard(StreamName="clicks", ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**126))
put(100)
kinesis.merge_shards(StreamName="clicks", ShardToMerge="shardId-000000000003", AdjacentShardToMerge="shardId-000000000001")
put(100)
kinesis.update_shard_count(StreamName="clicks", TargetShardCount=3, ScalingType="UNIFORM_SCALING")
put(100)

# Parents come before their children, so the records of each key come in the order in which they were put.
shards = kinesis.list_shards(StreamName="clicks")["Shards"]
assert all(shard.get("ParentShardId", "") < shard["ShardId"] for shard in shards)
by_key, numbers = {}, []
for shard in shards:
    for record in read(shard["ShardId"]):
        by_key.setdefault(record["PartitionKey"], []).append(record["Data"])
        numbers.append((shard["ShardId"], int(record["SequenceNumber"])))
expected = {}
for data, name in sent.items():
    expected.setdefault(name, []).append(data)
assert by_key == expected, "records are lost, repeated or out of order"
assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)

arn = kinesis.describe_stream_summary(StreamName="clicks")["StreamDescriptionSummary"]["StreamARN"]
assert arn == "arn:aws:kinesis:eu-west-1:000000000000:stream/clicks", arn
consumer = kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="report")["Consumer"]["ConsumerARN"]
pushed = []
for event in kinesis.subscribe_to_shard(
    ConsumerARN=consumer, ShardId="shardId-000000000000", StartingPosition={"Type": "TRIM_HORIZON"}
)["EventStream"]:
    body = event["SubscribeToShardEvent"]
    pushed += body["Records"]
    children = [child["ShardId"] for child in body.get("ChildShards", [])]
assert [record["Data"] for record in pushed] == [record["Data"] for record in read("shardId-000000000000")]
assert children == ["shardId-000000000002", "shardId-000000000003"], children
assert kinesis.list_tags_for_stream(StreamName="clicks")["Tags"] == [{"Key": "team", "Value": "shop"}]
kinesis.delete_stream(StreamName="clicks")
refused("ResourceNotFoundException", kinesis.describe_stream, StreamName="clicks")
print("ok")
