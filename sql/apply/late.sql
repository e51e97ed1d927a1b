-- Events that arrive after newer ones of their repository: those that are overtaken are marked stale.
--
-- Guarantees: a write older than the deletion of its record does not bring the record back, and a deletion older than
-- the record does not remove it. Runs only for batches in which repo.sql counted late events; for all others the
-- repository's rev proves that nothing newer can have been applied.

-- :mark
-- Takes writes that a known deletion overtakes out of the staging table and marks them stale.
-- - late: writes not newer than their repository's newest applied rev.
-- - deleted: those whose record was deleted at or after their rev.
-- - overtaken: the same, taken out of the staging table.
-- - remembered: the same, kept as superseded states.
WITH late AS MATERIALIZED (
  SELECT w.uri, w.rev
  FROM known_repo k
  JOIN stage_write w USING (did)
  WHERE w.rev <= k.rev
), deleted AS MATERIALIZED (
  SELECT l.uri
  FROM late l
  CROSS JOIN LATERAL (SELECT FROM pipeline.tombstone t WHERE t.uri = l.uri AND t.rev >= l.rev OFFSET 0) t
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
