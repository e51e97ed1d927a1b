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
-- Returns for which records the look has written to our own tables: a URI for each row that it has added. Rows of this
-- transaction have no age; those of later ones can't be seen.
SELECT d.uri
FROM pipeline.pending d
WHERE d.uri = ANY (ARRAY(SELECT uri FROM evaluation)) AND age(d.xmin) <= 0
UNION ALL
SELECT d.uri
FROM pipeline.dependency d
WHERE d.uri = ANY (ARRAY(SELECT uri FROM evaluation)) AND age(d.xmin) <= 0
UNION ALL
SELECT o.uri
FROM pipeline.reply_to_other o
WHERE o.uri = ANY (ARRAY(SELECT uri FROM evaluation)) AND age(o.xmin) <= 0
UNION ALL
SELECT m.record_uri
FROM pipeline.muted_notification m
WHERE m.record_uri = ANY (ARRAY(SELECT record_uri FROM new_notification)) AND age(m.xmin) <= 0;

-- :changed
-- Returns the keys of rows that a repair would report as changed. It does not report what it writes to our own tables
-- (pending records, past versions).
SELECT DISTINCT key FROM changed;
