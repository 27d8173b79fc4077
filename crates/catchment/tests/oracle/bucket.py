"""Counts the rows of a table in a bucket, and sums a column, with another reader. Arguments: URL, endpoint."""

import json
import sys

from common import leave
from deltalake import DeltaTable

url, endpoint = sys.argv[1:]
options = {
    "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
    "AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester-secret",
}
rows = DeltaTable(url, storage_options=options).to_pyarrow_table()
print(json.dumps({"n": rows.num_rows, "v": sum(rows.column("v").to_pylist())}, separators=(",", ":")))
leave()
