-- What resolution found, in `pipeline.identity` and `bsky.actor`.
--
-- Guarantees: one transaction saves at a time, so a handle belongs to one account at any moment, and the last account
-- that it was verified for has it: also where accounts of one transaction exchange their handles. Rows are locked in
-- order of did, first those of `pipeline.identity`, then those of `bsky.actor`, as the write path does. A resolution
-- that began before somebody asked again is stored, but the account stays queued; one of an account that is in no queue
-- any more, because it was removed or another process was faster, is not stored. Nothing is stored of excluded accounts
-- (excluded.sql): whoever excludes one waits for the lock of its row. Of `bsky.actor` only the handle and "indexedAt"
-- change.

-- :stage
-- The outcomes, in the order in which the resolutions ended (`position`). The statements below fill in the last three
-- columns: `is_settled` (nobody asked again; null: not to be stored), `is_excluded` (the account is excluded), and
-- `is_kept` (the check of the handle had no answer, and the one that was verified before stays).
CREATE TEMPORARY TABLE IF NOT EXISTS settled (
  position int NOT NULL,
  did text NOT NULL,
  asked_at timestamptz,
  state text NOT NULL,
  source text,
  next_check_seconds float8 NOT NULL,
  doc text,
  pds text,
  signing_key text,
  labeler text,
  labeler_key text,
  claimed_handle text,
  handle text,
  handle_source text,
  handle_error text,
  is_handle_final boolean NOT NULL,
  error text,
  status_seconds float8,
  status_counts boolean NOT NULL,
  is_settled boolean,
  is_excluded boolean,
  is_kept boolean NOT NULL DEFAULT false
) ON COMMIT DELETE ROWS;

-- :empty
-- Removes what an earlier call of the same transaction left.
DELETE FROM settled;

-- :read_documents
-- Reads the document at %(position)s (null: all); fails where PostgreSQL can't store one.
SELECT count(doc::jsonb) FROM settled WHERE position = coalesce(%(position)s, position);

-- :documents
-- The positions of all documents.
SELECT position FROM settled WHERE doc IS NOT NULL;

-- :drop_document
-- Leaves the document at %(position)s out, because of %(error)s.
UPDATE settled SET doc = NULL, error = %(error)s WHERE position = %(position)s;

-- :lock
-- Lets one transaction save at a time; the commit releases it.
SELECT pg_advisory_xact_lock(hashtext('appview-pipeline: identities'));

-- :lock_identities
-- Locks the accounts, and those that have one of their handles.
SELECT FROM pipeline.identity
WHERE did = ANY (ARRAY(
  SELECT did FROM settled
  UNION
  SELECT a.did FROM bsky.actor a WHERE a.handle = ANY (ARRAY(SELECT handle FROM settled WHERE handle IS NOT NULL))
  UNION
  SELECT i.did FROM pipeline.identity i
  WHERE i.claimed_handle = ANY (ARRAY(SELECT handle FROM settled WHERE handle IS NOT NULL)) AND i.handle IS NOT NULL
))
ORDER BY did
FOR UPDATE;

-- :compare
-- Compares the outcomes with the rows: which are stored, which of them leave the queue, and whose handle stays although
-- its check had no answer (it was verified at most %(usable)s seconds ago).
UPDATE settled s SET
  is_settled = i.asked_at IS NOT DISTINCT FROM s.asked_at,
  is_excluded = x.is_excluded,
  is_kept = k.is_kept,
  handle = CASE WHEN k.is_kept THEN i.handle ELSE s.handle END,
  handle_source = CASE WHEN k.is_kept THEN i.handle_source ELSE s.handle_source END
FROM settled d
CROSS JOIN LATERAL (SELECT * FROM pipeline.identity i WHERE i.did = d.did AND i.queue IS NOT NULL OFFSET 0) i
CROSS JOIN LATERAL (
  SELECT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = d.did AND r.excluded) AS is_excluded OFFSET 0
) x
CROSS JOIN LATERAL (
  SELECT d.handle IS NULL AND NOT d.is_handle_final AND i.handle IS NOT NULL AND i.handle = d.claimed_handle
    AND i.handle_checked_at > now() - make_interval(secs => %(usable)s) AS is_kept
) k
WHERE s.position = d.position;

