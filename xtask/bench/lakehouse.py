"""Raw to curated beside DuckDB, Polars and PySpark, in one run: whole processes, results compared.

Generates clickstream events as JSON lines from a seed: 20 files over 3 days, 2 % duplicates, some of them
across files and days, 1 % without a user, 0.5 % of unknown type, users and pages as 1/rank. Every engine
validates, keeps bad rows apart, drops duplicates by event_id and writes Snappy Parquet by year, month, day
and hour. Arguments: the program, the number of rows, the peers.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from measured import measure

FILES = 20
COLUMNS = {
    "event_id": "VARCHAR", "event_type": "VARCHAR", "user_id": "VARCHAR", "page_id": "VARCHAR",
    "amount": "DOUBLE", "event_timestamp": "TIMESTAMPTZ", "country": "VARCHAR", "user_agent": "VARCHAR",
}
TYPES = "'click', 'view', 'purchase'"
PARTS = ["year", "month", "day", "hour"]

GENERATE = """
COPY (
  WITH numbers AS (SELECT range AS n FROM range({first}, {last})),
  -- Every 50th event is one of before again: one in two from close by, the others from anywhere.
  origins AS (SELECT CASE WHEN n % 50 <> 7 OR n < 100 THEN n
      ELSE (CASE WHEN n % 100 = 7 THEN n - 1 - (hash(n, 11) % 49)::BIGINT ELSE (hash(n, 12) % n)::BIGINT END) // 50 * 50 + 8 END AS i
    FROM numbers),
  chances AS (SELECT i, (hash(i, {seed}) % 1000000) / 1000000.0 AS a, (hash(i, {seed} + 1) % 1000000) / 1000000.0 AS b,
    (hash(i, {seed} + 2) % 10000) AS c, md5(i::VARCHAR || '{seed}') AS h FROM origins)
  SELECT
    h[1:8] || '-' || h[9:12] || '-' || h[13:16] || '-' || h[17:20] || '-' || h[21:32] AS event_id,
    CASE WHEN i % 200 = 3 THEN 'unknown' ELSE ['click', 'view', 'view', 'purchase'][1 + (hash(i, 5) % 4)::BIGINT] END AS event_type,
    CASE WHEN i % 100 = 5 THEN NULL ELSE 'user-' || lpad(exp(a * ln(1000000))::BIGINT::VARCHAR, 7, '0') END AS user_id,
    'page-' || lpad(exp(b * ln(10000))::BIGINT::VARCHAR, 5, '0') AS page_id,
    c / 100.0::DOUBLE AS amount,
    strftime(make_timestamp(1700000000000000 + (i * (259200000000.0 / {rows}))::BIGINT), '%Y-%m-%dT%H:%M:%S.%gZ') AS event_timestamp,
    ['US', 'DE', 'FR', 'GB', 'IN', 'BR', 'JP', 'CN'][1 + (hash(i, 6) % 8)::BIGINT] AS country,
    ['Mozilla/5.0 (X11; Linux x86_64)', 'Mozilla/5.0 (Macintosh)', 'Mozilla/5.0 (Windows NT 10.0)'][1 + (hash(i, 7) % 3)::BIGINT] AS user_agent
  FROM chances
) TO '{path}' (FORMAT json)
"""

PIPELINE = """
CREATE STREAMING TABLE curated.events ({constraints}
  CONSTRAINT once EXPECT UNIQUE (event_id) ON VIOLATION DROP ROW
) PARTITIONED BY (year, month, day, hour) AS
SELECT *, CAST(date_part('year', event_timestamp) AS INT) AS year, CAST(date_part('month', event_timestamp) AS INT) AS month,
  CAST(date_part('day', event_timestamp) AS INT) AS day, CAST(date_part('hour', event_timestamp) AS INT) AS hour
