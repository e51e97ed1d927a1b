-- Size of the bsky tables named in %(tables)s: estimated rows (PostgreSQL's own estimate, as of the last analyze; -1
-- when there was none) and bytes on disk with indexes and TOAST.
--
-- Guarantees: reads only, and counts no table.
SELECT c.relname AS name, c.reltuples::bigint AS estimated_rows, pg_total_relation_size(c.oid) AS bytes
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'bsky' AND c.relname = ANY(%(tables)s) AND c.relkind = 'r'
ORDER BY c.relname
