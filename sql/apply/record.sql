-- bsky.record: every record of the indexed collections as JSON, from which all derived tables can be rebuilt.
--
-- Guarantees: for a record the newest rev wins, whatever the order of arrival and however often it arrives; a deletion
-- is remembered as a tombstone with its rev. `touched` names every staged write and delete that was no plain creation.
-- A record that was taken down here stays taken down: when it is updated, and when it is deleted and created again
-- (pipeline.record_takedown, which is hardly ever consulted because it is empty). A record is quiet, or not, as its
-- newest state is: when a live commit updates a quiet record, it notifies as any update does.

-- :write
-- Stores the staged records. Returns the number of rows written, and of those the number that replaced an older state.
-- - written: rows inserted or updated; `updated`: an older state was there.
-- - taken_down_again: take-downs of records that were deleted, which are in their rows again.
-- - noted: staged writes that were no plain creation, in `touched`.
WITH written AS (
  INSERT INTO bsky.record AS r (uri, cid, did, json, "indexedAt", rev, quiet, "takedownRef")
  SELECT s.uri, s.cid, s.did, s.json, s.indexed_at, s.rev, s.quiet,
    CASE
      WHEN (SELECT true FROM pipeline.record_takedown WHERE uri > '' ORDER BY uri LIMIT 1)
        THEN (SELECT t.ref FROM pipeline.record_takedown t WHERE t.uri = s.uri)
    END
  FROM stage_write s
  ORDER BY s.uri
  ON CONFLICT (uri) DO UPDATE SET
    cid = excluded.cid,
    json = excluded.json,
    "indexedAt" = excluded."indexedAt",
    rev = excluded.rev,
    quiet = excluded.quiet,
    "appliedAt" = now()
  WHERE r.rev IS NULL OR r.rev < excluded.rev
  RETURNING r.uri, xmax <> 0 AS updated
), taken_down_again AS (
  DELETE FROM pipeline.record_takedown t
  WHERE (SELECT true FROM pipeline.record_takedown WHERE uri > '' ORDER BY uri LIMIT 1)
    AND t.uri = ANY (ARRAY(SELECT uri FROM written WHERE NOT updated))
), noted AS (
  INSERT INTO touched (uri, collection, change, rev, at)
  SELECT s.uri, s.collection,
    CASE
      WHEN w.updated IS NULL THEN 'stale'
      WHEN EXISTS (SELECT FROM stage_superseded d WHERE d.uri = s.uri AND d.action = 'delete') THEN 'recreated'
      ELSE 'updated'
    END,
    s.rev, s.indexed_at
  FROM stage_write s
  LEFT JOIN written w USING (uri)
  WHERE w.updated IS DISTINCT FROM false
)
SELECT count(*), count(*) FILTER (WHERE updated) FROM written;

-- :quiet
-- Notes the written records that notify nobody. Stale ones are not written: what is stored says whether they do.
INSERT INTO quiet_record (uri)
SELECT uri
FROM stage_write
WHERE quiet AND uri NOT IN (SELECT uri FROM touched WHERE change = 'stale');

-- :delete
-- Deletes records that are older than their deletion and notes them in `touched`.
-- - gone: the deleted ones.
-- - still_taken_down: those that were taken down here.
WITH gone AS (
  DELETE FROM bsky.record r
  USING stage_delete s
  WHERE r.uri = s.uri AND r.uri = ANY (ARRAY(SELECT uri FROM stage_delete)) AND (r.rev IS NULL OR r.rev < s.rev)
  RETURNING r.uri, r."takedownRef" AS ref
), still_taken_down AS (
  INSERT INTO pipeline.record_takedown (uri, ref)
  SELECT uri, ref FROM gone WHERE ref IS NOT NULL ORDER BY uri
  ON CONFLICT (uri) DO UPDATE SET ref = excluded.ref, deleted_at = now()
)
INSERT INTO touched (uri, collection, change, rev, at)
SELECT s.uri, s.collection, 'deleted', s.rev, s.indexed_at
FROM gone
JOIN stage_delete s USING (uri);

-- :tombstones
-- Stores a tombstone for every deletion, also where the record was never seen: it may still arrive. The removal of an
-- account leaves none: a removed account that returns has its records again.
INSERT INTO pipeline.tombstone AS t (uri, rev, seq, collection)
SELECT DISTINCT ON (uri) uri, rev, seq, collection
FROM (
  SELECT uri, rev, seq, collection FROM stage_delete WHERE rev <> pipeline.removal_rev()
  UNION ALL
  SELECT uri, rev, seq, collection FROM stage_superseded WHERE action = 'delete'
) deleted
ORDER BY uri, rev DESC
ON CONFLICT (uri) DO UPDATE SET rev = excluded.rev, seq = excluded.seq, deleted_at = now()
WHERE t.rev < excluded.rev;