FROM STREAM read_files('events', format => 'json', schema => '{schema}');
"""

RULES = """
  CONSTRAINT has_user EXPECT (user_id IS NOT NULL) ON VIOLATION QUARANTINE,
  CONSTRAINT known_type EXPECT (event_type IN ('click', 'view', 'purchase')) ON VIOLATION QUARANTINE,"""

MORE_RULES = RULES + """
  CONSTRAINT r3 EXPECT (amount >= 0) ON VIOLATION QUARANTINE, CONSTRAINT r4 EXPECT (amount < 1000),
  CONSTRAINT r5 EXPECT (length(country) = 2), CONSTRAINT r6 EXPECT (page_id LIKE 'page-%'),
  CONSTRAINT r7 EXPECT (event_timestamp > '2023-01-01T00:00:00Z'), CONSTRAINT r8 EXPECT (length(event_id) = 36),
  CONSTRAINT r9 EXPECT (user_agent IS NOT NULL), CONSTRAINT r10 EXPECT (event_id <> ''),"""

# The cheapest of the forms tried: grouping by the key beats DISTINCT ON and DISTINCT, and parsing once beats twice.
DUCKDB = """
import duckdb
con = duckdb.connect('{folder}/peer.duckdb')
con.execute("SET TimeZone = 'UTC'; SET threads = {threads}; SET temp_directory = '{folder}/spill'; SET preserve_insertion_order = false")
con.execute(\"\"\"CREATE TEMP TABLE raw AS SELECT *, user_id IS NOT NULL AND event_type IN ({types}) AS good
  FROM read_json('{folder}/events/*.json', format = 'newline_delimited', columns = {columns})\"\"\")
con.execute("COPY (SELECT * EXCLUDE good FROM raw WHERE NOT coalesce(good, false)) TO '{folder}/bad.parquet' (FORMAT parquet, COMPRESSION snappy)")
any = ', '.join(f'any_value({{c}}) AS {{c}}' for c in {columns} if c not in ('event_id', 'event_timestamp'))
con.execute(f\"\"\"COPY (SELECT *, year(event_timestamp) AS year, month(event_timestamp) AS month,
    day(event_timestamp) AS day, hour(event_timestamp) AS hour FROM
      (SELECT event_id, any_value(event_timestamp) AS event_timestamp, {{any}} FROM raw WHERE good GROUP BY event_id))
  TO '{folder}/out' (FORMAT parquet, COMPRESSION snappy, PARTITION_BY (year, month, day, hour))\"\"\")
"""

POLARS = """
import polars as pl
schema = {{"event_id": pl.String, "event_type": pl.String, "user_id": pl.String, "page_id": pl.String,
    "amount": pl.Float64, "event_timestamp": pl.String, "country": pl.String, "user_agent": pl.String}}
raw = pl.scan_ndjson('{folder}/events/*.json', schema=schema)
good = pl.col('user_id').is_not_null() & pl.col('event_type').is_in(['click', 'view', 'purchase'])
time = pl.col('event_timestamp').str.to_datetime('%Y-%m-%dT%H:%M:%S%.fZ', time_zone='UTC')
raw.filter(~good.fill_null(False)).sink_parquet('{folder}/bad.parquet', compression='snappy')
out = (raw.filter(good).unique('event_id', keep='any').with_columns(time.alias('event_timestamp'))
    .with_columns(year=pl.col('event_timestamp').dt.year(), month=pl.col('event_timestamp').dt.month(),
        day=pl.col('event_timestamp').dt.day(), hour=pl.col('event_timestamp').dt.hour()))
out.collect(engine='streaming').write_parquet('{folder}/out', compression='snappy', partition_by=['year', 'month', 'day', 'hour'])
"""

PYSPARK = """
from pyspark.sql import SparkSession, functions as F
spark = (SparkSession.builder.master('local[{threads}]').config('spark.driver.memory', '6g').config('spark.ui.enabled', 'false')
    .config('spark.sql.session.timeZone', 'UTC').config('spark.local.dir', '{folder}/spill').config('spark.sql.shuffle.partitions', '16')
    .config('spark.driver.bindAddress', '127.0.0.1').config('spark.driver.host', '127.0.0.1').getOrCreate())
spark.sparkContext.setLogLevel('ERROR')
raw = spark.read.schema('event_id STRING, event_type STRING, user_id STRING, page_id STRING, amount DOUBLE, event_timestamp TIMESTAMP, country STRING, user_agent STRING').json('{folder}/events')
good = F.col('user_id').isNotNull() & F.col('event_type').isin('click', 'view', 'purchase')
raw.filter(~good).write.option('compression', 'snappy').parquet('{folder}/bad.parquet')
t = F.col('event_timestamp')
(raw.filter(good).dropDuplicates(['event_id']).withColumn('year', F.year(t)).withColumn('month', F.month(t))
    .withColumn('day', F.dayofmonth(t)).withColumn('hour', F.hour(t))
    .write.option('compression', 'snappy').partitionBy('year', 'month', 'day', 'hour').parquet('{folder}/out'))
"""

PEERS = {"duckdb": DUCKDB, "polars": POLARS, "pyspark": PYSPARK}


def generate(folder, rows, seed=7):
    import duckdb

    con = duckdb.connect()
    per_file = rows // FILES
    for number in range(FILES):
        path = folder / f"events-{number:02}.json"
        con.execute(GENERATE.format(first=number * per_file, last=(number + 1) * per_file, rows=rows, seed=seed, path=path))


def ours(program, folder, name, rules):
    """Runs the program on a project of its own over the events."""
    project = folder / name
    (project / "pipelines").mkdir(parents=True)
    (project / "catchment.toml").write_text("")
    (project / "events").symlink_to(folder / "events")
    schema = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
    (project / "pipelines" / "all.sql").write_text(PIPELINE.format(constraints=rules, schema=schema))
    figures = measure([program, "run", "--json"], project)
    said = subprocess.run([program, "sql", "--json", "SELECT sum(spilled_bytes) AS bytes FROM system.flows"], cwd=project, capture_output=True, check=True)
    return project, figures, json.loads(said.stdout)[0]["bytes"]


def main():
    program, rows, peers = sys.argv[1], int(sys.argv[2]), [name for name in sys.argv[3].split(",") if name]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="catchment-bench-", dir=os.environ.get("TMPDIR")))
    try:
        (folder / "events").mkdir()
        generate(folder / "events", rows)
        size = sum(path.stat().st_size for path in (folder / "events").iterdir())
        print(f"{rows} events, {size / 1e6:.0f} MB of JSON in {FILES} files, {os.cpu_count()} processors", flush=True)
        print(f"{'':20}{'CPU s':>8}{'wall s':>8}{'peak MB':>9}{'spilled MB':>12}", flush=True)

        def show(name, figures, spilled=None):
            end = "" if spilled is None else f"{spilled / 1e6:12.0f}"
            print(f"{name:20}{figures[0]:8.2f}{figures[1]:8.2f}{figures[2] / 1e6:9.0f}{end}", flush=True)

        project, first, spilled = ours(program, folder, "catchment", RULES)
        show("catchment", first, spilled)
        show("run again", measure([program, "run", "--json"], project))
        _, without, spilled = ours(program, folder, "none", "")
        show("no expectations", without, spilled)
        shutil.rmtree(folder / "none")
        _, ten, spilled = ours(program, folder, "ten", MORE_RULES)
        show("ten expectations", ten, spilled)
        shutil.rmtree(folder / "ten")
        print(f"ten over none: {ten[0] / without[0]:.2f} of the CPU seconds", flush=True)
        for peer in peers:
            (folder / "spill").mkdir(exist_ok=True)
            script = PEERS[peer].format(folder=folder, columns=COLUMNS, types=TYPES, threads=os.cpu_count())
            figures = measure([sys.executable, "-c", script], folder)
            show(peer, figures)
            print(f"catchment / {peer}: " + ", ".join(
                f"{name} {a / b:.2f}" for name, a, b in zip(["CPU", "wall", "memory"], first, figures)), flush=True)
            agree(project, folder, peer)
            for path in ("out", "spill", "bad.parquet", "peer.duckdb"):
                target = folder / path
                shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder)


def agree(project, folder, peer):
    """Both results hold the same rows, and so do the bad ones, counted."""
    import duckdb

    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    columns = ", ".join(["event_id", "event_type", "user_id", "page_id", "amount", "epoch_us(event_timestamp) AS at", "country", "user_agent"])
    parts = ", ".join(f"{part}::INT AS {part}" for part in PARTS)
    mine = f"SELECT {columns}, {parts} FROM read_parquet('{project}/lake/curated/events/**/*.parquet', hive_partitioning = true)"
    theirs = f"SELECT {columns}, {parts} FROM read_parquet('{folder}/out/**/*.parquet', hive_partitioning = true)"
    sums = [con.sql(f"SELECT count(*), count(DISTINCT event_id), sum(hash(r)::HUGEINT), bit_xor(hash(r)) FROM ({query}) r").fetchall()[0] for query in (mine, theirs)]
    if sums[0] != sums[1] or sums[0][0] != sums[0][1]:
        raise SystemExit(f"results differ from {peer}'s: {sums}")
    bad = f"{folder}/bad.parquet" + ("/*.parquet" if (folder / "bad.parquet").is_dir() else "")
    counts = [con.sql(f"SELECT count(*) FROM read_parquet('{path}')").fetchall()[0][0]
              for path in (f"{project}/lake/curated/events__quarantine/*.parquet", bad)]
    if counts[0] != counts[1]:
        raise SystemExit(f"bad rows differ from {peer}'s: {counts}")
    print(f"agrees with {peer}: {sums[0][0]} rows, {counts[0]} bad", flush=True)


if __name__ == "__main__":
    main()
