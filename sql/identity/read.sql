-- What is known of identities.
--
-- Guarantees: reads only.

-- :rows
-- The accounts %(dids)s.
SELECT {columns} FROM pipeline.identity WHERE did = ANY (%(dids)s);

-- :with_handle
-- The accounts whose document names the handle %(handle)s, at most %(limit)s; first the one that it is verified for.
SELECT {columns}
FROM pipeline.identity
WHERE claimed_handle = %(handle)s
ORDER BY handle IS NULL, did
LIMIT %(limit)s;

-- :hosting
-- The account %(did)s elsewhere: its hosting status as the relay and its PDS say it, what readers see of it, whether
-- the collection of its data is forbidden, and its removal.
SELECT
  r.active, r.status, r.account_at, r.status_doubtful, r.pds_status, r.pds_asked_at,
  a.did IS NOT NULL AS is_indexed, a.handle, a."upstreamStatus", a."takedownRef",
  coalesce(s.data_collection_forbidden, false),
  m.reason, m.requested_at, m.finished_at
FROM (VALUES (%(did)s)) v (did)
LEFT JOIN pipeline.repo r USING (did)
LEFT JOIN bsky.actor a USING (did)
LEFT JOIN pipeline.actor_setting s USING (did)
LEFT JOIN pipeline.removal m USING (did);

-- :upstreams
-- Those of the servers %(hosts)s that resolution leaves alone now.
SELECT host, breaker, open_until, parked_until, reason
FROM pipeline.upstream
WHERE host = ANY (%(hosts)s) AND (breaker <> 'closed' OR parked_until > now())
ORDER BY host COLLATE "C";
