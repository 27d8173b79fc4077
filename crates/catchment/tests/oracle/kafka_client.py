"""Writes to a Kafka broker with Confluent's client. Arguments: address, then one of

create TOPIC PARTITIONS
put TOPIC FIRST END        numbers as JSON, under a seventh of them as key
messages FOLDER            Avro and Protobuf messages by the schemas of a folder; prints the rows that come of them

An address ADDRESS,AUTHORITY is spoken to by TLS, the authority being a file.
"""

import io
import json
import os
import struct
import subprocess
import sys
from datetime import datetime, timezone
from decimal import Decimal

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from common import leave

address, action, *rest = sys.argv[1:]
address, *authority = address.split(",")
common = {"bootstrap.servers": address, **({"security.protocol": "ssl", "ssl.ca.location": authority[0]} if authority else {})}
# One message a batch: tansu tells the end of a partition by the first offset of its last batch.
producer = Producer({**common, "batch.num.messages": 1, "linger.ms": 0})


def create(topic, partitions):
    admin = AdminClient(common)
    for made in admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=1)]).values():
        made.result()


def finish():
    if producer.flush(30):
        raise SystemExit("not all of it was taken")


def send(topic, messages):
    create(topic, 1)
    for message in messages:
        producer.produce(topic, key="k", value=message, partition=0)
        producer.flush(30)


ROWS = [
    {"id": 1, "user": "Zoë", "amount": "12.50", "at": datetime(2026, 1, 31, 12, 0, 0, 123456, timezone.utc), "kind": "BUY", "tags": ["a", "b"], "place": {"x": 1.5, "ok": True}},
    {"id": -(2**62), "user": None, "amount": "-0.01", "at": datetime(1969, 12, 31, 23, 59, 59, 0, timezone.utc), "kind": "VIEW", "tags": [], "place": {"x": -0.25, "ok": False}},
    {"id": 0, "user": "", "amount": "0.00", "at": datetime(2026, 6, 1, tzinfo=timezone.utc), "kind": "BUY", "tags": ["ü"], "place": {"x": 0.0, "ok": True}},
]


def shown(offset, row, **others):
    text = row["at"].strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{row['at'].microsecond:06}".rstrip("0") if row["at"].microsecond else ""
    shown = {"o": offset, **row, "at": f"{text}{fraction}Z", **others}
    # JSON rows leave nulls out.
    return {name: value for name, value in shown.items() if value is not None}


def avro(folder):
    import fastavro

    with open(f"{folder}/click.avsc") as file:
        schema = fastavro.parse_schema(json.load(file))
    messages = []
    for row in ROWS:
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, schema, {**row, "amount": Decimal(row["amount"])})
        messages.append(buffer.getvalue())
    return messages, [messages[0][:-3], messages[0] + b"more"]


def protobuf(folder):
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    import grpc_tools

    include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{include}", "--include_imports",
                    f"--descriptor_set_out={folder}/click.desc", f"{folder}/click.proto"], check=True)
    pool = descriptor_pool.DescriptorPool()
    with open(f"{folder}/click.desc", "rb") as file:
        for described in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
            pool.Add(described)
    Click = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Click"))
    messages = []
    for row in ROWS:
        click = Click(id=row["id"], amount=int(abs(Decimal(row["amount"]) * 100)) + 2**63, kind=row["kind"], tags=row["tags"], raw=bytes([0, 255]))
        if row["user"] is not None:
            click.user = row["user"]
        click.at.FromDatetime(row["at"])
        click.place.x, click.place.ok = row["place"]["x"], row["place"]["ok"]
        messages.append(click.SerializeToString())
    return messages, [messages[0][:-3], b"\xff\xff\xff\xff"]


def both(folder):
    expected = {}
    messages, broken = avro(folder)
    framed = [b"\0" + struct.pack(">I", 7) + message for message in messages]
    send("avro", messages + broken + [None])
    send("avro-confluent", framed + broken + [None])
    rows = [shown(offset, row) for offset, row in enumerate(ROWS)] + [{"o": 5}]  # the last message holds nothing
    expected["avro"] = expected["avro-confluent"] = rows
    messages, broken = protobuf(folder)
    framed = [b"\0" + struct.pack(">I", 7) + b"\0" + messages[0], b"\0" + struct.pack(">I", 7) + b"\x04\x02\x00" + messages[1],
              b"\0" + struct.pack(">I", 7) + b"\0" + messages[2]]
    send("protobuf", messages + broken + [None])
    send("protobuf-set", messages + broken + [None])
    send("protobuf-confluent", framed + broken + [None])
    rows = []
    for offset, row in enumerate(ROWS):
        amount = str(int(abs(Decimal(row["amount"]) * 100)) + 2**63)
        rows.append(shown(offset, {**row, "amount": amount}, raw="00ff"))
    expected["protobuf"] = expected["protobuf-set"] = expected["protobuf-confluent"] = rows + [{"o": 5}]
    print(json.dumps(expected))


if action == "create":
    create(rest[0], int(rest[1]))
elif action == "put":
    for number in range(int(rest[1]), int(rest[2])):
        producer.produce(rest[0], key=str(number % 7), value=json.dumps({"n": number, "k": number % 7}, separators=(",", ":")))
    finish()
elif action == "messages":
    both(rest[0])
leave()
