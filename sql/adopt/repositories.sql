-- Repositories and accounts of an adopted database: pipeline.repo, pipeline.identity.
--
-- Guarantees: each statement may be repeated. Of a repository that this project knew before, because the database was
-- given back to the reference's indexer in between, what that has found since counts. No floor is set before records
-- were repaired (`floors`), for it would keep the repairs out. Excluded accounts are left out.

-- :next
-- Returns the last of the next %(limit)s accounts after %(after)s that have a row in any table; null: there are none.
-- - recorded: accounts with records, found one after the other in the order of URIs.
WITH RECURSIVE recorded (did, n) AS (
  SELECT split_part(r.uri, '/', 3), 1
  FROM (
    SELECT uri FROM bsky.record WHERE uri >= 'at://' || %(after)s || '0' ORDER BY uri LIMIT 1
  ) r
  UNION ALL
  SELECT split_part(r.uri, '/', 3), d.n + 1
  FROM recorded d
  CROSS JOIN LATERAL (
    SELECT uri FROM bsky.record WHERE uri >= 'at://' || d.did || '0' ORDER BY uri LIMIT 1
  ) r
  WHERE d.n < %(limit)s
)
SELECT max(did)
FROM (
  SELECT did COLLATE "C" AS did
  FROM (
    SELECT did FROM recorded
    UNION
    (SELECT did FROM bsky.actor WHERE did > %(after)s ORDER BY did LIMIT %(limit)s)
    UNION
    (SELECT did FROM bsky.actor_sync WHERE did > %(after)s ORDER BY did LIMIT %(limit)s)
  ) every
  ORDER BY did
  LIMIT %(limit)s
) accounts;

-- :returned
-- Accounts from %(after)s (exclusive) to %(until)s that were removed here since they were deleted, and of which the
-- reference's indexer has written records since: takes that back, as an event of an active account does. Their
-- repositories are fetched whole (pipeline.follow_exclusion), and their PDSes are asked.
-- - back: these accounts; known: their status; asked: the same, to be confirmed.
WITH back AS MATERIALIZED (
  SELECT m.did, a."upstreamStatus" AS status
  FROM pipeline.removal m
  LEFT JOIN bsky.actor a ON a.did = m.did
  WHERE m.did > %(after)s AND m.did <= %(until)s AND m.reason = 'deleted' AND m.finished_at IS NOT NULL
    AND EXISTS (SELECT FROM bsky.record r WHERE r.uri >= 'at://' || m.did || '/' AND r.uri < 'at://' || m.did || '0')
), known AS (
  UPDATE pipeline.repo r SET active = b.status IS NULL, status = b.status, account_at = NULL, status_doubtful = false
  FROM back b
  WHERE r.did = b.did
), asked AS (
  INSERT INTO pipeline.identity AS i (did, queue, wanted_at, asked_at, status_wanted)
  SELECT did, 'event', now(), now(), true FROM back ORDER BY did
  ON CONFLICT (did) DO UPDATE SET queue = 'event', wanted_at = now(), asked_at = now(), status_wanted = true
)
DELETE FROM pipeline.removal m USING back b WHERE m.did = b.did;

-- :purged_again
-- Accounts whose data was purged since they have opted out, and of which the reference's indexer has stored something
-- since: purges it.
UPDATE pipeline.removal m SET requested_at = now(), started_at = NULL, finished_at = NULL, records = 0, error = NULL
WHERE m.did > %(after)s AND m.did <= %(until)s AND m.reason = 'opt-out' AND m.finished_at IS NOT NULL
  AND (
    EXISTS (SELECT FROM bsky.record r WHERE r.uri >= 'at://' || m.did || '/' AND r.uri < 'at://' || m.did || '0')
    OR EXISTS (SELECT FROM bsky.actor a WHERE a.did = m.did)
  );

