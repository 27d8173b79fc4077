"""Sends the events of data/ecom.csv.gz to the stream "clicks" as a web server would: with boto3.

    pip install boto3
    python producer.py --rate 200 [--limit 5000] [--endpoint http://127.0.0.1:4566]

Each event gets the present time; those that the stream does not take are sent again.
"""

import argparse
import csv
import gzip
import json
import time
from datetime import datetime, timezone
from pathlib import Path

import boto3

arguments = argparse.ArgumentParser(description="Sends recorded clicks to a stream.")
arguments.add_argument("--endpoint", default="http://127.0.0.1:4566")
arguments.add_argument("--rate", type=float, default=200, help="events a second")
arguments.add_argument("--limit", type=int, help="events to send; all by default")
given = arguments.parse_args()

# The example's service takes requests of this machine without a key of its own.
kinesis = boto3.client(
    "kinesis",
    endpoint_url=given.endpoint,
    region_name="us-east-1",
    aws_access_key_id="example",
    aws_secret_access_key="example",
)


def put(records):
    """Puts records, those that are refused again."""
    while records:
        answer = kinesis.put_records(StreamName="clicks", Records=records)
        refused = [record for record, result in zip(records, answer["Records"]) if "ErrorCode" in result]
        if refused:
            time.sleep(0.2)
        records = refused


with gzip.open(Path(__file__).parent / "data" / "ecom.csv.gz", "rt") as file:
    begun, sent, waiting = time.monotonic(), 0, []
    for event in csv.DictReader(file):
        if given.limit is not None and sent + len(waiting) >= given.limit:
            break
        event["timestamp"] = datetime.now(timezone.utc).isoformat()
        waiting.append({"Data": json.dumps(event).encode(), "PartitionKey": event["user_id"]})
        due = begun + (sent + len(waiting)) / given.rate - time.monotonic()
        if len(waiting) == 500 or due > 0.1:
            put(waiting)
            sent, waiting = sent + len(waiting), []
            time.sleep(max(due, 0))
    put(waiting)
    print(f"sent {sent + len(waiting)} events in {time.monotonic() - begun:.1f} s")
