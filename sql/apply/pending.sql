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
-- - account: the accounts that show them, and how many more each may have fetched.
WITH named (uri, kind, missing) AS (
  {misses}
), absent AS MATERIALIZED (
  SELECT n.uri, n.kind, n.missing, split_part(n.uri, '/', 3) AS did,
    row_number() OVER (PARTITION BY split_part(n.uri, '/', 3) ORDER BY n.uri, n.kind, n.missing) AS number
  FROM named n
  WHERE (SELECT true FROM bsky.record r WHERE r.uri = n.missing) IS NULL
    AND n.uri NOT IN (SELECT uri FROM quiet_record)
), account AS MATERIALIZED (
  SELECT a.did, l.number AS fetches_left
  FROM (SELECT DISTINCT did FROM absent) a
  CROSS JOIN LATERAL pipeline.fetches_left(a.did) l
)
INSERT INTO pipeline.pending (uri, kind, missing)
SELECT a.uri, a.kind, a.missing
FROM absent a
JOIN account o ON o.did = a.did AND a.number <= o.fetches_left
CROSS JOIN LATERAL pipeline.fetchable(a.missing) f
ORDER BY a.uri, a.kind, a.missing
ON CONFLICT DO NOTHING;
