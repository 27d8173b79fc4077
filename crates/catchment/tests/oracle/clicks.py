"""Counts clicks and users by page of the first lines of a file, as often as it is read. Usage: clicks.py FILE COUNT..."""

import csv
import gzip
import itertools
import json
import sys
from collections import defaultdict

clicks, users = defaultdict(int), defaultdict(set)
for count in sys.argv[2:]:
    with gzip.open(sys.argv[1], "rt") as file:
        for event in itertools.islice(csv.DictReader(file), int(count)):
            clicks[event["event"]] += 1
            users[event["event"]].add(event["user_id"])
print(json.dumps({page: [clicks[page], len(users[page])] for page in clicks}))