-- :stage
-- Lists these accounts, from %(after)s (exclusive) to %(until)s: what is known of each. `is_gone`: nothing is left of
-- it but the newest commit, so the reference has deleted it.
-- - recorded: accounts with records.
-- - named: all accounts.
CREATE TEMPORARY TABLE adopted_repo ON COMMIT DROP AS
WITH RECURSIVE recorded (did) AS (
  SELECT split_part(r.uri, '/', 3)
  FROM (
    SELECT uri FROM bsky.record WHERE uri >= 'at://' || %(after)s || '0' ORDER BY uri LIMIT 1
  ) r
  WHERE split_part(r.uri, '/', 3) COLLATE "C" <= %(until)s
  UNION ALL
  SELECT split_part(r.uri, '/', 3)
  FROM recorded d
  CROSS JOIN LATERAL (
    SELECT uri FROM bsky.record WHERE uri >= 'at://' || d.did || '0' ORDER BY uri LIMIT 1
  ) r
  WHERE split_part(r.uri, '/', 3) COLLATE "C" <= %(until)s
), named AS (
  SELECT did FROM recorded
  UNION
  SELECT did FROM bsky.actor WHERE did > %(after)s AND did <= %(until)s
  UNION
  SELECT did FROM bsky.actor_sync WHERE did > %(after)s AND did <= %(until)s
)
SELECT n.did,
  CASE WHEN s."repoRev" ~ '^[2-7a-j][2-7a-z]{12}$' THEN s."repoRev" END AS rev,
  s."commitCid" AS commit_cid,
  a."upstreamStatus" AS status,
  a.did IS NOT NULL AS has_actor,
  a.did IS NULL AND NOT EXISTS (
    SELECT FROM bsky.record r WHERE r.uri >= 'at://' || n.did || '/' AND r.uri < 'at://' || n.did || '0'
  ) AS is_gone
FROM named n
LEFT JOIN bsky.actor_sync s USING (did)
LEFT JOIN bsky.actor a USING (did)
WHERE pipeline.is_did(n.did)
  AND NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = n.did AND r.excluded);

-- :repos
-- Adds the repositories. Nobody knows whether they are complete, so their state is `unknown`.
INSERT INTO pipeline.repo AS r (did, rev, chain_from, commit_cid, active, status, status_doubtful)
SELECT did, rev, rev, CASE WHEN rev IS NOT NULL THEN commit_cid END,
  status IS NULL AND NOT is_gone,
  CASE WHEN is_gone THEN 'deleted' ELSE status END,
  is_gone
FROM adopted_repo
ORDER BY did
ON CONFLICT (did) DO UPDATE SET
  rev = excluded.rev,
  chain_from = excluded.rev,
  chain_since = NULL,
  commit_cid = excluded.commit_cid,
  data_cid = NULL,
  seq = NULL,
  has_start = false,
  sync_state = 'unknown',
  sync_reason = NULL,
  sync_at = now(),
  updated_at = now()
WHERE r.rev IS NULL OR r.rev < excluded.rev;

-- :statuses
-- Accounts whose status the reference's indexer has changed since.
UPDATE pipeline.repo r SET active = a.status IS NULL, status = a.status, account_at = NULL, status_doubtful = false
FROM adopted_repo a
WHERE r.did = a.did AND a.has_actor
  AND pipeline.upstream_status(r.active OR r.status_doubtful, r.status) IS DISTINCT FROM a.status;

-- :actors
-- Adds accounts that have records and no row: the reference could not resolve them.
INSERT INTO bsky.actor (did, "indexedAt")
SELECT did, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
FROM adopted_repo
WHERE NOT has_actor AND NOT is_gone
ORDER BY did
ON CONFLICT (did) DO NOTHING;

-- :identities
-- Queues accounts to be resolved: known ones with all that are due again, which the job refresh_dids spreads; those
-- that the reference could not resolve, or has deleted, before them, and these with the word of their PDS.
INSERT INTO pipeline.identity AS i (did, queue, wanted_at, asked_at, status_wanted)
SELECT did,
  CASE WHEN is_gone THEN 'event' WHEN has_actor THEN 'refresh' ELSE 'new' END,
  now(), now(), is_gone
