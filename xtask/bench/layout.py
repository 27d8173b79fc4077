"""What layout is worth: OPTIMIZE beside DuckDB's COPY, bytes that filters read, one question over four layouts, a rollback.

Generates events as Parquet from a seed, in 200 files whose rows lie all over 30 days and all users. Arguments: the
program, the number of rows.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import duckdb

from measured import measure

FILES = 200
DAY = "2024-03-15"

GENERATE = """
COPY (
  SELECT n AS event_id, to_timestamp(1709251200 + (hash(n, 3) % 2592000)::BIGINT) AS event_at,
    'user-' || lpad((hash(n, 4) % 250000)::VARCHAR, 7, '0') AS user_id,
    'page-' || lpad((exp((hash(n, 5) % 1000000) / 1000000.0 * ln(10000)))::BIGINT::VARCHAR, 5, '0') AS page_id,
    ['US', 'DE', 'FR', 'GB', 'IN', 'BR', 'JP', 'CN'][1 + (hash(n, 6) % 8)::BIGINT] AS country,
    (hash(n, 7) % 10000) / 100.0::DOUBLE AS amount, md5(n::VARCHAR) AS session
  FROM (SELECT range AS n FROM range({first}, {last}))
) TO '{path}' (FORMAT parquet, COMPRESSION snappy)
"""

SOURCE = """STREAM read_files('events', format => 'parquet', maxFilesPerTrigger => {files},
  schema => 'event_id BIGINT, event_at TIMESTAMPTZ, user_id STRING, page_id STRING, country STRING, amount DOUBLE, session STRING')"""

PIPELINE = f"""
CREATE STREAMING TABLE small.events AS SELECT *, CAST(event_at AS DATE) AS day FROM {SOURCE.format(files=1)};
CREATE STREAMING TABLE clustered.events CLUSTER BY (user_id) AS SELECT *, CAST(event_at AS DATE) AS day FROM {SOURCE.format(files=1000)};
CREATE STREAMING TABLE daily.events PARTITIONED BY (day) AS SELECT *, CAST(event_at AS DATE) AS day FROM {SOURCE.format(files=1000)};
CREATE STREAMING TABLE sorted.events PARTITIONED BY (day) CLUSTER BY (user_id) AS
  SELECT *, CAST(event_at AS DATE) AS day FROM {SOURCE.format(files=1000)};
CREATE MATERIALIZED VIEW sums.users PARTITIONED BY (day) AS
  SELECT day, user_id, count(*) AS events, sum(amount) AS amount FROM daily.events GROUP BY day, user_id ORDER BY user_id;
"""


def main():
    program, rows = sys.argv[1], int(sys.argv[2])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="catchment-bench-", dir=os.environ.get("TMPDIR")))
    try:
        (folder / "events").mkdir()
        (folder / "pipelines").mkdir()
        (folder / "pipelines" / "all.sql").write_text(PIPELINE)
        (folder / "catchment.toml").write_text("[maintenance]\nminimum_files = 100000\n")
        con = duckdb.connect()
        for number in range(FILES):
            path = folder / "events" / f"{number:03}.parquet"
            con.execute(GENERATE.format(first=number * rows // FILES, last=(number + 1) * rows // FILES, path=path))
        subprocess.run([program, "run", "--json"], cwd=folder, stdout=subprocess.DEVNULL, check=True)
        print(f"{rows} events in {FILES} files, {os.cpu_count()} processors", flush=True)
        user = con.sql(f"""SELECT user_id FROM read_parquet('{folder}/events/*.parquet') WHERE event_at >= '{DAY} 00:00:00Z'
            AND event_at < '{DAY} 23:59:59Z' GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT 1""").fetchall()[0][0]
        optimize(program, folder, user)
        share(program, folder, "written in order, not optimized", f"SELECT * FROM sorted.events WHERE user_id = '{user}'")
        question(program, folder, user)
        rollback(program, folder)
    finally:
        shutil.rmtree(folder)


def sql(program, folder, text):
    done = subprocess.run([program, "sql", text], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def optimize(program, folder, user):
    """The same rows out of many small files into few, plain and sorted."""
    print(f"{'':34}{'CPU s':>8}{'wall s':>8}{'peak MB':>9}", flush=True)
    lake = folder / "lake"
    order = {"joined": "", "sorted": " ORDER BY user_id", "Z-order": None}
    copies = {}
    for name in order:
        table = "small.events" if name == "joined" else "clustered.events"
        if order[name] is not None:
            source = f"read_parquet('{lake}/{table.replace('.', '/')}/*.parquet')"
            script = f"""
