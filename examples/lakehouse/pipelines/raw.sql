-- The raw layer: files as they are, each read once.

CREATE STREAMING TABLE raw.flights
COMMENT 'Flights from the New York airports, one JSON object a line'
AS SELECT *, _metadata.file_name AS source_file
FROM STREAM read_files(
  '${data}/flights',
  format => 'json',
  schema => 'year INT, month INT, day INT, dep_time INT, sched_dep_time INT, dep_delay INT, arr_time INT,
             sched_arr_time INT, arr_delay INT, carrier VARCHAR, flight INT, tailnum VARCHAR, origin VARCHAR,
             dest VARCHAR, air_time INT, distance INT, hour INT, minute INT, time_hour TIMESTAMPTZ');

-- Columns are inferred here, and remembered from the first run on.
CREATE STREAMING TABLE raw.weather
COMMENT 'Hourly weather at the airports of departure'
AS SELECT * FROM STREAM read_files('${data}/weather/*.csv');

CREATE MATERIALIZED VIEW raw.planes AS SELECT * FROM read_files('${data}/planes/planes.csv');
CREATE MATERIALIZED VIEW raw.airports AS SELECT * FROM read_files('${data}/airports/airports.csv');
CREATE MATERIALIZED VIEW raw.airlines AS SELECT * FROM read_files('${data}/airlines/airlines.csv');
