-- What a look at a chunk of a rerun has found to repair: what this transaction has written, which is rolled back.

-- Rows that were written of tables that readers see, and of our own. PostgreSQL's count may hold what transactions before
-- have written, so what counts is by how much it has grown.
-- :written
SELECT
  coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del) FILTER (WHERE schemaname = 'bsky'), 0)::bigint,
  coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del) FILTER (WHERE schemaname = 'pipeline'), 0)::bigint
FROM pg_stat_xact_user_tables;

-- Rows that a repair would say it has changed. What it writes to our own tables (what is pending, past versions) it does
-- not say.
-- :changed
SELECT DISTINCT key FROM changed;
