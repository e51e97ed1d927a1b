-- Events that arrive after newer ones of their repository: those that are overtaken are marked stale.
--
-- Guarantees: a write older than the deletion of its record does not bring the record back, and a deletion older than
-- the record does not remove it. Nothing that is not newer than an export of the repository changes a record: the
-- export says what became of it. Runs only for batches in which repo.sql counted late events, or with exports; for all
-- others the repository's rev proves that nothing newer can have been applied.

-- :mark
-- Takes writes that a known deletion overtakes out of the staging table and marks them stale.
-- - late: writes not newer than their repository's newest applied rev, and all that are of an export.
-- - deleted: those whose record was deleted at or after their rev; and those of an export that is older than one that
--   was applied whole, whose record is not there. (Below that one there may be no tombstone any more.)
-- - overtaken: the same, taken out of the staging table.
-- - remembered: the same, kept as superseded states.
WITH late AS MATERIALIZED (
  SELECT w.uri, w.rev
  FROM known_repo k
  JOIN stage_write w USING (did)
  WHERE w.rev <= k.rev OR w.did IN (SELECT did FROM stage_export)
), deleted AS MATERIALIZED (
  SELECT l.uri
  FROM late l
  CROSS JOIN LATERAL (SELECT FROM pipeline.tombstone t WHERE t.uri = l.uri AND t.rev >= l.rev OFFSET 0) t
  UNION
  SELECT w.uri
  FROM stage_export e
  JOIN known_repo k USING (did)
  JOIN stage_write w USING (did)
  WHERE e.rev < k.export_rev AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = w.uri OFFSET 0)
), overtaken AS (
  DELETE FROM stage_write w
  USING deleted d
  WHERE w.uri = d.uri
  RETURNING w.*
), remembered AS (
  INSERT INTO stage_superseded (uri, did, collection, action, rev, cid, json, indexed_at, quiet)
  SELECT uri, did, collection, action, rev, cid, json, indexed_at, quiet FROM overtaken
)
INSERT INTO touched (uri, collection, change, rev, at)
SELECT uri, collection, 'stale', rev, indexed_at FROM overtaken;

-- :find_exported
-- Runs where a commit of the batch is not newer than an export. Notes the records whose events up to the export are
-- newer than what is stored of them: the revs of exported records may be guessed, so that says nothing. Returns whether
-- there are any.
-- - event: what the batch has of such repositories, deletions without a CID.
-- - overtaken: the records; `last`: the newest event up to the export, `others`: something else came before it.
WITH event AS MATERIALIZED (
  SELECT e.uri, e.did, e.collection, e.rev, e.cid, k.export_rev
  FROM (
    SELECT uri, did, collection, rev, cid FROM stage_write
    UNION ALL
    SELECT uri, did, collection, rev, NULL FROM stage_delete
    UNION ALL
    SELECT uri, did, collection, rev, CASE WHEN action <> 'delete' THEN cid END FROM stage_superseded
  ) e
  JOIN known_repo k USING (did)
  WHERE k.export_rev IS NOT NULL AND NOT k.excluded
), overtaken AS MATERIALIZED (
  SELECT uri, did, collection, export_rev, max(rev) AS newest,
    (array_agg(cid ORDER BY rev DESC) FILTER (WHERE rev <= export_rev))[1] AS last_cid,
    max(rev) FILTER (WHERE rev <= export_rev) AS last_rev,
    count(DISTINCT coalesce(cid, '')) FILTER (WHERE rev <= export_rev) > 1 AS others
  FROM event
  GROUP BY uri, did, collection, export_rev
), noted AS (
  INSERT INTO export_state (uri, did, collection, rev, newest, state)
  SELECT o.uri, o.did, o.collection, o.export_rev, o.newest,
    CASE WHEN r.uri IS NULL THEN 'gone' WHEN o.last_cid = r.cid AND NOT o.others THEN 'same' ELSE 'other' END
  FROM overtaken o
  LEFT JOIN LATERAL (
    SELECT r.uri, r.cid, coalesce(r.rev, '') AS rev FROM bsky.record r WHERE r.uri = o.uri OFFSET 0
  ) r ON true
  LEFT JOIN LATERAL (SELECT t.rev FROM pipeline.tombstone t WHERE t.uri = o.uri OFFSET 0) t ON true
  WHERE o.last_rev IS NOT NULL
    AND CASE
      WHEN r.uri IS NULL THEN o.last_cid IS NOT NULL AND (t.rev >= o.last_rev) IS NOT TRUE
      ELSE r.rev < o.last_rev
    END
  RETURNING uri
)
SELECT count(*) FROM noted;

