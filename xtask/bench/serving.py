"""Serving tables: time of a batch at few and many groups, reads by key in process and by HTTP, and how fresh a count is.

Arguments: program, example that reads, groups, records a second, seconds.
"""

import http.client
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

program, example, groups, rate, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
FEW, ROWS, BATCHES, READS = 10_000, 20_000, 25, 20_000
SERVER = '[server]\nlisten = "127.0.0.1:0"\nopen_on_loopback = true\n'


def project(pipeline):
    """A new project."""
    folder = os.path.abspath(tempfile.mkdtemp(dir="target"))
    os.makedirs(f"{folder}/pipelines")
    with open(f"{folder}/catchment.toml", "w") as file:
        file.write(SERVER)
    with open(f"{folder}/pipelines/all.sql", "w") as file:
        file.write(pipeline)
    return folder


def quantile(values, share):
    """The value below which a share of all is."""
    return sorted(values)[int((len(values) - 1) * share)]


def peak(process):
    """The most memory that a process has had, in MiB."""
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def serve(folder):
    """Starts a service; it and its address."""
    service = subprocess.Popen([program, "serve", "--json"], cwd=folder, stdout=subprocess.PIPE, text=True)
    address = json.loads(service.stdout.readline())["listening"].split("//")[1]
    threading.Thread(target=service.stdout.read, daemon=True).start()
    return service, address


def get(connection, path):
    """Status and milliseconds of a request."""
    begun = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status, (time.perf_counter() - begun) * 1000


COUNTS = """
CREATE STREAM events (k BIGINT, v BIGINT);
CREATE SERVING TABLE counts PRIMARY KEY (k) AS SELECT k, count(*) AS n, sum(v) AS v, max(v) AS most FROM STREAM events GROUP BY k;
"""


def post(connection, stream, records):
    """Writes records; when all are durable."""
    connection.request("POST", f"/v1/streams/{stream}", json.dumps(records))
    answer = connection.getresponse()
    told = answer.read()
    assert answer.status == 202, told


def wait_for(connection, path):
    """Waits until a row is there; milliseconds."""
    begun = time.monotonic()
    while get(connection, path)[0] != 200:
        assert time.monotonic() - begun < 600, path
        time.sleep(0.001)
    return (time.monotonic() - begun) * 1000


os.makedirs("target", exist_ok=True)
chance, medians = random.Random(7), {}
for count in (FEW, groups):
    folder = project(COUNTS)
    service, address = serve(folder)
    connection = http.client.HTTPConnection(address)
    begun = time.monotonic()
    for first in range(0, count, ROWS):
        post(connection, "events", [{"k": k, "v": k} for k in range(first, min(first + ROWS, count))])
    # Negative keys stand for the end of what was written.
    post(connection, "events", [{"k": -1, "v": 0}])
    wait_for(connection, "/v1/tables/counts/-1")
    filled, times = time.monotonic() - begun, []
    for number in range(2, BATCHES + 2):
        keys = chance.sample(range(count), FEW) * (ROWS // FEW)
        post(connection, "events", [{"k": k, "v": k} for k in keys] + [{"k": -number, "v": 0}])
        times.append(wait_for(connection, f"/v1/tables/counts/-{number}"))
    medians[count] = statistics.median(times[5:])
    size = sum(os.path.getsize(f"{at}/{name}") for at, _, names in os.walk(f"{folder}/.catchment/serving") for name in names)
    print(f"{count:>9,} groups: filled through the stream in {filled:.1f} s, {size / 2**20:.0f} MB on disk, {peak(service):.0f} MB in memory, {ROWS:,} rows that touch {FEW:,} groups are counted {medians[count]:.0f} ms after they were durable (least {min(times):.0f}, most {max(times[5:]):.0f})", flush=True)
    reads = []
    for _ in range(READS if count == groups else 0):
        status, took = get(connection, f"/v1/tables/counts/{chance.randrange(groups)}")
        assert status == 200
        reads.append(took)
    service.send_signal(signal.SIGTERM)
    service.wait()
    told = subprocess.run([program, "sql", "--json", "SELECT count(*) AS groups, sum(n) AS n FROM counts"], cwd=folder, check=True, capture_output=True, text=True)
    assert json.loads(told.stdout) == [{"groups": count + 1 + BATCHES, "n": count + 1 + BATCHES * (ROWS + 1)}], told.stdout
    if count == groups:
        print(f"a batch at {groups:,} groups takes {medians[groups] / medians[FEW]:.2f} times one at {FEW:,}")
        print(f"by HTTP, one connection: {READS:,} reads: p50 {quantile(reads, 0.5):.2f} ms, p99 {quantile(reads, 0.99):.2f} ms", flush=True)
        done = subprocess.run([example, f"{folder}/.catchment/serving", "main.counts", str(groups), "300000"], check=True, capture_output=True, text=True)
        print("in process:", done.stdout.strip(), flush=True)
    shutil.rmtree(folder)

folder = project(
    "CREATE STREAM clicks (page VARCHAR, user_id BIGINT);\n"
    "CREATE SERVING TABLE pages PRIMARY KEY (page) AS SELECT page, count(*) AS n FROM STREAM clicks GROUP BY page;\n"
)
service, address = serve(folder)
ended, sent = threading.Event(), [0]


def load():
    """Sends records at the rate, twenty requests a second."""
    connection, due = http.client.HTTPConnection(address), time.monotonic()
    while not ended.is_set():
        records = [{"page": f"page {chance.randrange(5000)}", "user_id": 1} for _ in range(rate // 20)]
        connection.request("POST", "/v1/streams/clicks", json.dumps(records))
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 202, answer.status
        sent[0] += len(records)
        due += 0.05
        time.sleep(max(0, due - time.monotonic()))


sender = threading.Thread(target=load)
sender.start()
connection, probes, begun, number = http.client.HTTPConnection(address), [], time.monotonic(), 0
while time.monotonic() - begun < seconds:
    number += 1
    connection.request("POST", "/v1/streams/clicks", json.dumps({"page": f"probe-{number}", "user_id": 1}))
    assert connection.getresponse().read()
    acknowledged = time.monotonic()
    while get(connection, f"/v1/tables/pages/probe-{number}")[0] != 200:
        assert time.monotonic() - acknowledged < 30
        time.sleep(0.001)
    probes.append((time.monotonic() - acknowledged) * 1000)
    time.sleep(0.05)
ended.set()
sender.join()
print(f"at {sent[0] / seconds:,.0f} records/s for {seconds:.0f} s, from the answer to the row: {len(probes)} probes, p50 {quantile(probes, 0.5):.0f} ms, p99 {quantile(probes, 0.99):.0f} ms, most {max(probes):.0f} ms", flush=True)
time.sleep(1)
service.send_signal(signal.SIGTERM)
service.wait()
told = subprocess.run([program, "sql", "--json", "SELECT sum(n) AS n FROM pages"], cwd=folder, check=True, capture_output=True, text=True)
assert json.loads(told.stdout) == [{"n": sent[0] + number}], (told.stdout, sent[0] + number)
print(f"all {sent[0] + number:,} records are counted once")
shutil.rmtree(folder)
