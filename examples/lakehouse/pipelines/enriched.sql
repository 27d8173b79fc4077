-- The enriched layer: delays by airline, route, hour and weather.

CREATE TEMPORARY VIEW departures AS
SELECT * FROM curated.flights WHERE NOT cancelled;

CREATE MATERIALIZED VIEW enriched.delays_by_airline AS
SELECT
  f.carrier, a.name AS airline,
  count(*) AS flights,
  count(*) FILTER (WHERE f.cancelled) AS cancelled,
  round(avg(f.departure_delay), 2) AS mean_departure_delay,
  round(avg(f.arrival_delay), 2) AS mean_arrival_delay
FROM curated.flights f LEFT JOIN curated.airlines a ON a.carrier = f.carrier
GROUP BY f.carrier, a.name;

CREATE MATERIALIZED VIEW enriched.delays_by_route AS
SELECT
  origin, dest, p.name AS destination,
  count(*) AS flights,
  max(arrival_delay) AS worst_arrival_delay,
  round(avg(arrival_delay), 2) AS mean_arrival_delay,
  count(DISTINCT d.carrier) AS airlines
FROM departures d LEFT JOIN curated.airports p ON p.airport = d.dest
GROUP BY origin, dest, p.name;

CREATE MATERIALIZED VIEW enriched.delays_by_hour AS
SELECT
  CAST(date_part('hour', departure_hour) AS INT) AS hour_utc,
  count(*) AS flights,
  round(avg(departure_delay), 2) AS mean_departure_delay
FROM departures
GROUP BY 1;

CREATE MATERIALIZED VIEW enriched.delays_by_weather AS
SELECT
  CASE
    WHEN w.origin IS NULL THEN 'unknown'
    WHEN w.visibility_kilometres < 5 THEN 'poor visibility'
    WHEN w.precipitation_millimetres > 0 THEN 'precipitation'
    WHEN w.wind_kilometres_per_hour >= 40 THEN 'strong wind'
    ELSE 'fair'
  END AS weather,
  count(*) AS flights,
  round(avg(d.departure_delay), 2) AS mean_departure_delay
FROM departures d LEFT JOIN curated.weather w
  ON w.origin = d.origin AND w.observed_hour = d.departure_hour
GROUP BY 1;

-- A streaming table that reads a streaming table, joined with a table.
CREATE STREAMING TABLE enriched.long_delays
PARTITIONED BY (flight_date)
AS SELECT f.flight_date, f.carrier, a.name AS airline, f.flight, f.origin, f.dest, f.arrival_delay
FROM STREAM curated.flights f JOIN curated.airlines a ON a.carrier = f.carrier
WHERE f.arrival_delay >= 120;

CREATE VIEW enriched.worst_routes AS
SELECT * FROM enriched.delays_by_route WHERE flights >= 50 ORDER BY mean_arrival_delay DESC LIMIT 10;