-- :set_aside
-- Takes the overtaken events out of the staging tables: they are past states, but for those that say what is stored.
-- - write, deletion: the events that were the newest of their records.
-- - remembered: the same, kept as superseded states.
WITH write AS (
  DELETE FROM stage_write w
  USING export_state e
  WHERE w.uri = e.uri AND e.newest <= e.rev
  RETURNING w.*, e.state
), deletion AS (
  DELETE FROM stage_delete d
  USING export_state e
  WHERE d.uri = e.uri AND e.newest <= e.rev AND e.state = 'other'
  RETURNING d.*
), remembered AS (
  INSERT INTO stage_superseded (uri, did, collection, action, rev, cid, json, seq, indexed_at, quiet)
  SELECT uri, did, collection, action, rev, cid, json, NULL, indexed_at, quiet FROM write WHERE state <> 'same'
  UNION ALL
  SELECT uri, did, collection, 'delete', rev, NULL, NULL, seq, indexed_at, quiet FROM deletion
)
INSERT INTO touched (uri, collection, change, rev, at)
SELECT uri, collection, 'stale', rev, indexed_at FROM write WHERE state <> 'other';

-- :forget_same
-- Drops superseded events that say what is stored.
DELETE FROM stage_superseded s
USING export_state e
WHERE s.uri = e.uri AND e.state = 'same' AND s.rev <= e.rev;

-- :gone
-- Notes that records which only past events have are gone as of the export.
INSERT INTO stage_superseded (uri, did, collection, action, rev, indexed_at, quiet)
SELECT uri, did, collection, 'delete', rev, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), true
FROM export_state
WHERE state = 'gone';

-- :past
-- Of records that the batch has still newer events of, notes the state as of the export as a past one.
INSERT INTO stage_superseded (uri, did, collection, action, rev, cid, json, indexed_at, quiet)
SELECT e.uri, e.did, e.collection, 'update', e.rev, r.cid, r.json, r."indexedAt", r.quiet
FROM export_state e
CROSS JOIN LATERAL (SELECT * FROM bsky.record r WHERE r.uri = e.uri OFFSET 0) r
WHERE e.state = 'other' AND e.newest > e.rev;

-- :restate
-- Stages records again whose stored state is newer than all events up to the export, and is now known to be so, with
-- the export's rev. Returns them, for their own staging tables: (collection, uri, cid, did, rev, JSON, indexedAt).
-- - again: the records.
-- - staged: their rows in `stage_write`.
WITH again AS MATERIALIZED (
  SELECT e.collection, r.uri, r.cid, r.did, e.rev, r.json, r."indexedAt" AS indexed_at, r.quiet
  FROM export_state e
  CROSS JOIN LATERAL (SELECT * FROM bsky.record r WHERE r.uri = e.uri OFFSET 0) r
  WHERE e.state = 'other' AND e.newest <= e.rev
), staged AS (
  INSERT INTO stage_write (uri, cid, did, collection, action, rev, json, indexed_at, quiet)
  SELECT uri, cid, did, collection, 'update', rev, json, indexed_at, quiet FROM again
)
SELECT collection, uri, cid, did, rev, json, indexed_at FROM again;
