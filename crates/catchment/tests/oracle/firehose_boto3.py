"""Puts records with boto3's Firehose client. Arguments: endpoint, access key, secret."""

import sys

import boto3
from botocore.exceptions import ClientError

endpoint, key, secret = sys.argv[1:]
credentials = {
    "endpoint_url": endpoint, "region_name": "us-east-1", "aws_access_key_id": key, "aws_secret_access_key": secret,
}
boto3.client("kinesis", **credentials).create_stream(StreamName="events", ShardCount=2)
firehose = boto3.client("firehose", **credentials)
one = firehose.put_record(DeliveryStreamName="events", Record={"Data": b"one"})
assert one["RecordId"].startswith("shardId-") and one["Encrypted"] is False
batch = firehose.put_record_batch(DeliveryStreamName="events", Records=[{"Data": b"batch %d" % i} for i in range(2)])
assert batch["FailedPutCount"] == 0 and len({answer["RecordId"] for answer in batch["RequestResponses"]}) == 2
for code, call in [
    ("ResourceNotFoundException", {"DeliveryStreamName": "other", "Records": [{"Data": b"x"}]}),
    ("InvalidArgumentException", {"DeliveryStreamName": "events", "Records": [{"Data": b"x" * 1_000_000}] * 5}),
    ("ValidationException", {"DeliveryStreamName": "events", "Records": [{"Data": b"x"}] * 501}),
]:
    try:
        firehose.put_record_batch(**call)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
    else:
        raise SystemExit(f"{code} expected")
print("ok")
