-- Events that arrive after newer ones of their repository: what has been overtaken is marked stale.
--
-- Guarantees: a write older than the deletion of its record does not bring the record back, and a deletion older than
-- the record does not remove it. Run only for batches in which repo.sql counted late events; for all others the
-- repository's rev proves that nothing newer can have been applied.

-- :mark
WITH overtaken AS (
  DELETE FROM stage_write w
  USING known_repo k, pipeline.tombstone t
  WHERE k.did = w.did AND w.rev <= k.rev AND t.uri = w.uri AND t.rev >= w.rev
  RETURNING w.*
), remembered AS (
  INSERT INTO stage_superseded (uri, did, collection, action, rev, cid, json, indexed_at)
  SELECT uri, did, collection, action, rev, cid, json, indexed_at FROM overtaken
)
INSERT INTO touched (uri, collection, change, rev, at)
SELECT uri, collection, 'stale', rev, indexed_at FROM overtaken;
