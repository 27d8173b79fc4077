"""PutRecords as fast as an endpoint takes them: ours, every batch synced before its answer, and the peers.

Arguments: the program that serves the log, the load generator, seconds for each.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request

server, load, seconds = sys.argv[1:]
here = os.path.abspath("target/bench-node")
KEY, SECRET = "CTKAEXAMPLEEXAMPLE00", "a-secret-of-forty-characters-for-a-bench"


def wait_for(address):
    host, port = address.split(":")
    import socket
    until = time.time() + 60
    while time.time() < until:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing listens at {address}")


def create(address, shards):
    """Makes the stream with boto3, and waits until it is there."""
    import boto3
    kinesis = boto3.client("kinesis", endpoint_url=f"http://{address}", region_name="us-east-1",
                           aws_access_key_id=KEY, aws_secret_access_key=SECRET)
    kinesis.create_stream(StreamName="bench", ShardCount=shards)
    kinesis.get_waiter("stream_exists").wait(StreamName="bench", WaiterConfig={"Delay": 1})


def tree(pid):
    """CPU seconds and the peak memory of a process and its children, as Linux tells."""
    cpu = memory = 0
    pids = [pid]
    for one in pids:
        try:
            with open(f"/proc/{one}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            with open(f"/proc/{one}/status") as file:
                memory += sum(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children") as file:
                    pids += [int(child) for child in file.read().split()]
        except OSError:
            pass
    return cpu, memory / 1024


def measure(name, process, address, synced):
    try:
        wait_for(address)
        create(address, 4)
        before, _ = tree(process.pid)
        out = subprocess.run([load, address, "bench", seconds, "4", "500", KEY, SECRET], capture_output=True, text=True)
        if out.returncode:
            print(f"| {name} | failed: {out.stderr.strip()[:120]} | | | | | |", flush=True)
            return None
        told = json.loads(out.stdout)
        cpu, memory = tree(process.pid)
        per_million = (cpu - before) / (told["records_per_second"] * told["seconds"]) * 1e6
        print(f"| {name} | {synced} | {told['records_per_second']:,.0f} | {told['p50_ms']} | {told['p99_ms']} | {per_million:.1f} | {memory:.0f} |", flush=True)
        return told["records_per_second"]
    finally:
        process.kill()
        process.wait()


def ours(signed):
    folder = tempfile.mkdtemp(dir=".")
    arguments = [server, folder] + ([KEY, SECRET] if signed else [])
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    address = process.stdout.readline().strip()
    rate = measure("catchment, signed" if signed else "catchment", process, address, "yes")
    subprocess.run(["rm", "-rf", folder])
    return rate


def syncs():
    """Writes of a batch's size, each synced: what the disk does by itself."""
    with tempfile.NamedTemporaryFile(dir=".") as file:
        block, count, begun = os.urandom(80_000), 0, time.time()
        while time.time() - begun < 3:
            os.write(file.fileno(), block)
            os.fdatasync(file.fileno())
            count += 1
        return count / (time.time() - begun)


print(f"{os.cpu_count()} cores; the disk does {syncs():.0f} writes of 80 kB with fdatasync a second\n")
print("| endpoint | synced | records/s | p50 ms | p99 ms | CPU s per million | peak MB |")
print("|---|---|---|---|---|---|---|", flush=True)
best = 0
open_rate, signed_rate = ours(False), ours(True)
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
best = max(best, measure("kinesalite", subprocess.Popen(["node", f"{here}/node_modules/kinesalite/cli.js", "--port", "24567", "--createStreamMs", "0", "--shardLimit", "100"], **quiet), "127.0.0.1:24567", "no") or 0)
local = {**os.environ, "KINESIS_MOCK_PLAIN_PORT": "24568", "KINESIS_MOCK_TLS_PORT": "24569", "LOG_LEVEL": "ERROR", "CREATE_STREAM_DURATION": "10ms", "SHARD_LIMIT": "100"}
best = max(best, measure("kinesis-local", subprocess.Popen(["node", "main.js"], cwd=f"{here}/node_modules/kinesis-local", env=local, **quiet), "127.0.0.1:24568", "no") or 0)
best = max(best, measure("moto", subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "24570"], **quiet), "127.0.0.1:24570", "no") or 0)
if open_rate and signed_rate and best:
    print(f"\nratio to the best of the peers: {open_rate / best:.1f} open, {signed_rate / best:.1f} with signatures")
else:
    raise SystemExit("not all of it could be measured")
