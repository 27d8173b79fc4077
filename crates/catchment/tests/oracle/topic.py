"""Asks a stand-in for SNS and SQS. Usage: topic.py ENDPOINT {make | take COUNT}.

`make` makes a topic with a queue that hears it, and prints the topic's name; `take` prints so many messages of the queue.
"""

import json
import sys

import boto3

endpoint, action = sys.argv[1], sys.argv[2]
login = {
    "endpoint_url": endpoint,
    "region_name": "eu-central-1",
    "aws_access_key_id": "k",
    "aws_secret_access_key": "s",
}
sns, sqs = boto3.client("sns", **login), boto3.client("sqs", **login)
queue = sqs.create_queue(QueueName="heard")["QueueUrl"]
if action == "make":
    topic = sns.create_topic(Name="alerts")["TopicArn"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    print(topic)
else:
    taken = []
    while len(taken) < int(sys.argv[3]):
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", []):
            body = json.loads(message["Body"])
            taken.append({
                "subject": body["Subject"],
                "message": json.loads(body["Message"]),
                "severity": body["MessageAttributes"]["severity"]["Value"],
            })
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    print(json.dumps(taken))
