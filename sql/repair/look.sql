-- What a look at a chunk of a rerun has found to repair: what this transaction has written, before it is rolled back.

-- :written
-- Rows written so far to tables of schema bsky, and of schema pipeline. PostgreSQL's count may include what transactions
-- before wrote: compare two counts.
SELECT
  coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del) FILTER (WHERE schemaname = 'bsky'), 0)::bigint,
  coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del) FILTER (WHERE schemaname = 'pipeline'), 0)::bigint
FROM pg_stat_xact_user_tables;

-- :changed
-- Rows that a repair would report as changed. It does not report rows of schema pipeline (pending, past versions).
SELECT DISTINCT key FROM changed;
