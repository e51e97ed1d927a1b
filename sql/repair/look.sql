-- What a look at a chunk of a rerun has found to repair: the rows that its transaction has written. The transaction is
-- rolled back.
--
-- Guarantees: reads only.

-- :written
-- Returns how many rows were written of tables that readers see, and of our own. PostgreSQL's count may include earlier
-- transactions; only its growth counts.
SELECT
  coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del) FILTER (WHERE schemaname = 'bsky'), 0)::bigint,
  coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del) FILTER (WHERE schemaname = 'pipeline'), 0)::bigint
FROM pg_stat_xact_user_tables;

-- :own
-- Returns for which records the look has written to our own tables: a URI for each row that it has added. What it can
-- see of a transaction that came after its snapshot is its own.
-- - look: the first transaction that came after the snapshot.
WITH look AS MATERIALIZED (
  SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint & 4294967295 AS first
)
SELECT d.uri
FROM look, pipeline.pending d
WHERE d.uri = ANY (ARRAY(SELECT uri FROM evaluation)) AND d.xmin::text::bigint >= look.first
UNION ALL
SELECT d.uri
FROM look, pipeline.dependency d
WHERE d.uri = ANY (ARRAY(SELECT uri FROM evaluation)) AND d.xmin::text::bigint >= look.first
UNION ALL
SELECT o.uri
FROM look, pipeline.reply_to_other o
WHERE o.uri = ANY (ARRAY(SELECT uri FROM evaluation)) AND o.xmin::text::bigint >= look.first
UNION ALL
SELECT m.record_uri
FROM look, pipeline.muted_notification m
WHERE m.record_uri = ANY (ARRAY(SELECT record_uri FROM new_notification)) AND m.xmin::text::bigint >= look.first;

-- :changed
-- Returns the keys of rows that a repair would report as changed. It does not report what it writes to our own tables
-- (pending records, past versions).
SELECT DISTINCT key FROM changed;
