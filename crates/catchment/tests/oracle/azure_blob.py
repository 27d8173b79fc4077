"""Talks to a blob server with other clients than ours: makes the container, or counts a table in it.

Arguments: endpoint, account, key, then "make", or "count" and a URL.
"""

import json
import sys

from azure.storage.blob import BlobServiceClient
from common import leave
from deltalake import DeltaTable

endpoint, account, key, what = sys.argv[1:5]
if what == "make":
    client = BlobServiceClient(endpoint, credential={"account_name": account, "account_key": key})
    client.create_container("container")
    print("made")
else:
    options = {
        "azure_storage_account_name": account, "azure_storage_account_key": key,
        "azure_storage_endpoint": endpoint, "azure_allow_http": "true",
    }
    rows = DeltaTable(sys.argv[5], storage_options=options).to_pyarrow_table()
    print(json.dumps({"n": rows.num_rows, "v": sum(rows.column("v").to_pylist())}, separators=(",", ":")))
leave()
