-- A survey: what the relay lists of repositories, compared with what is indexed, after a gap of a stream.
--
-- Guarantees: reads only.

-- :behind
-- Of the repositories %(dids)s, which the relay lists with the revs %(revs)s: those that may miss something of the time
-- from %(since)s on (a rev for each of them). Returns DID, rev listed, our rev (null: nothing is known). They are:
-- - those of which we have something older than what is listed, if that was written up to %(until)s: what was written
--   later the stream brings, and it says what it follows;
-- - those of which nothing is known here, if what is listed was written since;
-- - those that the stream brought after a commit that was written since, and is not known.
-- Excluded accounts, and those that are not active, are left out.
SELECT l.did, l.rev, k.rev
FROM unnest(%(dids)s, %(revs)s, %(since)s, %(until)s) l (did, rev, since, until)
LEFT JOIN LATERAL (
  SELECT
    greatest(r.rev, r.export_rev) AS rev,
    CASE WHEN r.sync_state = 'unknown' THEN r.chain_since END AS follows,
    r.excluded OR NOT (r.active OR r.status_doubtful) AS is_out
  FROM pipeline.repo r
  WHERE r.did = l.did
  OFFSET 0
) k ON true
WHERE k.is_out IS NOT TRUE
  AND CASE
    WHEN k.rev IS NULL THEN l.rev COLLATE "C" >= l.since
    ELSE (l.rev COLLATE "C" > k.rev AND l.rev COLLATE "C" <= l.until) OR k.follows COLLATE "C" >= l.since
  END
ORDER BY l.did;

-- :accounts
-- Of the accounts %(dids)s, which the relay lists as active or not (%(active)s), and why (%(statuses)s; null: unknown):
-- those of which something else is known here, and nothing newer than %(until)s (a time for each of them). Returns
-- their DIDs. Of a DID that was given up the relay's word does not count.
SELECT l.did
FROM unnest(%(dids)s, %(active)s::boolean[], %(statuses)s::text[], %(until)s::timestamptz[])
  l (did, active, status, until)
CROSS JOIN LATERAL (
  SELECT r.active, r.status, r.account_at, r.pds_status FROM pipeline.repo r WHERE r.did = l.did OFFSET 0
) r
WHERE (r.active <> l.active OR (NOT l.active AND l.status <> coalesce(r.status, '')))
  AND (r.account_at IS NULL OR r.account_at < l.until)
  AND r.pds_status IS DISTINCT FROM 'tombstoned'
ORDER BY l.did;

-- :lag
-- The time that the newest events of %(relay)s state that are applied, and for how many seconds nothing was applied
-- since (no row: nothing ever was).
SELECT relay_time, extract(epoch FROM now() - applied_at)::float8
FROM pipeline.batch
WHERE source = %(relay)s AND relay_time IS NOT NULL AND applied_at > now() - interval '1 hour'
ORDER BY applied_at DESC
LIMIT 1;
