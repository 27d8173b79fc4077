"""Raw to curated beside DuckDB, in one run: CPU seconds, wall time and peak memory of whole processes.

Generates clickstream events as JSON lines from a seed, runs both, checks that the results agree, and
prints a table with ratios. Arguments: the program, the number of rows.
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

FILES = 20
TYPES = ["click", "view", "purchase"]
COUNTRIES = ["US", "DE", "FR", "GB", "IN", "BR", "JP", "CN"]
AGENTS = ["Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (Macintosh)", "Mozilla/5.0 (Windows NT 10.0)"]


def generate(folder, rows, seed=7):
    chance = random.Random(seed)
    start = 1_700_000_000
    per_file = rows // FILES
    for number in range(FILES):
        with open(folder / f"events-{number:02}.jsonl", "w") as out:
            for index in range(per_file):
                event = number * per_file + index
                second = start + event * 3 * 86_400 // rows
                out.write(json.dumps({
                    "event_id": f"{event:032x}",
                    "event_type": chance.choice(TYPES),
                    "user_id": f"u{int(chance.paretovariate(1.1)) % 1_000_000}",
                    "page_id": f"p{int(chance.paretovariate(1.1)) % 10_000}",
                    "amount": round(chance.random() * 100, 2),
                    "event_timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second)),
                    "country": chance.choice(COUNTRIES),
                    "user_agent": chance.choice(AGENTS),
                }) + "\n")


COLUMNS = {
    "event_id": "VARCHAR", "event_type": "VARCHAR", "user_id": "VARCHAR", "page_id": "VARCHAR",
    "amount": "DOUBLE", "event_timestamp": "TIMESTAMPTZ", "country": "VARCHAR", "user_agent": "VARCHAR",
}

PIPELINE = """
CREATE STREAMING TABLE curated.events PARTITIONED BY (event_date) AS
SELECT *, CAST(event_timestamp AS DATE) AS event_date
FROM STREAM read_files('events', format => 'json', schema => '{schema}')
WHERE user_id IS NOT NULL AND event_type IN ('click', 'view', 'purchase');
"""

PEER = """
import duckdb
con = duckdb.connect()
con.execute("SET TimeZone = 'UTC'; SET threads = {threads}")
con.execute(\"\"\"COPY (SELECT *, event_timestamp::DATE AS event_date
  FROM read_json('{folder}/events/*.jsonl', format = 'newline_delimited', columns = {columns})
  WHERE user_id IS NOT NULL AND event_type IN ('click', 'view', 'purchase'))
  TO '{folder}/peer' (FORMAT parquet, COMPRESSION snappy, PARTITION_BY (event_date))\"\"\")
"""


def measure(command, cwd):
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    if status != 0:
        raise SystemExit(f"{command[0]} failed")
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


def main():
    program, rows = sys.argv[1], int(sys.argv[2])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="catchment-bench-"))
    try:
        (folder / "events").mkdir()
        generate(folder / "events", rows)
        size = sum(path.stat().st_size for path in (folder / "events").iterdir())
        (folder / "pipelines").mkdir()
        (folder / "catchment.toml").write_text("")
        schema = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        (folder / "pipelines" / "all.sql").write_text(PIPELINE.format(schema=schema))
        peer = PEER.format(folder=folder, columns=COLUMNS, threads=os.cpu_count())
        ours = measure([program, "run", "--json"], folder)
        theirs = measure([sys.executable, "-c", peer], folder)
        again = measure([program, "run", "--json"], folder)
        agree(folder)
        print(f"{rows} events, {size / 1e6:.0f} MB of JSON, {os.cpu_count()} processors")
        print(f"{'':12}{'CPU s':>8}{'wall s':>8}{'peak MB':>9}")
        for name, figures in [("catchment", ours), ("duckdb", theirs), ("run again", again)]:
            print(f"{name:12}{figures[0]:8.2f}{figures[1]:8.2f}{figures[2]:9.0f}")
        print(f"{'ratio':12}" + "".join(f"{a / b:{width}.2f}" for a, b, width in zip(ours, theirs, (8, 8, 9))))
    finally:
        shutil.rmtree(folder)


def agree(folder):
    import duckdb

    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    files = f"read_parquet('{folder}/lake/curated/events/**/*.parquet', hive_partitioning = true)"
    theirs = f"read_parquet('{folder}/peer/**/*.parquet', hive_partitioning = true)"
    columns = ", ".join(COLUMNS) + ", event_date::VARCHAR"
    left = con.sql(f"SELECT count(*) FROM (SELECT {columns} FROM {files} EXCEPT ALL SELECT {columns} FROM {theirs})").fetchone()
    right = con.sql(f"SELECT count(*) FROM (SELECT {columns} FROM {theirs} EXCEPT ALL SELECT {columns} FROM {files})").fetchone()
    if left[0] or right[0]:
        raise SystemExit(f"results differ: {left[0]} rows only in ours, {right[0]} only in the peer's")


main()
