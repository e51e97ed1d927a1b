-- What accounts, or an operator for them, ask of the collection of their data. What follows from it is in
-- sql/schema/0018_privacy.sql.
--
-- Guarantees: all statements may be repeated.

-- :forbid
-- Forbids the collection of an account's data. Returns whether anything has changed.
SELECT pipeline.forbid_data_collection(%(did)s, %(purge)s);

-- :allow
-- Allows it again. Returns whether anything has changed.
SELECT pipeline.allow_data_collection(%(did)s);

-- :list
-- Returns the accounts that forbid it: DID, verified handle, since when, and where a purge of what is stored stands.
SELECT s.did, a.handle, s.updated_at,
  CASE
    WHEN r.did IS NULL THEN NULL
    WHEN r.finished_at IS NOT NULL THEN 'finished'
    WHEN r.started_at IS NOT NULL THEN 'running'
    ELSE 'requested'
  END
FROM pipeline.actor_setting s
LEFT JOIN bsky.actor a USING (did)
LEFT JOIN pipeline.removal r ON r.did = s.did AND r.reason = 'opt-out'
WHERE s.data_collection_forbidden
ORDER BY s.updated_at, s.did;

-- :known
-- Returns what accounts have asked for, if they have: DID, and whether the collection is forbidden.
SELECT did, data_collection_forbidden FROM pipeline.actor_setting WHERE did = ANY (%(dids)s);

-- :holders
-- Returns the accounts that have a handle, verified.
SELECT did FROM bsky.actor WHERE handle = %(handle)s
UNION
SELECT did FROM pipeline.identity WHERE claimed_handle = %(handle)s AND handle = %(handle)s
ORDER BY did;
