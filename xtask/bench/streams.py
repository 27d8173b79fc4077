"""One-minute windows with count and exact distinct users per page, as streams: beside PySpark and Flink, in one run.

The events are those of the lakehouse benchmark, in 20 files in the order of time. DuckDB computes the same as a batch: the
results are held to its own. Arguments: the program, the number of rows, the peers.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from lakehouse import COLUMNS, FILES, generate
from measured import measure

PIPELINE = """
CREATE STREAMING TABLE curated.minutes AS
SELECT page_id, TUMBLE_START(event_timestamp, INTERVAL '1' MINUTE) AS window_start, count(*) AS events, count(DISTINCT user_id) AS users
FROM STREAM read_files('events', format => 'json', schema => '{schema}') WATERMARK event_timestamp DELAY OF INTERVAL '10' SECONDS
GROUP BY page_id, TUMBLE(event_timestamp, INTERVAL '1' MINUTE);
"""

DUCKDB = """
import duckdb
con = duckdb.connect()
con.execute("SET TimeZone = 'UTC'; SET threads = {threads}; SET temp_directory = '{folder}/spill'")
con.execute(\"\"\"COPY (SELECT page_id, time_bucket(INTERVAL 1 MINUTE, event_timestamp) AS window_start, count(*) AS events, count(DISTINCT user_id) AS users
  FROM read_json('{folder}/events/*.json', format = 'newline_delimited', columns = {columns}) GROUP BY ALL)
  TO '{folder}/duckdb.parquet' (FORMAT parquet, COMPRESSION snappy)\"\"\")
"""

# Structured Streaming has no exact distinct; a set of the users has its size.
PYSPARK = """
from pyspark.sql import SparkSession, functions as F
spark = (SparkSession.builder.master('local[{threads}]').config('spark.driver.memory', '6g').config('spark.ui.enabled', 'false')
    .config('spark.sql.session.timeZone', 'UTC').config('spark.local.dir', '{folder}/spill').config('spark.sql.shuffle.partitions', '{threads}')
    .config('spark.driver.bindAddress', '127.0.0.1').config('spark.driver.host', '127.0.0.1').getOrCreate())
spark.sparkContext.setLogLevel('ERROR')
raw = spark.readStream.schema('event_id STRING, event_type STRING, user_id STRING, page_id STRING, amount DOUBLE, event_timestamp TIMESTAMP, country STRING, user_agent STRING').json('{folder}/events')
out = (raw.withWatermark('event_timestamp', '10 seconds').groupBy('page_id', F.window('event_timestamp', '1 minute'))
    .agg(F.count('*').alias('events'), F.size(F.collect_set('user_id')).alias('users'))
    .select('page_id', F.col('window.start').alias('window_start'), 'events', 'users'))
(out.writeStream.outputMode('append').format('parquet').option('path', '{folder}/pyspark').option('checkpointLocation', '{folder}/checkpoint')
    .trigger(availableNow=True).start().awaitTermination())
"""

# A file is a part of its own, read in the order of time: what another order reads behind the watermark is late.
FLINK = """
from pyflink.table import EnvironmentSettings, TableEnvironment
tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
config = tables.get_config()
for key, value in {{'parallelism.default': '{threads}', 'table.local-time-zone': 'UTC', 'python.execution-mode': 'thread'}}.items():
    config.set(key, value)
