-- Pass through.
CREATE STREAMING TABLE q0 AS SELECT auction, bidder, price, date_time, extra FROM STREAM raw.bid;

-- Currency conversion.
CREATE STREAMING TABLE q1 AS SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM STREAM raw.bid;

-- Selection.
CREATE STREAMING TABLE q2 AS SELECT auction, price FROM STREAM raw.bid WHERE auction % 123 = 0;

-- Local item suggestion: two streams joined, as far apart as they may be.
CREATE STREAMING TABLE q3 AS
SELECT p.name, p.city, p.state, a.id
FROM auction a JOIN person p ON a.seller = p.id AND p.date_time BETWEEN a.date_time - INTERVAL '1' HOUR AND a.date_time + INTERVAL '1' HOUR
WHERE a.category = 10 AND (p.state = 'OR' OR p.state = 'ID' OR p.state = 'CA');

-- Average price for a category.
CREATE MATERIALIZED VIEW q4 AS
SELECT category, avg(final) AS price FROM (
    SELECT max(b.price) AS final, a.category
    FROM raw.auction a, raw.bid b
    WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
    GROUP BY a.id, a.category)
GROUP BY category;

-- Hot items.
CREATE STREAMING TABLE q5 AS
SELECT bids.auction, bids.num, bids.window_end FROM (
    SELECT auction, count(*) AS num, window_start, window_end
    FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
    GROUP BY auction, window_start, window_end) bids
JOIN (
    SELECT max(num) AS maxn, window_start, window_end FROM (
        SELECT auction, count(*) AS num, window_start, window_end
        FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
        GROUP BY auction, window_start, window_end)
    GROUP BY window_start, window_end) most
ON bids.window_start = most.window_start AND bids.window_end = most.window_end AND bids.num >= most.maxn;

-- Average selling price by seller, over the last ten.
CREATE MATERIALIZED VIEW q6 AS
SELECT id, seller, avg(final) OVER (PARTITION BY seller ORDER BY sold_at, id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS price FROM (
    SELECT a.id, a.seller, max(b.price) AS final, max(b.date_time) AS sold_at
    FROM raw.auction a, raw.bid b
    WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
    GROUP BY a.id, a.seller);

-- Highest bid.
CREATE STREAMING TABLE q7 AS
SELECT auction, price, bidder, date_time, extra, window_end FROM (
    SELECT *, rank() OVER (PARTITION BY window_start, window_end ORDER BY price DESC) AS place
    FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND)))
WHERE place = 1;