-- :drop
-- Leaves out what is not stored; of several outcomes of an account the last one counts.
DELETE FROM settled s
WHERE s.is_settled IS NULL
  OR EXISTS (SELECT FROM settled l WHERE l.did = s.did AND l.position > s.position AND l.is_settled IS NOT NULL);

-- :dequeue_excluded
-- Takes excluded accounts out of the queue, unless their hosting status is still wanted.
UPDATE pipeline.identity i SET
  queue = CASE WHEN NOT s.is_settled THEN i.queue WHEN s.status_seconds IS NOT NULL THEN 'retry' END,
  wanted_at = CASE WHEN NOT s.is_settled THEN i.wanted_at ELSE now() + make_interval(secs => s.status_seconds) END,
  attempts = CASE WHEN s.status_seconds IS NOT NULL THEN i.attempts + s.status_counts::int ELSE 0 END,
  next_check_at = NULL,
  status_wanted = i.status_wanted AND (NOT s.is_settled OR s.status_seconds IS NOT NULL)
FROM settled s
WHERE s.is_excluded AND i.did = s.did AND i.did = ANY (ARRAY(SELECT did FROM settled WHERE is_excluded));

-- :drop_excluded
-- Stores nothing else of them.
DELETE FROM settled WHERE is_excluded;

-- :contend
-- Gives a handle that several outcomes name to the account that it was verified for last; the others lose it.
UPDATE settled l SET
  handle = NULL,
  handle_source = NULL,
  handle_error = w.did || ' has this handle now',
  is_kept = false,
  next_check_seconds = least(l.next_check_seconds, %(recheck)s)
FROM (
  SELECT DISTINCT ON (handle) handle, did FROM settled WHERE handle IS NOT NULL ORDER BY handle, is_kept, position DESC
) w
WHERE w.handle = l.handle AND w.did <> l.did;

-- :lock_actors
-- Locks the same accounts where readers see them.
SELECT FROM bsky.actor
WHERE did = ANY (ARRAY(
  SELECT did FROM settled
  UNION
  SELECT a.did FROM bsky.actor a WHERE a.handle = ANY (ARRAY(SELECT handle FROM settled WHERE handle IS NOT NULL))
))
ORDER BY did
FOR UPDATE;

-- :release
-- Takes the handles from the accounts that had them: from those that lose them, and from those that get another one
-- in the next statements, so that two accounts can exchange theirs.
UPDATE bsky.actor a SET handle = NULL
WHERE a.handle = ANY (ARRAY(SELECT handle FROM settled WHERE handle IS NOT NULL))
  AND NOT EXISTS (SELECT FROM settled s WHERE s.did = a.did AND s.handle = a.handle);

-- :lose
-- Notes at the losers who has their handle. An outcome of their own that says more replaces it.
UPDATE pipeline.identity i SET
  handle = NULL,
  handle_source = NULL,
  handle_error = s.did || ' has this handle now',
  next_check_at = least(i.next_check_at, now() + make_interval(secs => %(recheck)s))
FROM settled s
CROSS JOIN LATERAL (
  SELECT did FROM pipeline.identity l
  WHERE l.claimed_handle = s.handle AND l.handle IS NOT NULL AND l.did <> s.did
  OFFSET 0
) l
WHERE s.handle IS NOT NULL AND i.did = l.did;

