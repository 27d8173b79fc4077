-- What comes in by the Kinesis API: `catchment replay-events` or producer.py.
CREATE STREAM clicks (
    user_id VARCHAR,
    session_id VARCHAR,
    event VARCHAR,
    timestamp TIMESTAMPTZ,
    platform VARCHAR,
    acquisition_channel VARCHAR,
    user_cohort VARCHAR,
    user_lifecycle VARCHAR,
    WATERMARK timestamp DELAY OF INTERVAL '5' SECOND
) SHARDS 4;

-- The lake: every event once, as it came.
CREATE STREAMING TABLE raw.clicks PARTITIONED BY (day) AS
SELECT *, CAST(timestamp AS DATE) AS day
FROM STREAM clicks;

-- Windows that are over, appended to the lake when the watermark has passed them.
CREATE STREAM windows.minutes AS
SELECT STREAM
    event AS page_id,
    TUMBLE_START(timestamp, INTERVAL '1' MINUTE) AS window_start,
    COUNT(*) AS views,
    COUNT(DISTINCT user_id) AS unique_users
FROM clicks
GROUP BY event, TUMBLE(timestamp, INTERVAL '1' MINUTE);