FROM adopted_repo
ORDER BY did
ON CONFLICT (did) DO NOTHING;

-- :last_seen
-- Forgets the newest commits of deleted accounts where readers see them. (pipeline.repo has them.)
DELETE FROM bsky.actor_sync s
USING adopted_repo a
WHERE a.is_gone AND s.did = a.did;

-- :received
-- Removes the notifications that deleted accounts received.
DELETE FROM bsky.notification n
USING adopted_repo a
WHERE a.is_gone AND n.did = a.did;

-- :thread_places
-- Removes the places that replies of deleted accounts had in their own threads.
DELETE FROM bsky.op_thread_reply o
USING adopted_repo a
WHERE a.is_gone AND o."rootUri" >= 'at://' || a.did || '/' AND o."rootUri" < 'at://' || a.did || '0';

-- :notified
-- Removes notifications of deleted accounts that stay when their record goes.
DELETE FROM bsky.notification n
USING adopted_repo a
WHERE a.is_gone AND n."recordUri" >= 'at://' || a.did || '/' AND n."recordUri" < 'at://' || a.did || '0';

-- :counters
-- Removes counters of deleted accounts for which nobody else has a record.
DELETE FROM bsky.profile_agg p
USING adopted_repo a
WHERE a.is_gone AND p.did = a.did
  AND NOT EXISTS (SELECT FROM bsky.follow f WHERE f."subjectDid" = p.did);

-- :floors
-- Of the next %(limit)s repositories after %(after)s: says that the index has what each held as of its newest rev, so
-- that commits up to it which are delivered again change nothing. Returns the last account and how many.
WITH page AS (
  SELECT did, rev FROM pipeline.repo WHERE did > %(after)s ORDER BY did LIMIT %(limit)s
), raised AS (
  UPDATE pipeline.repo r SET export_rev = s.rev
  FROM page s
  WHERE r.did = s.did AND NOT r.excluded AND (r.export_rev IS NULL OR r.export_rev < s.rev)
)
SELECT max(did), count(*) FROM page;

-- :queue
-- Of the next %(limit)s repositories after %(after)s: queues those of which nobody knows whether they are complete, to
-- be fetched whole when nothing more urgent waits. Returns the last account and how many there are.
-- - page: the repositories; queued: of these; marked: the same, in pipeline.repo.
WITH page AS (
  SELECT did, sync_state = 'unknown' AND active AND NOT excluded AS is_unknown
  FROM pipeline.repo
  WHERE did > %(after)s
  ORDER BY did
  LIMIT %(limit)s
), queued AS (
  INSERT INTO pipeline.backfill_queue (did, host, reason, priority)
  SELECT s.did, coalesce(i.pds, ''), 'adopted', 0
  FROM page s
  LEFT JOIN pipeline.identity i USING (did)
  WHERE s.is_unknown
  ORDER BY s.did
  ON CONFLICT (did) DO NOTHING
), marked AS (
  UPDATE pipeline.repo r SET sync_reason = 'adopted: to be compared with the network'
  FROM page s
  WHERE r.did = s.did AND s.is_unknown
)
SELECT max(did), count(*) FILTER (WHERE is_unknown) FROM page;

-- :cursor
-- Sets the stream's cursor of %(relay)s and %(shard)s.
INSERT INTO pipeline.cursor (relay, shard, seq) VALUES (%(relay)s, %(shard)s, %(seq)s)
ON CONFLICT (relay, shard) DO UPDATE SET seq = excluded.seq, updated_at = now();

-- :gap
-- Notes that events are missing between the former indexer and the stream of %(relay)s, unless that has a cursor: the
-- survey finds out whose.
INSERT INTO pipeline.gap (kind, relay, shard)
SELECT 'outdated_cursor', %(relay)s, %(shard)s
WHERE NOT EXISTS (SELECT FROM pipeline.cursor WHERE relay = %(relay)s)
ON CONFLICT ON CONSTRAINT gap_once DO UPDATE SET resolved_at = NULL, detected_at = now();
