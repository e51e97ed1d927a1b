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

-- :changed
-- Returns the keys of rows that a repair would report as changed. It does not report what it writes to our own tables
-- (pending records, past versions).
SELECT DISTINCT key FROM changed;
