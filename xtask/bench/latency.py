"""From PutRecords to the row in Delta: how long, at a steady rate, on a table with many commits, its upkeep running.

Arguments: program, example that makes the commits, commits, seconds, records a second.

Each record holds when its request was sent. A row can be read once its commit has its name in the log: the change time of that file's
inode is taken, after the link that publishes it.
"""

import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pyarrow.parquet as parquet

program, example, commits, seconds, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
CONNECTIONS, PER_SECOND = 4, 20
records = rate // (CONNECTIONS * PER_SECOND)

os.makedirs("target", exist_ok=True)
folder = os.path.abspath(tempfile.mkdtemp(dir="target"))
os.makedirs(f"{folder}/pipelines")
with open(f"{folder}/catchment.toml", "w") as file:
    file.write('[server]\nlisten = "127.0.0.1:0"\nopen_on_loopback = true\n[streams]\nbuffer_milliseconds = 500\n')
with open(f"{folder}/pipelines/all.sql", "w") as file:
    file.write("CREATE STREAMING TABLE raw.t AS SELECT id FROM STREAM read_stream('clicks', schema => 'id BIGINT');\n")
subprocess.run([example, str(commits), f"{folder}/lake"], check=True)
log = f"{folder}/lake/raw/t/_delta_log"


def versions():
    """The versions in the log, in order."""
    return sorted(int(name[:20]) for name in os.listdir(log) if name.endswith(".json") and name[:20].isdigit())


# Upkeep has made some besides.
begun_with = versions()[-1]
subprocess.run([program, "stream", "create", "clicks", "--shards", "4"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
service = subprocess.Popen([program, "serve", "--json"], cwd=folder, stdout=subprocess.PIPE, text=True)
address = json.loads(service.stdout.readline())["listening"].split("//")[1]
threading.Thread(target=service.stdout.read, daemon=True).start()

headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Kinesis_20131202.PutRecords"}
answers, late = [], []


def put(connection, stream_records):
    """One request of PutRecords; how long its answer took."""
    begun = time.time()
    connection.request("POST", "/", json.dumps({"StreamName": "clicks", "Records": stream_records}), headers)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    if answer.status != 200 or told["FailedRecordCount"]:
        raise SystemExit(f"refused: {told}")
    return time.time() - begun


# A service that has just begun reads what the table holds; its first commit is what upkeep waits for to begin.
put(http.client.HTTPConnection(address), [{"PartitionKey": "first", "Data": base64.b64encode(b'{"id":0}').decode()}])
begun = time.time()
while versions()[-1] == begun_with:
    time.sleep(0.05)
print(f"first commit of the service after {time.time() - begun:.1f} s", flush=True)


def write(number):
    connection = http.client.HTTPConnection(address)
    begun = time.time() + number / (CONNECTIONS * PER_SECOND)
    for request in range(int(seconds * PER_SECOND)):
        due = begun + request / PER_SECOND
        time.sleep(max(0, due - time.time()))
        late.append(time.time() - due)
        data = base64.b64encode(b'{"id":%d}' % int(time.time() * 1e6)).decode()
        answers.append(put(connection, [{"PartitionKey": str(i), "Data": data} for i in range(records)]))


writers = [threading.Thread(target=write, args=(number,)) for number in range(CONNECTIONS)]
for writer in writers:
    writer.start()
for writer in writers:
    writer.join()
service.send_signal(signal.SIGTERM)
if service.wait() != 0:
    raise SystemExit("the service did not end well")

latencies, commits_at, compactions = [], [], []
for version in versions():
    if version <= begun_with:
        continue
    name = f"{version:020}.json"
    with open(f"{log}/{name}") as file:
        adds = [action["add"] for action in map(json.loads, file) if "add" in action]
    readable = os.stat(f"{log}/{name}").st_ctime_ns / 1000
    if adds and not adds[0]["dataChange"]:
        compactions.append(readable)
        continue
    for add in adds:
        sent = parquet.read_table(f"{folder}/lake/raw/t/{add['path']}", columns=["id"], partitioning=None)["id"].to_pylist()
        latencies.extend((readable - at) / 1e6 for at in sent if at)
    commits_at.extend([readable] if adds else [])
shutil.rmtree(folder)

wanted = int(seconds * PER_SECOND) * CONNECTIONS * records
if len(latencies) != wanted:
    raise SystemExit(f"{len(latencies)} rows of {wanted}")
part = lambda values, share: sorted(values)[min(len(values) - 1, int(len(values) * share))]
print(f"{wanted} records in {seconds:.0f} s, {len(commits_at)} commits behind {begun_with}, {len(compactions)} compactions")
gap, behind = max((after - before, before) for before, after in zip(commits_at, commits_at[1:]))
told = ", ".join(f"{(at - commits_at[0]) / 1e6:.1f}" for at in compactions)
print(f"longest without a commit: {gap / 1e6:.1f} s, from {(behind - commits_at[0]) / 1e6:.1f} s on; compactions after {told} s")
print(f"row readable: p50 {part(latencies, 0.5):.3f} s, p99 {part(latencies, 0.99):.3f} s, most {max(latencies):.3f} s")
print(f"answer: p50 {part(answers, 0.5) * 1e3:.1f} ms, p99 {part(answers, 0.99) * 1e3:.1f} ms; the generator was late by {part(late, 0.99) * 1e3:.1f} ms (p99)")
