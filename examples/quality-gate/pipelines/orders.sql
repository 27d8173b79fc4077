-- What the shop sends: one CSV file a day.
CREATE STREAMING TABLE raw.orders
COMMENT 'Orders as they came'
AS SELECT *, _metadata.file_name AS file
FROM STREAM read_files('data/orders', schema => 'order_id VARCHAR, customer VARCHAR, amount DECIMAL(10, 2), currency VARCHAR, ordered_at TIMESTAMPTZ');

-- What others may rely on: its ruleset is quality/curated.orders.dqdl.
CREATE STREAMING TABLE curated.orders (
  CONSTRAINT once EXPECT UNIQUE (order_id) ON VIOLATION DROP ROW,
  CONSTRAINT large EXPECT (amount < 10000)
)
COMMENT 'Orders that were checked'
AS SELECT order_id, customer, amount, currency, ordered_at
FROM STREAM raw.orders;

CREATE MATERIALIZED VIEW enriched.revenue
AS SELECT CAST(ordered_at AS DATE) AS day, currency, count(*) AS orders, sum(amount) AS revenue
FROM curated.orders
GROUP BY 1, 2;