-- Monitor new users: two streams joined by their windows.
CREATE STREAMING TABLE q8 AS
SELECT p.id, p.name, p.window_start, p.window_end FROM (
    SELECT id, name, window_start, window_end
    FROM TABLE(TUMBLE(TABLE person, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
    GROUP BY id, name, window_start, window_end) p
JOIN (
    SELECT seller, window_start, window_end
    FROM TABLE(TUMBLE(TABLE auction, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
    GROUP BY seller, window_start, window_end) a
ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end;

-- Winning bids.
CREATE MATERIALIZED VIEW q9 AS
SELECT id, item_name, seller, category, auction, bidder, price, bid_date_time FROM (
    SELECT a.*, b.auction, b.bidder, b.price, b.date_time AS bid_date_time,
        row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time ASC, b.extra) AS place
    FROM raw.auction a, raw.bid b
    WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires)
WHERE place <= 1;

-- Log to the lake, by day and minute.
CREATE STREAMING TABLE q10 PARTITIONED BY (dt, hm) AS
SELECT auction, bidder, price, date_time, extra, CAST(CAST(date_time AS DATE) AS VARCHAR) AS dt, to_char(date_time, '%H:%M') AS hm
FROM STREAM raw.bid;

-- User sessions.
CREATE STREAMING TABLE q11 AS
SELECT bidder, count(*) AS bid_count, SESSION_START(date_time, INTERVAL '10' SECOND) AS window_start, SESSION_END(date_time, INTERVAL '10' SECOND) AS window_end
FROM bid GROUP BY bidder, SESSION(date_time, INTERVAL '10' SECOND);

-- Windows of processing time: when the file came.
CREATE STREAMING TABLE q12 AS
SELECT bidder, count(*) AS bid_count, TUMBLE_START(arrived_at, INTERVAL '10' SECOND) AS window_start, TUMBLE_END(arrived_at, INTERVAL '10' SECOND) AS window_end
FROM STREAM raw.bid WATERMARK arrived_at DELAY OF INTERVAL '0' SECOND GROUP BY bidder, TUMBLE(arrived_at, INTERVAL '10' SECOND);

-- Joined with a bounded side input.
CREATE STREAMING TABLE q13 AS
SELECT b.auction, b.bidder, b.price, b.date_time, s.value FROM STREAM raw.bid b JOIN raw.side_input s ON b.auction % 10000 = s.key;

-- Calculation.
CREATE STREAMING TABLE q14 AS
SELECT auction, bidder, 0.908 * price AS price,
    CASE WHEN date_part('hour', date_time) BETWEEN 8 AND 18 THEN 'dayTime'
         WHEN date_part('hour', date_time) <= 6 OR date_part('hour', date_time) >= 20 THEN 'nightTime'
         ELSE 'otherTime' END AS bid_time_type,
    date_time, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts
FROM STREAM raw.bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000;

-- Bidding statistics by day.
CREATE SERVING TABLE q15 PRIMARY KEY (day) AS
SELECT CAST(CAST(date_time AS DATE) AS VARCHAR) AS day, count(*) AS total_bids,
    count(*) FILTER (WHERE price < 10000) AS rank1_bids,
    count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
    count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
    count(DISTINCT bidder) AS total_bidders,
    count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,
    count(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bidders,
    count(DISTINCT bidder) FILTER (WHERE price >= 1000000) AS rank3_bidders,
    count(DISTINCT auction) AS total_auctions,
    count(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions
FROM STREAM raw.bid GROUP BY CAST(CAST(date_time AS DATE) AS VARCHAR);

-- Channel statistics by day.
CREATE SERVING TABLE q16 PRIMARY KEY (channel, day) AS
SELECT channel, CAST(CAST(date_time AS DATE) AS VARCHAR) AS day, max(to_char(date_time, '%H:%M')) AS minute, count(*) AS total_bids,
    count(*) FILTER (WHERE price < 10000) AS rank1_bids,
    count(DISTINCT bidder) AS total_bidders,
    count(DISTINCT auction) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_auctions
FROM STREAM raw.bid GROUP BY channel, CAST(CAST(date_time AS DATE) AS VARCHAR);

-- Auction statistics by day.
CREATE SERVING TABLE q17 PRIMARY KEY (auction, day) AS
SELECT auction, CAST(CAST(date_time AS DATE) AS VARCHAR) AS day, count(*) AS total_bids,
    count(*) FILTER (WHERE price < 10000) AS rank1_bids, min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price
FROM STREAM raw.bid GROUP BY auction, CAST(CAST(date_time AS DATE) AS VARCHAR);

-- The last bid of each bidder on each auction.
CREATE SERVING TABLE q18 PRIMARY KEY (bidder, auction) AS
SELECT bidder, auction, last_value(price ORDER BY date_time, extra) AS price, max(date_time) AS date_time, last_value(extra ORDER BY date_time, extra) AS extra
FROM STREAM raw.bid GROUP BY bidder, auction;

-- The ten highest bids of each auction.
CREATE MATERIALIZED VIEW q19 AS
SELECT auction, bidder, price, date_time, place FROM (
    SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time, extra) AS place FROM raw.bid)
WHERE place <= 10;

-- Bids with the auctions of a category: two streams joined.
CREATE STREAMING TABLE q20 AS
SELECT b.auction, b.bidder, b.price, b.date_time, a.item_name, a.seller
FROM bid b JOIN auction a ON b.auction = a.id AND b.date_time BETWEEN a.date_time - INTERVAL '1' HOUR AND a.date_time + INTERVAL '1' HOUR
WHERE a.category = 10;

-- Channel ids.
CREATE STREAMING TABLE q21 AS
SELECT auction, bidder, price, channel,
    CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3'
        ELSE (regexp_match(url, '(&|^)channel_id=([^&]*)'))[2] END AS channel_id
FROM STREAM raw.bid
WHERE regexp_like(url, '(&|^)channel_id=([^&]*)') OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu');

-- Folders of addresses.
CREATE STREAMING TABLE q22 AS
SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2, split_part(url, '/', 6) AS dir3
FROM STREAM raw.bid;
