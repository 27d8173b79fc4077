-- Counters, right within a fraction of a second.
CREATE SERVING TABLE live.pages PRIMARY KEY (event) AS
SELECT event, count(*) AS clicks, count(DISTINCT user_id) AS users
FROM STREAM clicks
GROUP BY event;

-- Roll-ups of 1, 5 and 60 minutes, growing while their windows are open.
CREATE SERVING TABLE live.minutes PRIMARY KEY (window_start) TTL INTERVAL '7' DAY AS
SELECT TUMBLE_START(timestamp, INTERVAL '1' MINUTE) AS window_start, count(*) AS clicks, count(DISTINCT user_id) AS users
FROM STREAM clicks
GROUP BY TUMBLE(timestamp, INTERVAL '1' MINUTE);

CREATE SERVING TABLE live.five_minutes PRIMARY KEY (platform SORT KEY (window_start)) TTL INTERVAL '7' DAY AS
SELECT platform, TUMBLE_START(timestamp, INTERVAL '5' MINUTE) AS window_start, count(*) AS clicks, count(DISTINCT user_id) AS users
FROM STREAM clicks
GROUP BY platform, TUMBLE(timestamp, INTERVAL '5' MINUTE);

CREATE SERVING TABLE live.hours PRIMARY KEY (acquisition_channel SORT KEY (window_start)) TTL INTERVAL '30' DAY AS
SELECT
    acquisition_channel,
    TUMBLE_START(timestamp, INTERVAL '60' MINUTE) AS window_start,
    count(*) AS clicks,
    count(DISTINCT user_id) AS users,
    count(*) FILTER (WHERE event = 'purchase') AS purchases
FROM STREAM clicks
GROUP BY acquisition_channel, TUMBLE(timestamp, INTERVAL '60' MINUTE);

-- Told once for each minute that has more than a thousand clicks; over when that was five minutes ago.
CREATE ALERT spike ON (
    SELECT window_start, clicks, users FROM live.minutes
    WHERE clicks > 1000 AND window_start > now() - INTERVAL '5' MINUTE
) NOTIFY feed KEY (window_start) SEVERITY critical;

-- Who is told: a stream here, so that the example needs nobody; see [notify] in catchment.toml for webhooks, mail and SNS.
CREATE STREAM spikes (id VARCHAR, alert VARCHAR, severity VARCHAR, raised_at TIMESTAMPTZ, text VARCHAR);
