"""Reads every table of a lake with DuckDB and deltalake, which must agree, and prints name and rows."""

import sys

from common import connect, delta_rows, leave, tables

connection = connect()
for name in tables(sys.argv[1]):
    columns, found = delta_rows(connection, f"{sys.argv[1]}/{name.replace('.', '/')}")
    print(f"{name} {len(found)} {sum(row[columns.index('id')] for row in found) if 'id' in columns else 0}")
leave()
