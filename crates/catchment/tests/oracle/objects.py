"""What a user of AWS does with a bucket and its queue: objects.py ENDPOINT ACTION ..."""

import json
import sys

import boto3

endpoint, action, *rest = sys.argv[1:]
known = dict(endpoint_url=endpoint, region_name="eu-central-1", aws_access_key_id="k", aws_secret_access_key="s")
s3, sqs = boto3.client("s3", **known), boto3.client("sqs", **known)

if action == "make":
    # A bucket, and with a second name a queue that is told of some of what comes.
    bucket, *queue = rest
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for name in queue:
        url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "0"})["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        rules = [{"Name": "prefix", "Value": "in/told"}]
        told = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": rules}}}
        s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [told]}
        )
        print(url)
elif action == "put":
    bucket, key, file = rest
    with open(file, "rb") as body:
        s3.put_object(Bucket=bucket, Key=key, Body=body)
elif action == "list":
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=rest[0])
    print(json.dumps([found["Key"] for page in pages for found in page.get("Contents", [])]))
elif action == "waiting":
    known = sqs.get_queue_attributes(QueueUrl=rest[0], AttributeNames=["ApproximateNumberOfMessages"])
    print(known["Attributes"]["ApproximateNumberOfMessages"])
