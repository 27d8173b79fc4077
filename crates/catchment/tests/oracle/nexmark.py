"""What DuckDB makes of the same events. Usage: nexmark.py PROJECT UNTIL RESULTS.

RESULTS is a file of JSON: the rows of each query by its name. Windows that end behind UNTIL may be open still and are left
out. Prints a line a query; ends with 1 when one is not the same.
"""

import json
import sys
from collections import Counter
from datetime import datetime

import duckdb

project, until, results = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
db = duckdb.connect()
db.execute("SET TimeZone = 'UTC'")
for table in ["bid", "auction", "person"]:
    db.execute(
        f"CREATE TABLE {table} AS SELECT * REPLACE (date_time::TIMESTAMP AS date_time"
        + (", expires::TIMESTAMP AS expires" if table == "auction" else "")
        + f") FROM read_json('{project}/{table}/*.json', format = 'newline_delimited')"
    )
last = f"TIMESTAMP '{until}'"
hops = (
    "(SELECT auction, count(*) AS num, w AS window_start, w + INTERVAL 10 SECOND AS window_end FROM (SELECT *,"
    " unnest([time_bucket(INTERVAL 2 SECOND, date_time) - INTERVAL (2 * i) SECOND FOR i IN range(5)]) AS w FROM bid) GROUP BY ALL)"
)
won = "auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires"
ranks = "price < 10000", "price >= 10000 AND price < 1000000", "price >= 1000000"
day = "CAST(CAST(date_time AS DATE) AS VARCHAR) AS day"
queries = {
    "q0": "SELECT auction, bidder, price, date_time, extra FROM bid",
    "q1": "SELECT auction, bidder, 0.908::DOUBLE * price AS price, date_time, extra FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    "q3": "SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')",
    "q4": f"SELECT category, avg(final) AS price FROM (SELECT max(b.price) AS final, a.category FROM {won} GROUP BY a.id, a.category) GROUP BY category",
    "q5": f"SELECT auction, num, window_end FROM {hops} QUALIFY num = max(num) OVER (PARTITION BY window_end)",
    "q6": f"SELECT id, seller, avg(final) OVER (PARTITION BY seller ORDER BY sold_at, id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS price FROM (SELECT a.id, a.seller, max(b.price) AS final, max(b.date_time) AS sold_at FROM {won} GROUP BY a.id, a.seller)",
    "q7": "SELECT auction, price, bidder, date_time, extra, time_bucket(INTERVAL 10 SECOND, date_time) + INTERVAL 10 SECOND AS window_end FROM bid QUALIFY price = max(price) OVER (PARTITION BY time_bucket(INTERVAL 10 SECOND, date_time))",
    "q8": "SELECT DISTINCT p.id, p.name, time_bucket(INTERVAL 10 SECOND, p.date_time) AS window_start, time_bucket(INTERVAL 10 SECOND, p.date_time) + INTERVAL 10 SECOND AS window_end FROM person p JOIN auction a ON p.id = a.seller AND time_bucket(INTERVAL 10 SECOND, p.date_time) = time_bucket(INTERVAL 10 SECOND, a.date_time)",
    "q9": f"SELECT a.id, a.item_name, a.seller, a.category, b.auction, b.bidder, b.price, b.date_time AS bid_date_time FROM {won} QUALIFY row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b.extra) = 1",
    "q10": "SELECT auction, bidder, price, date_time, extra, strftime(date_time, '%Y-%m-%d') AS dt, strftime(date_time, '%H:%M') AS hm FROM bid",
    "q11": "SELECT bidder, count(*) AS bid_count, min(date_time) AS window_start, max(date_time) + INTERVAL 10 SECOND AS window_end FROM (SELECT *, sum(starts) OVER (PARTITION BY bidder ORDER BY date_time ROWS UNBOUNDED PRECEDING) AS session FROM (SELECT *, (date_time >= lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) + INTERVAL 10 SECOND OR lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) IS NULL)::INT AS starts FROM bid)) GROUP BY bidder, session",
    "q13": "SELECT auction, bidder, price, date_time, 'value ' || (auction % 10000) AS value FROM bid",
    "q14": "SELECT auction, bidder, 0.908::DOUBLE * price AS price, CASE WHEN hour(date_time) BETWEEN 8 AND 18 THEN 'dayTime' WHEN hour(date_time) <= 6 OR hour(date_time) >= 20 THEN 'nightTime' ELSE 'otherTime' END AS bid_time_type, date_time, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts FROM bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000",
    "q15": f"SELECT {day}, count(*) AS total_bids, "
    + ", ".join(f"count(*) FILTER ({rank}) AS rank{n + 1}_bids" for n, rank in enumerate(ranks))
    + ", count(DISTINCT bidder) AS total_bidders, "
    + ", ".join(f"count(DISTINCT bidder) FILTER ({rank}) AS rank{n + 1}_bidders" for n, rank in enumerate(ranks))
    + f", count(DISTINCT auction) AS total_auctions, count(DISTINCT auction) FILTER ({ranks[2]}) AS rank3_auctions FROM bid GROUP BY day",
    "q16": f"SELECT channel, {day}, max(strftime(date_time, '%H:%M')) AS minute, count(*) AS total_bids, count(*) FILTER ({ranks[0]}) AS rank1_bids, count(DISTINCT bidder) AS total_bidders, count(DISTINCT auction) FILTER ({ranks[1]}) AS rank2_auctions FROM bid GROUP BY channel, day",
    "q17": f"SELECT auction, {day}, count(*) AS total_bids, count(*) FILTER ({ranks[0]}) AS rank1_bids, min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price FROM bid GROUP BY auction, day",
    "q18": "SELECT bidder, auction, price, date_time, extra FROM bid QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC, extra DESC) = 1",
    "q19": "SELECT auction, bidder, price, date_time, row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time, extra) AS place FROM bid QUALIFY place <= 10",
    "q20": "SELECT b.auction, b.bidder, b.price, b.date_time, a.item_name, a.seller FROM bid b JOIN auction a ON b.auction = a.id WHERE a.category = 10",
    "q21": "SELECT auction, bidder, price, channel, CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3' ELSE regexp_extract(url, '(&|^)channel_id=([^&]*)', 2) END AS channel_id FROM bid WHERE regexp_matches(url, '(&|^)channel_id=([^&]*)') OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu')",
    "q22": "SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2, split_part(url, '/', 6) AS dir3 FROM bid",
}
# Which rows came when is known from the files alone: every bid is in one window, and those of a window are of one bidder.
queries["q12"] = "SELECT bidder, count(*) AS bid_count FROM bid GROUP BY bidder"


def cell(value):
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)) or type(value).__name__ == "Decimal":
        return f"{float(value):.9g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="microseconds")
    try:
        return datetime.fromisoformat(value.rstrip("Z")).isoformat(sep=" ", timespec="microseconds") if "T" in value and value[:2] == "20" else value
    except ValueError:
        return value


failed = 0
for name, query in sorted(queries.items(), key=lambda item: int(item[0][1:])):
    if "window_end" in query:
        query = f"SELECT * FROM ({query}) WHERE window_end <= {last}"
    relation = db.sql(query)
    columns = relation.columns
    wanted = Counter(tuple(cell(value) for value in row) for row in relation.fetchall())
    found = Counter(tuple(cell(row.get(column)) for column in columns) for row in results[name])
    same = wanted == found and len(wanted) > 0
    failed += not same
    print(f"{name}: {sum(found.values())} rows, {'the same' if same else 'DIFFERENT'}")
    if not same:
        print("  only DuckDB:", list((wanted - found).items())[:3], sum(wanted.values()))
        print("  only ours:  ", list((found - wanted).items())[:3])
sys.exit(failed > 0)
