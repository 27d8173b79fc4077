"""Reads a Delta table with two independent readers, and compares rows."""

import math
import os
import sys

import duckdb
from deltalake import DeltaTable


def leave():
    """Ends the process with success, without taking the interpreter down.

    The threads of deltalake may still run then, and a thread that asks for a dying interpreter takes the
    process with it ("terminate called without an active exception").
    """
    sys.stdout.flush()
    os._exit(0)


def connect():
    """DuckDB with its delta extension, which comes from a Python package and not from the network."""
    import duckdb_extensions

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    duckdb_extensions.import_extension("delta", con=connection)
    connection.execute("LOAD delta")
    return connection


def rows(relation):
    """The rows of a DuckDB relation as sorted tuples."""
    return sorted(relation.fetchall(), key=repr_key)


def repr_key(row):
    return tuple((value is None, str(type(value)), str(value)) for value in row)


def same(a, b):
    """Whether two rows are the same; floating-point values may differ in their last digits."""
    if len(a) != len(b):
        return False
    for x, y in zip(a, b):
        if isinstance(x, float) or isinstance(y, float):
            if x is None or y is None or not math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-9):
                return False
        elif x != y:
            return False
    return True


def compare(name, ours, theirs):
    """Fails with the first difference."""
    if len(ours) != len(theirs):
        raise SystemExit(f"{name}: {len(ours)} rows, {len(theirs)} expected")
    for mine, other in zip(ours, theirs):
        if not same(mine, other):
            raise SystemExit(f"{name}: row {mine}, expected {other}")


def delta_rows(connection, folder):
    """A table as DuckDB's delta extension reads it, and as the deltalake package does; both must agree."""
    by_duckdb = connection.sql(f"SELECT * FROM delta_scan('{folder}')")
    columns = by_duckdb.columns
    first = rows(by_duckdb)
    table = DeltaTable(folder)
    arrow = table.to_pyarrow_table(columns=columns)
    second = rows(connection.sql("SELECT * FROM arrow"))
    compare(f"{folder} (DuckDB and deltalake)", first, second)
    return columns, first


def tables(lake):
    """All tables of a lake, as schema.table."""
    for schema in sorted(os.listdir(lake)):
        path = os.path.join(lake, schema)
        if schema.startswith("_") or not os.path.isdir(path):
            continue
        for table in sorted(os.listdir(path)):
            if os.path.isdir(os.path.join(path, table, "_delta_log")):
                yield f"{schema}.{table}"