import duckdb
con = duckdb.connect()
con.execute("SET threads = {os.cpu_count()}; SET preserve_insertion_order = {str(name == 'sorted').lower()}; SET temp_directory = '{folder}/spill'")
con.execute("COPY (SELECT * FROM {source}{order[name]}) TO '{folder}/copy.parquet' (FORMAT parquet, COMPRESSION snappy)")
"""
            copies[name] = measure([sys.executable, "-c", script], folder)
            (folder / "copy.parquet").unlink()
            show(f"DuckDB COPY, {name}", copies[name])
        zorder = " ZORDER BY (user_id, event_at)" if name == "Z-order" else ""
        ours = measure([program, "sql", f"OPTIMIZE {table}{zorder}"], folder)
        show(f"OPTIMIZE, {name}", ours)
        if name in copies:
            print("  catchment / DuckDB: " + ", ".join(
                f"{what} {a / b:.2f}" for what, a, b in zip(["CPU", "wall", "memory"], ours, copies[name])), flush=True)
        if name == "sorted":
            share(program, folder, "sorted by user_id", f"SELECT * FROM {table} WHERE user_id = '{user}'")
        if name == "Z-order":
            share(program, folder, "Z-order, by user_id", f"SELECT * FROM {table} WHERE user_id = '{user}'")
            share(program, folder, "Z-order, by event_at", f"SELECT * FROM {table} WHERE event_at >= '{DAY} 10:00:00Z' AND event_at < '{DAY} 11:00:00Z'")
    sql(program, folder, "OPTIMIZE clustered.events")


def show(name, figures):
    print(f"{name:34}{figures[0]:8.2f}{figures[1]:8.2f}{figures[2] / 1e6:9.0f}", flush=True)


UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def sizes(program, folder, query):
    """What EXPLAIN says: the line, and bytes that are read and all."""
    line = [line for line in sql(program, folder, f"EXPLAIN {query}")[0].splitlines() if line.endswith(" to read")][-1]
    found = re.search(r"([\d.,]+) (\w+) of ([\d.,]+) (\w+) to read$", line).groups()
    number = lambda text, unit: float(text.replace(",", "")) * UNITS[unit]
    return line, number(*found[:2]), number(*found[2:])


def share(program, folder, name, query):
    line, read, all_bytes = sizes(program, folder, query)
    print(f"{name}: {100 * read / all_bytes:.2f} % of the bytes ({line})", flush=True)


def question(program, folder, user):
    """One question over four layouts: the same answer, less and less to read."""
    where = f"WHERE day = DATE '{DAY}' AND user_id = '{user}'"
    layouts = {
        "unpruned": f"SELECT count(*) AS events, round(sum(amount), 2) AS amount FROM small.events {where}",
        "partitioned by day": f"SELECT count(*) AS events, round(sum(amount), 2) AS amount FROM daily.events {where}",
        "and sorted by user": f"SELECT count(*) AS events, round(sum(amount), 2) AS amount FROM sorted.events {where}",
        "aggregate table": f"SELECT sum(events) AS events, round(sum(amount), 2) AS amount FROM sums.users {where}",
    }
    first, answers = None, set()
    print(f"{'':34}{'ms':>8}{'MB':>8}", flush=True)
    for name, query in layouts.items():
        runs = [sql(program, folder, query) for _ in range(7)]
        answers |= {tuple(out.split()[2:]) for out, _ in runs}
        seconds = sorted(float(re.search(r"in ([\d.]+) s", told).group(1)) for _, told in runs)[3]
        _, read, _ = sizes(program, folder, query)
        first = first or (seconds, read)
        print(f"{name:34}{seconds * 1e3:8.0f}{read / (1 << 20):8.2f}   time / {first[0] / seconds:.1f}, bytes / {first[1] / read:.1f}", flush=True)
    if len(answers) != 1:
        raise SystemExit(f"the layouts give different answers: {answers}")


def rollback(program, folder):
    """Takes the last of 200 batches back: a commit, and no copy."""
    files = lambda: {path: path.stat().st_size for path in (folder / "lake").rglob("*") if path.is_file()}
    history = json.loads(subprocess.run([program, "history", "small.events", "--json", "--limit", "300"], cwd=folder, capture_output=True, check=True).stdout)
    writes = [entry["version"] for entry in history if entry["operation"] == "WRITE"]
    before = files()
    figures = measure([program, "rollback", "small.events", "--to", str(writes[1]), "--cascade"], folder)
    written = {path: size for path, size in files().items() if before.get(path) != size}
    data = sum(size for path, size in written.items() if path.suffix == ".parquet" and "_delta_log" not in str(path))
    show("rollback of the last of 200 batches", figures)
    print(f"  wrote {len(written)} files, {sum(written.values()) / 1e3:.0f} KB, {data} bytes of them data", flush=True)


main()
