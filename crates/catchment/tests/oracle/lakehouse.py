"""Computes every table of examples/lakehouse with DuckDB from the same files, and compares all rows."""

import sys

from common import compare, connect, delta_rows, leave, rows, tables

project = sys.argv[1]
con = connect()
con.execute("CREATE SCHEMA raw; CREATE SCHEMA curated; CREATE SCHEMA enriched")
con.execute(f"""
CREATE TABLE raw.flights AS SELECT * EXCLUDE (filename), parse_filename(filename) AS source_file
FROM read_json('{project}/data/flights/*', format = 'newline_delimited', filename = true, columns = {{
  year: 'INT', month: 'INT', day: 'INT', dep_time: 'INT', sched_dep_time: 'INT', dep_delay: 'INT', arr_time: 'INT',
  sched_arr_time: 'INT', arr_delay: 'INT', carrier: 'VARCHAR', flight: 'INT', tailnum: 'VARCHAR', origin: 'VARCHAR',
  dest: 'VARCHAR', air_time: 'INT', distance: 'INT', hour: 'INT', minute: 'INT', time_hour: 'TIMESTAMPTZ'}});
CREATE TABLE raw.weather AS SELECT *, NULL::VARCHAR AS _rescued_data
FROM read_csv('{project}/data/weather/*.csv', types = {{time_hour: 'TIMESTAMPTZ'}});
CREATE TABLE raw.planes AS SELECT *, NULL::VARCHAR AS _rescued_data FROM read_csv('{project}/data/planes/planes.csv');
CREATE TABLE raw.airports AS SELECT *, NULL::VARCHAR AS _rescued_data FROM read_csv('{project}/data/airports/airports.csv');
CREATE TABLE raw.airlines AS SELECT *, NULL::VARCHAR AS _rescued_data FROM read_csv('{project}/data/airlines/airlines.csv');

CREATE TABLE curated.flights AS SELECT make_date(year, month, day) AS flight_date, time_hour AS departure_hour, carrier,
  flight, tailnum, origin, dest, dep_delay AS departure_delay, arr_delay AS arrival_delay, dep_time IS NULL AS cancelled,
  dep_time IS NOT NULL AND arr_delay IS NULL AS diverted, air_time, distance, source_file FROM raw.flights;
CREATE TABLE curated.weather AS SELECT origin, time_hour AS observed_hour, round((temp - 32) * 5 / 9, 1) AS temperature_celsius,
  round(wind_speed * 1.609344, 1) AS wind_kilometres_per_hour, round(precip * 25.4, 2) AS precipitation_millimetres,
  round(visib * 1.609344, 1) AS visibility_kilometres FROM raw.weather;
CREATE TABLE curated.planes AS SELECT tailnum, year AS built, manufacturer, model, engines, seats FROM raw.planes;
CREATE TABLE curated.airports AS SELECT faa AS airport, name, lat AS latitude, lon AS longitude, alt AS altitude_feet,
  tzone AS time_zone FROM raw.airports;
CREATE TABLE curated.airlines AS SELECT carrier, name FROM raw.airlines;

CREATE TABLE enriched.delays_by_airline AS SELECT carrier, (SELECT any_value(name) FROM curated.airlines a WHERE a.carrier = f.carrier) AS airline,
  count(*) AS flights, sum(CASE WHEN cancelled THEN 1 ELSE 0 END) AS cancelled, round(avg(departure_delay), 2) AS mean_departure_delay,
  round(avg(arrival_delay), 2) AS mean_arrival_delay FROM curated.flights f GROUP BY carrier;
CREATE TABLE enriched.delays_by_route AS SELECT origin, dest, (SELECT any_value(name) FROM curated.airports a WHERE a.airport = f.dest) AS destination,
  count(*) AS flights, max(arrival_delay) AS worst_arrival_delay, round(avg(arrival_delay), 2) AS mean_arrival_delay,
  count(DISTINCT carrier) AS airlines FROM curated.flights f WHERE NOT cancelled GROUP BY origin, dest;
CREATE TABLE enriched.delays_by_hour AS SELECT hour(departure_hour)::INT AS hour_utc, count(*) AS flights,
  round(avg(departure_delay), 2) AS mean_departure_delay FROM curated.flights WHERE NOT cancelled GROUP BY 1;
CREATE TABLE enriched.delays_by_weather AS SELECT CASE WHEN w.origin IS NULL THEN 'unknown'
  WHEN visibility_kilometres < 5 THEN 'poor visibility' WHEN precipitation_millimetres > 0 THEN 'precipitation'
  WHEN wind_kilometres_per_hour >= 40 THEN 'strong wind' ELSE 'fair' END AS weather, count(*) AS flights,
  round(avg(departure_delay), 2) AS mean_departure_delay
FROM curated.flights f LEFT JOIN curated.weather w ON w.origin = f.origin AND observed_hour = departure_hour WHERE NOT cancelled GROUP BY 1;
CREATE TABLE enriched.long_delays AS SELECT flight_date, f.carrier, name AS airline, flight, origin, dest, arrival_delay
FROM curated.flights f JOIN curated.airlines a USING (carrier) WHERE arrival_delay >= 120;
""")

