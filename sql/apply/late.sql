-- Events that arrive after newer ones of their repository: what has been overtaken is marked stale.
--
-- Guarantees: a write older than the deletion of its record does not bring the record back, and a deletion older than
-- the record does not remove it. Run only for batches in which repo.sql counted late events; for all others the
-- repository's rev proves that nothing newer can have been applied.

-- :mark
WITH late_write AS (
  SELECT w.uri, w.collection, w.rev, w.indexed_at
  FROM stage_write w
  JOIN known_repo k USING (did)
  WHERE w.rev <= k.rev
), overtaken AS (
  SELECT l.uri, l.collection, l.rev, l.indexed_at
  FROM late_write l
  JOIN pipeline.tombstone t USING (uri)
  WHERE t.rev >= l.rev
), dropped AS (
  DELETE FROM stage_write w USING overtaken o WHERE w.uri = o.uri
)
INSERT INTO touched (uri, collection, change, rev, at)
SELECT uri, collection, 'stale', rev, indexed_at FROM overtaken;
