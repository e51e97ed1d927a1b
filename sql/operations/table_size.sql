-- How large tables are, hour by hour: what operators' plots and the check of the disk are made of.
--
-- Guarantees: one row for each table and hour, however often an hour is measured. No table is read for it.

-- :measure
-- Writes how large each table is in this hour.
INSERT INTO pipeline.table_size (hour, table_name, bytes, row_estimate)
SELECT date_trunc('hour', now(), 'UTC'), n.nspname || '.' || c.relname, pg_total_relation_size(c.oid),
  greatest(c.reltuples, 0)::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('bsky', 'pipeline') AND c.relkind IN ('r', 'm')
ORDER BY 2
ON CONFLICT (hour, table_name) DO UPDATE SET bytes = excluded.bytes, row_estimate = excluded.row_estimate;

-- :measured
-- The newest measurement, the largest table first: its name, bytes, rows.
SELECT table_name, bytes, row_estimate
FROM pipeline.table_size
WHERE hour = (SELECT max(hour) FROM pipeline.table_size)
ORDER BY bytes DESC, table_name;
