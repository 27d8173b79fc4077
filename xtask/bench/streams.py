"""One-minute windows with count and exact distinct users per page, as streams: beside PySpark, in one run.

The events are those of the lakehouse benchmark, in 20 files in the order of time. DuckDB computes the same as a batch: the
results are held to its own. Arguments: the program, the number of rows, the peers.
"""

import os
import pathlib
import shutil
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

PEERS = {"duckdb": DUCKDB, "pyspark": PYSPARK}


def agree(folder, mine, theirs, name):
    """Both hold the same windows, as far as both have closed them."""
    import duckdb

    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    columns = "page_id, epoch_us(window_start) AS at, events::BIGINT AS events, users::BIGINT AS users"
    until = con.sql(f"SELECT max(epoch_us(window_start)) FROM read_parquet('{mine}')").fetchone()[0]
    sums = [
        con.sql(f"SELECT count(*), sum(events), sum(users), bit_xor(hash(r)) FROM (SELECT {columns} FROM read_parquet('{path}')) r WHERE \"at\" <= {until}").fetchone()
        for path in (mine, theirs)
    ]
    if sums[0] != sums[1]:
        raise SystemExit(f"results differ from {name}'s: {sums}")
    print(f"agrees with {name}: {sums[0][0]} rows of {sums[0][1]} events", flush=True)


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
        mine = f"{project}/lake/curated/minutes/*.parquet"
        for peer in peers:
            (folder / "spill").mkdir(exist_ok=True)
            script = PEERS[peer].format(folder=folder, columns=COLUMNS, threads=os.cpu_count())
            figures = measure([sys.executable, "-c", script], folder)
            show(peer, figures)
            print(f"catchment / {peer}: " + ", ".join(
                f"{name} {a / b:.2f}" for name, a, b in zip(["CPU", "wall", "memory"], first, figures)), flush=True)
            theirs = f"{folder}/{peer}.parquet" if peer == "duckdb" else f"{folder}/{peer}/*.parquet"
            agree(folder, mine, theirs, peer)
            shutil.rmtree(folder / "spill")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
