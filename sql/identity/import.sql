-- Loads the documents that the operations of a PLC export make into the table of identities.
--
-- Guarantees: the newest operation of an account wins, whatever the order in which they come, in one part or in
-- several. What was resolved after an operation stays. Loading something again writes nothing. Excluded accounts are
-- left out, and nobody excludes one until the commit: the lock of apply/excluded.sql is held. No table of schema `bsky`
-- changes: a handle that a document claims is shown once it is verified, for which accounts that are indexed, or were
-- resolved before, wait in the queue `refresh`.

-- :stage
-- Makes the table of operations that were read: for each the time at which the directory accepted it, and what its
-- document says. A tombstone has no document.
CREATE TEMPORARY TABLE IF NOT EXISTS stage_import (
  did text NOT NULL,
  created_at timestamptz NOT NULL,
  doc jsonb,
  pds text,
  signing_key text,
  labeler text,
  labeler_key text,
  claimed_handle text,
  error text
) ON COMMIT DELETE ROWS;

-- :lock
-- Locks the rows that may change, in the order in which resolution locks them. This comes before the lock of
-- excluded.sql, because whoever excludes an account locks its row first as well.
SELECT FROM pipeline.identity
WHERE did = ANY (ARRAY(
  SELECT s.did
  FROM stage_import s
  CROSS JOIN LATERAL (
    SELECT FROM pipeline.identity i
    WHERE i.did = s.did AND (i.resolved_at IS NULL OR i.resolved_at < s.created_at)
    OFFSET 0
  ) older
))
ORDER BY did
FOR UPDATE;

-- :merge
-- Writes what is newer than what is stored. Returns how many accounts were staged, left out because they are excluded,
-- added, and changed. Of two operations of the same moment the one with the greater document counts, so that the order
-- of the file does not matter.
-- - newest: the last staged operation of each account.
-- - allowed: those of accounts that are not excluded; is_indexed: readers see the account.
-- - newer: those that are newer than what is stored; is_new: nothing is stored of the account.
-- - written: the rows that were written. The condition is there twice, because somebody else may have resolved an
--   account in between.
WITH newest AS MATERIALIZED (
  SELECT DISTINCT ON (did) did, created_at, doc, pds, signing_key, labeler, labeler_key, claimed_handle,
    error
  FROM stage_import
  ORDER BY did, created_at DESC, doc DESC NULLS LAST
), allowed AS MATERIALIZED (
  SELECT n.*, a.did IS NOT NULL AS is_indexed
  FROM newest n
  LEFT JOIN LATERAL (SELECT actor.did FROM bsky.actor actor WHERE actor.did = n.did OFFSET 0) a ON true
  WHERE NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = n.did AND r.excluded OFFSET 0)
), newer AS MATERIALIZED (
  SELECT a.*, i.did IS NULL AS is_new
  FROM allowed a
  LEFT JOIN LATERAL (
    SELECT known.* FROM pipeline.identity known WHERE known.did = a.did OFFSET 0
  ) i ON true
  WHERE i.did IS NULL OR i.resolved_at IS NULL OR i.resolved_at < a.created_at
    OR (i.resolved_at = a.created_at AND i.source = 'import' AND a.doc IS NOT NULL
      AND (i.doc IS NULL OR i.doc < a.doc))
), written AS (
  INSERT INTO pipeline.identity AS i (
    did, state, source, doc, pds, signing_key, labeler, labeler_key, claimed_handle, error, resolved_at,
    next_check_at, queue, wanted_at
  )
  SELECT
    did, CASE WHEN doc IS NULL THEN 'tombstoned' ELSE 'found' END, 'import', doc, pds, signing_key, labeler,
    labeler_key, claimed_handle, error, created_at, NULL, CASE WHEN is_indexed THEN 'refresh' END,
    CASE WHEN is_indexed THEN now() END
  FROM newer
  ORDER BY did
  ON CONFLICT (did) DO UPDATE SET
    state = excluded.state, source = excluded.source, doc = excluded.doc, pds = excluded.pds,
    signing_key = excluded.signing_key, labeler = excluded.labeler, labeler_key = excluded.labeler_key,
    claimed_handle = excluded.claimed_handle, resolved_at = excluded.resolved_at,
    error = excluded.error,
    queue = COALESCE(i.queue, CASE WHEN i.source IS DISTINCT FROM 'import' THEN 'refresh' END, excluded.queue),
    wanted_at = COALESCE(i.wanted_at, CASE WHEN i.source IS DISTINCT FROM 'import' THEN now() END, excluded.wanted_at)
  WHERE i.resolved_at IS NULL OR i.resolved_at < excluded.resolved_at
    OR (i.resolved_at = excluded.resolved_at AND i.source = 'import' AND excluded.doc IS NOT NULL
      AND (i.doc IS NULL OR i.doc < excluded.doc))
  RETURNING did
)
SELECT
  (SELECT count(*) FROM newest),
  (SELECT count(*) FROM newest) - (SELECT count(*) FROM allowed),
  count(*) FILTER (WHERE n.is_new),
  count(*) FILTER (WHERE NOT n.is_new)
FROM written w
JOIN newer n ON n.did = w.did