tables.execute_sql(\"\"\"CREATE TABLE events (event_id STRING, event_type STRING, user_id STRING, page_id STRING, amount DOUBLE,
  event_timestamp TIMESTAMP_LTZ(3), country STRING, user_agent STRING, WATERMARK FOR event_timestamp AS event_timestamp - INTERVAL '10' SECOND)
  WITH ('connector' = 'filesystem', 'path' = 'file://{folder}/parts', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601')\"\"\")
tables.execute_sql(\"\"\"CREATE TABLE minutes (page_id STRING, window_start STRING, events BIGINT, users BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 'file://{folder}/flink', 'format' = 'csv')\"\"\")
tables.execute_sql(\"\"\"INSERT INTO minutes SELECT page_id, CAST(window_start AS STRING), count(*), count(DISTINCT user_id)
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(event_timestamp), INTERVAL '1' MINUTE)) GROUP BY page_id, window_start, window_end\"\"\").wait()
"""

PEERS = {"duckdb": DUCKDB, "pyspark": PYSPARK, "flink": FLINK}


def interpreter(peer):
    """The Python that has a peer. Flink needs older packages than the others, and has one of its own."""
    if peer != "flink":
        return sys.executable
    folder = pathlib.Path("target/bench-flink").resolve()
    found = os.environ.get("CATCHMENT_BENCH_FLINK", f"{folder}/bin/python")
    if not pathlib.Path(found).exists():
        subprocess.run(["python3", "-m", "venv", folder], check=True)
        subprocess.run([found, "-m", "pip", "install", "--quiet", "apache-flink"], check=True)
    return found


def parts(folder, count):
    """The files of events once more, as one for each of so many readers, each in the order of time."""
    (folder / "parts").mkdir()
    for part in range(count):
        with open(folder / f"parts/{part}.json", "wb") as out:
            for file in sorted((folder / "events").iterdir())[part::count]:
                with open(file, "rb") as events:
                    shutil.copyfileobj(events, out)


def rows_of(peer, folder):
    """What reads a peer's result."""
    return {
        "duckdb": f"read_parquet('{folder}/duckdb.parquet')",
        "pyspark": f"read_parquet('{folder}/pyspark/*.parquet')",
        "flink": f"read_csv('{folder}/flink/*', names = ['page_id', 'window_start', 'events', 'users'], types = {{'page_id': 'VARCHAR', 'window_start': 'TIMESTAMP'}})",
    }[peer]


def agree(mine, theirs, name):
    """Both hold the same windows, as far as both have closed them.

    Flink looks at the time of each row by itself: events that are repeated long after they happened are late. They repeat what was
    counted, so that the windows and their users are the same.
    """
    import duckdb

    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    columns = "page_id, epoch_us(window_start) AS at, events::BIGINT AS events, users::BIGINT AS users"
    until = con.sql(f"SELECT max(epoch_us(window_start)) FROM {mine}").fetchone()[0]
    sums = [
        con.sql(f"SELECT count(*), sum(events), sum(users), bit_xor(hash(r)) FROM (SELECT {columns} FROM {rows}) r WHERE \"at\" <= {until}").fetchone()
        for rows in (mine, theirs)
    ]
    late = sums[0][1] - sums[1][1] if name == "flink" else 0
    if late:
        print(f"{name} found {late} repeated events late", flush=True)
        sums = [of[::2] for of in sums]
    if late < 0 or sums[0] != sums[1]:
        raise SystemExit(f"results differ from {name}'s: {sums}")
    print(f"agrees with {name}: {sums[0][0]} windows of pages", flush=True)


def main():
    program, rows, peers = sys.argv[1], int(sys.argv[2]), [name for name in sys.argv[3].split(",") if name]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="catchment-bench-", dir=os.environ.get("TMPDIR")))
    try:
        (folder / "events").mkdir()
        generate(folder / "events", rows)
        project = folder / "project"
        (project / "pipelines").mkdir(parents=True)
        (project / "catchment.toml").write_text("")
        (project / "events").symlink_to(folder / "events")
        schema = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
        (project / "pipelines" / "all.sql").write_text(PIPELINE.format(schema=schema))
        print(f"{rows} events in {FILES} files, {os.cpu_count()} processors", flush=True)
        print(f"{'':20}{'CPU s':>8}{'wall s':>8}{'peak MB':>9}", flush=True)

        def show(name, figures):
            print(f"{name:20}{figures[0]:8.2f}{figures[1]:8.2f}{figures[2] / 1e6:9.0f}", flush=True)

        first = measure([program, "run", "--json"], project)
        show("catchment", first)
        mine = f"read_parquet('{project}/lake/curated/minutes/*.parquet')"
        for peer in peers:
            (folder / "spill").mkdir(exist_ok=True)
            script = PEERS[peer].format(folder=folder, columns=COLUMNS, threads=os.cpu_count())
            if peer == "flink":
                parts(folder, os.cpu_count())
            figures = measure([interpreter(peer), "-c", script], folder)
            show(peer, figures)
            print(f"catchment / {peer}: " + ", ".join(
                f"{name} {a / b:.2f}" for name, a, b in zip(["CPU", "wall", "memory"], first, figures)), flush=True)
            agree(mine, rows_of(peer, folder), peer)
            shutil.rmtree(folder / "spill")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
