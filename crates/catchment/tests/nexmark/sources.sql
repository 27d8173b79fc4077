CREATE STREAMING TABLE raw.bid AS SELECT *, _metadata.file_modification_time AS arrived_at
  FROM STREAM read_files('bid', format => 'json', schema => 'auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, date_time TIMESTAMP, extra STRING');
CREATE STREAMING TABLE raw.auction AS SELECT *
  FROM STREAM read_files('auction', format => 'json', schema => 'id BIGINT, item_name STRING, description STRING, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMP, expires TIMESTAMP, seller BIGINT, category BIGINT, extra STRING');
CREATE STREAMING TABLE raw.person AS SELECT *
  FROM STREAM read_files('person', format => 'json', schema => 'id BIGINT, name STRING, email_address STRING, credit_card STRING, city STRING, state STRING, date_time TIMESTAMP, extra STRING');
CREATE MATERIALIZED VIEW raw.side_input AS SELECT value AS key, 'value ' || value AS value FROM generate_series(0, 9999);

-- With their times, for windows and joins.
CREATE TEMPORARY VIEW bid AS SELECT * FROM STREAM raw.bid WATERMARK date_time DELAY OF INTERVAL '4' SECOND;
CREATE TEMPORARY VIEW auction AS SELECT * FROM STREAM raw.auction WATERMARK date_time DELAY OF INTERVAL '4' SECOND;
CREATE TEMPORARY VIEW person AS SELECT * FROM STREAM raw.person WATERMARK date_time DELAY OF INTERVAL '4' SECOND;
