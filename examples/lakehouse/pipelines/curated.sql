-- The curated layer: typed, named, partitioned by the day of departure.

CREATE STREAMING TABLE curated.flights
PARTITIONED BY (flight_date)
COMMENT 'One row a flight; delays in minutes, negative when early'
TBLPROPERTIES ('quality' = 'curated')
AS SELECT
  make_date(year, month, day) AS flight_date,
  time_hour AS departure_hour,
  carrier, flight, tailnum, origin, dest,
  dep_delay AS departure_delay,
  arr_delay AS arrival_delay,
  dep_time IS NULL AS cancelled,
  dep_time IS NOT NULL AND arr_delay IS NULL AS diverted,
  air_time, distance, source_file
FROM STREAM raw.flights;

CREATE STREAMING TABLE curated.weather
COMMENT 'One row an airport and hour, in metric units'
AS SELECT
  origin,
  CAST(time_hour AS TIMESTAMPTZ) AS observed_hour,
  round((temp - 32) * 5 / 9, 1) AS temperature_celsius,
  round(wind_speed * 1.609344, 1) AS wind_kilometres_per_hour,
  round(precip * 25.4, 2) AS precipitation_millimetres,
  round(visib * 1.609344, 1) AS visibility_kilometres
FROM STREAM(raw.weather);

CREATE MATERIALIZED VIEW curated.planes
AS SELECT tailnum, year AS built, manufacturer, model, engines, seats FROM raw.planes;

CREATE MATERIALIZED VIEW curated.airports
AS SELECT faa AS airport, name, lat AS latitude, lon AS longitude, alt AS altitude_feet, tzone AS time_zone FROM raw.airports;

CREATE MATERIALIZED VIEW curated.airlines AS SELECT carrier, name FROM raw.airlines;
