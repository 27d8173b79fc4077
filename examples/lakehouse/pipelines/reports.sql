-- Reports of crews, with what can be wrong in a feed: records twice and again a day later, missing and impossible
-- values, an airline that does not exist, a type that changed, a file that was cut off.

CREATE STREAMING TABLE raw.reports
COMMENT 'Reports as crews sent them'
AS SELECT *, _metadata.file_name AS source_file
FROM STREAM read_files(
  '${data}/reports',
  format => 'json',
  schema => 'report_id VARCHAR, flight_date DATE, carrier VARCHAR, flight INT, severity INT, delay_minutes INT, note VARCHAR');

CREATE STREAMING TABLE curated.reports (
  CONSTRAINT has_carrier EXPECT (carrier IS NOT NULL) ON VIOLATION DROP ROW,
  CONSTRAINT known_airline EXPECT (airline IS NOT NULL OR carrier IS NULL) ON VIOLATION QUARANTINE,
  CONSTRAINT severity_in_range EXPECT (severity BETWEEN 1 AND 5) ON VIOLATION QUARANTINE,
  CONSTRAINT plausible_delay EXPECT (delay_minutes < 1440) ON VIOLATION WARN,
  CONSTRAINT once EXPECT UNIQUE (report_id) ON VIOLATION DROP ROW
)
COMMENT 'Reports that can be relied on'
AS SELECT r.report_id, r.flight_date, r.carrier, a.name AS airline, r.flight, r.severity, r.delay_minutes, r.note
FROM STREAM raw.reports r LEFT JOIN curated.airlines a ON a.carrier = r.carrier;
