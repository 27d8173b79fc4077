-- Meter readings come a file a day. Some come late, and some days are corrected afterwards.

CREATE STREAMING TABLE raw.readings (
  CONSTRAINT once EXPECT UNIQUE (meter, taken_at) ON VIOLATION DROP ROW
)
COMMENT 'Readings as they came, by the day they were taken'
PARTITIONED BY (day)
AS SELECT meter, taken_at, kwh, CAST(taken_at AS DATE) AS day
FROM STREAM read_files('data/readings', format => 'json', schema => 'meter STRING, taken_at TIMESTAMP, kwh DOUBLE');

CREATE STREAMING TABLE curated.readings (
  CONSTRAINT plausible EXPECT (kwh BETWEEN 0 AND 100) ON VIOLATION QUARANTINE
)
COMMENT 'Plausible readings'
PARTITIONED BY (day)
AS SELECT meter, taken_at, kwh, day FROM STREAM raw.readings;

CREATE MATERIALIZED VIEW enriched.daily
COMMENT 'What was used each day'
AS SELECT day, count(*) AS readings, round(sum(kwh), 1) AS kwh FROM curated.readings GROUP BY day;