-- :actors
-- Shows readers the handles, and adds accounts that are not indexed yet and whose document was found. "indexedAt" is
-- the time of the #identity event that asked, as in the reference, or that of a change that a refresh finds. It is that
-- of the event, too, where the account's first commit came after it and was applied before its first resolution.
-- - shown: the outcomes, with what is known of the account elsewhere; `at`: the "indexedAt" that it gets.
WITH shown AS MATERIALIZED (
  SELECT s.did, s.handle, s.state, a.did IS NOT NULL AS is_indexed, a.handle AS old_handle, a."indexedAt" AS old_at,
    coalesce(r.active OR r.status_doubtful, true) AS is_active, r.status,
    CASE
      WHEN e.at COLLATE "C" > a."indexedAt" COLLATE "C" OR i.resolved_at IS NULL AND e.at IS NOT NULL THEN e.at
      WHEN i.queue = 'refresh' AND a.handle IS DISTINCT FROM s.handle THEN e.now
      ELSE coalesce(a."indexedAt", e.at, e.now)
    END AS at
  FROM settled s
  CROSS JOIN LATERAL (SELECT queue, event_at, resolved_at FROM pipeline.identity i WHERE i.did = s.did OFFSET 0) i
  CROSS JOIN LATERAL (
    SELECT
      to_char(i.event_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS at,
      to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS now
  ) e
  LEFT JOIN LATERAL (SELECT * FROM bsky.actor a WHERE a.did = s.did OFFSET 0) a ON true
  LEFT JOIN LATERAL (SELECT * FROM pipeline.repo r WHERE r.did = s.did OFFSET 0) r ON true
)
INSERT INTO bsky.actor AS a (did, handle, "indexedAt", "upstreamStatus")
SELECT did, handle, at, pipeline.upstream_status(is_active, status)
FROM shown
WHERE CASE WHEN is_indexed THEN (handle, at) IS DISTINCT FROM (old_handle, old_at) ELSE state = 'found' END
ORDER BY did
ON CONFLICT (did) DO UPDATE SET handle = excluded.handle, "indexedAt" = excluded."indexedAt";

-- :profiles
-- Asks for the profiles of accounts that are met for the first time: they may be older than the index. Where everything
-- of the account is indexed, there is none.
-- - met: these accounts, and the URI of the profile.
WITH met AS MATERIALIZED (
  SELECT s.did, pipeline.profile_of(s.did) AS profile
  FROM settled s
  CROSS JOIN LATERAL (SELECT i.queue, i.resolved_at FROM pipeline.identity i WHERE i.did = s.did OFFSET 0) i
  WHERE s.state = 'found' AND s.pds IS NOT NULL AND (i.queue = 'new' OR i.resolved_at IS NULL)
)
INSERT INTO pipeline.pending (uri, kind, missing)
SELECT profile, 'profile', profile
FROM met m
CROSS JOIN LATERAL pipeline.fetchable(m.profile) f
WHERE (SELECT true FROM bsky.record r WHERE r.uri = m.profile) IS NULL
  AND NOT EXISTS (
    SELECT FROM pipeline.repo r WHERE r.did = m.did AND (r.sync_state = 'synchronized' OR NOT r.active)
  )
ORDER BY profile
ON CONFLICT DO NOTHING;

-- :identities
-- Stores the outcomes. Accounts that nobody has asked for again leave their queue, or wait until their PDS is asked for
-- their hosting status again.
UPDATE pipeline.identity i SET
  state = s.state,
  source = s.source,
  doc = s.doc::jsonb,
  pds = s.pds,
  signing_key = s.signing_key,
  labeler = s.labeler,
  labeler_key = s.labeler_key,
  claimed_handle = s.claimed_handle,
  handle = s.handle,
  handle_source = s.handle_source,
  handle_error = s.handle_error,
  error = s.error,
  attempts = CASE WHEN s.status_seconds IS NOT NULL THEN i.attempts + s.status_counts::int ELSE 0 END,
  -- A document from an import is not fetched: it stays as old as its operation.
  resolved_at = CASE WHEN s.source = 'import' THEN i.resolved_at ELSE now() END,
  handle_checked_at = CASE WHEN s.is_handle_final THEN now() ELSE i.handle_checked_at END,
  pds_changed_at = CASE WHEN s.pds <> i.pds THEN now() ELSE i.pds_changed_at END,
  next_check_at = now() + make_interval(secs => s.next_check_seconds),
  queue = CASE WHEN NOT s.is_settled THEN i.queue WHEN s.status_seconds IS NOT NULL THEN 'retry' END,
  wanted_at = CASE WHEN NOT s.is_settled THEN i.wanted_at ELSE now() + make_interval(secs => s.status_seconds) END,
  status_wanted = i.status_wanted AND (NOT s.is_settled OR s.status_seconds IS NOT NULL)
FROM settled s
WHERE i.did = s.did AND i.did = ANY (ARRAY(SELECT did FROM settled));