# Reports: what is wrong in them is found by the JSON types of their values and by plain SQL.
con.execute(f"""
CREATE TABLE lines AS SELECT parse_filename(filename) AS source_file, 'data/reports/' || parse_filename(filename) AS file_path, line, place
  FROM (SELECT filename, unnest(string_split(content, chr(10))) AS line, unnest(range(len(string_split(content, chr(10))))) AS place
    FROM read_text('{project}/data/reports/*.jsonl')) WHERE line <> '';
CREATE TABLE typed AS SELECT *, coalesce(json_type(line, '$.severity'), 'NULL') IN ('UBIGINT', 'NULL')
  AND coalesce(json_type(line, '$.delay_minutes'), 'NULL') IN ('UBIGINT', 'NULL') AS fits FROM lines;
CREATE TABLE raw.reports AS SELECT line->>'report_id' AS report_id, (line->>'flight_date')::DATE AS flight_date, line->>'carrier' AS carrier,
  (line->>'flight')::INT AS flight, (line->>'severity')::INT AS severity, (line->>'delay_minutes')::INT AS delay_minutes, line->>'note' AS note,
  source_file FROM typed WHERE fits;
CREATE TABLE judged AS SELECT r.*, t.place, name AS airline, r.carrier IS NOT NULL AND name IS NULL AS unknown_airline, severity NOT BETWEEN 1 AND 5 AS off_scale
  FROM (SELECT row_number() OVER (ORDER BY source_file, place) AS n, source_file, place FROM typed WHERE fits) t
  JOIN (SELECT row_number() OVER () AS n, * FROM raw.reports) r USING (n) LEFT JOIN curated.airlines a ON a.carrier = r.carrier;
CREATE TABLE curated.reports AS SELECT report_id, flight_date, carrier, airline, flight, severity, delay_minutes, note FROM (
  SELECT *, row_number() OVER (PARTITION BY report_id ORDER BY n) AS again FROM judged
  WHERE carrier IS NOT NULL AND NOT unknown_airline AND NOT off_scale) WHERE again = 1;
CREATE TABLE raw.reports__quarantine AS SELECT 'malformed_record' AS rules, file_path, line AS record FROM typed WHERE NOT fits
  UNION ALL SELECT 'broken_file', 'data/reports/2013-01-04.jsonl.gz', NULL;
CREATE TABLE curated.reports__quarantine AS SELECT concat_ws(',', CASE WHEN unknown_airline THEN 'known_airline' END,
  CASE WHEN off_scale THEN 'severity_in_range' END) AS rules, report_id FROM judged WHERE unknown_airline OR off_scale;
""")

# What is compared of the tables that hold more than what they are about.
PARTS = {
    "raw.reports__quarantine": ["array_to_string(rules, ',') AS rules", "file_path", "record"],
    "curated.reports__quarantine": ["array_to_string(rules, ',') AS rules", "record->>'report_id' AS report_id"],
}

seen = 0
for name in tables(f"{project}/lake"):
    if name in PARTS:
        parts = ", ".join(PARTS[name])
        ours = rows(con.sql(f"SELECT {parts} FROM delta_scan('{project}/lake/{name.replace('.', '/')}')"))
        compare(name, ours, rows(con.sql(f"SELECT * FROM {name}")))
        print(f"{name}: {len(ours)} rows agree")
        seen += 1
        continue
    columns, ours = delta_rows(con, f"{project}/lake/{name.replace('.', '/')}")
    listed = ", ".join(f'"{column}"' for column in columns)
    compare(name, ours, rows(con.sql(f"SELECT {listed} FROM {name}")))
    print(f"{name}: {len(ours)} rows agree")
    seen += 1
if seen != 19:
    raise SystemExit(f"{seen} tables, 19 expected")
leave()
