-- Records that staged ones show and that are not indexed: they are fetched (docs/on-demand.md). Replies whose parent is
-- missing, for which an evaluation waits: `pend` in evaluation.sql. Profiles: sql/identity/save.sql.
--
-- Guarantees: every such record is in pipeline.pending, unless it can't be fetched: it was deleted, its account is
-- excluded, or others tried in vain in the last 24 hours. An account adds at most as many rows as
-- pipeline.fetches_left allows. Quiet records add none: what an old record shows comes with its own repository, or not.
--
-- Placeholders (store/placeholders.py): {misses} are the `misses` queries of the collections.

-- :note
-- Adds the rows.
-- - named: the records that staged ones show.
-- - absent: those that are not indexed, in order within each account.
-- - allowed: the same, with the number of records that their account may still have fetched; it is looked up once an
--   account, for the first.
WITH named (uri, kind, missing) AS (
  {misses}
), absent AS MATERIALIZED (
  SELECT n.uri, n.kind, n.missing, split_part(n.uri, '/', 3) AS did,
    row_number() OVER (PARTITION BY split_part(n.uri, '/', 3) ORDER BY n.uri, n.kind, n.missing) AS number
  FROM named n
  WHERE (SELECT true FROM bsky.record r WHERE r.uri = n.missing) IS NULL
    AND n.uri NOT IN (SELECT uri FROM quiet_record)
), allowed AS MATERIALIZED (
  SELECT a.uri, a.kind, a.missing, a.number, min(l.number) OVER (PARTITION BY a.did) AS fetches_left
  FROM absent a
  CROSS JOIN LATERAL pipeline.fetches_left(CASE WHEN a.number = 1 THEN a.did END) l
)
INSERT INTO pipeline.pending (uri, kind, missing)
SELECT a.uri, a.kind, a.missing
FROM (SELECT * FROM allowed WHERE number <= fetches_left) a
CROSS JOIN LATERAL pipeline.fetchable(a.missing) f
ORDER BY a.uri, a.kind, a.missing
ON CONFLICT DO NOTHING;
