-- The queues of `pipeline.identity`: accounts whose identity is to be resolved.
--
-- Guarantees: an account is in one queue or in none. Taking and queuing cost as much as the accounts that they return,
-- however long the queues are. An account that is taken comes back by itself when its time is over.

-- :due
-- At most %(limit)s accounts of the queue %(queue)s that may be resolved now, %(besides)s left out, the one that waits
-- longest first; locked, so that another process skips them.
SELECT did
FROM pipeline.identity
WHERE queue = %(queue)s AND wanted_at <= now() AND NOT did = ANY (%(besides)s)
ORDER BY wanted_at
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED;

-- :lock
-- Locks the accounts %(dids)s.
SELECT did FROM pipeline.identity WHERE did = ANY (%(dids)s) AND queue IS NOT NULL ORDER BY did FOR UPDATE;

-- :take
-- Takes these accounts for %(claim)s seconds. Excluded ones (excluded.sql) leave their queue instead, unless their
-- hosting status is wanted.
-- - taken: the accounts afterwards.
WITH taken AS (
  UPDATE pipeline.identity i SET
    queue = CASE WHEN x.is_taken OR i.status_wanted THEN i.queue END,
    wanted_at = CASE WHEN x.is_taken OR i.status_wanted THEN now() + make_interval(secs => %(claim)s) END,
    next_check_at = CASE WHEN x.is_taken THEN i.next_check_at END
  FROM unnest(%(dids)s) d (did)
  CROSS JOIN LATERAL (
    SELECT NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = d.did AND r.excluded) AS is_taken OFFSET 0
  ) x
  WHERE i.did = d.did AND i.did = ANY (%(dids)s)
  RETURNING i.*
)
SELECT {columns} FROM taken WHERE queue IS NOT NULL;

-- :want
-- Asks for the resolution of the accounts %(dids)s, known or not, but not of excluded ones; with %(status)s for the
-- hosting status of all of them as well.
INSERT INTO pipeline.identity AS i (did, queue, wanted_at, asked_at, status_wanted)
SELECT did, 'event', now(), now(), %(status)s
FROM unnest(%(dids)s) d (did)
WHERE %(status)s OR NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = d.did AND r.excluded OFFSET 0)
GROUP BY did
ORDER BY did
ON CONFLICT (did) DO UPDATE SET
  queue = excluded.queue,
  -- Whoever is asked for again and again keeps its place in the queue.
  wanted_at = least(CASE WHEN i.queue <> 'refresh' THEN i.wanted_at END, excluded.wanted_at),
  asked_at = excluded.asked_at,
  status_wanted = i.status_wanted OR excluded.status_wanted;

-- :lock_refresh
-- At most %(limit)s accounts whose refresh is due, the most overdue first; locked.
SELECT did
FROM pipeline.identity
WHERE queue IS NULL AND next_check_at <= now()
ORDER BY next_check_at
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED;

-- :queue_refresh
-- Queues the accounts %(dids)s to be refreshed. Where the relay says that one was deleted and its PDS has not confirmed
-- that, or the two contradict each other, the PDS is asked again as well.
UPDATE pipeline.identity i SET
  queue = 'refresh',
  wanted_at = now(),
  status_wanted = i.status_wanted OR EXISTS (
    SELECT
    FROM pipeline.repo r
    WHERE r.did = i.did AND NOT r.active AND (r.status_doubtful OR r.status = 'deleted')
    OFFSET 0
  )
WHERE did = ANY (%(dids)s);

-- :postpone
-- Moves accounts (%(dids)s, with %(errors)s, %(seconds)s and %(counts)s) to the queue `retry`, to be taken again after
-- these seconds. Those for which no server was asked (%(counts)s is false) wait in their own queue. Those that somebody
-- has asked for since they were taken stay where they are, and can be taken at once.
UPDATE pipeline.identity i SET
  queue = CASE WHEN i.wanted_at > now() AND p.counts THEN 'retry' ELSE i.queue END,
  wanted_at = CASE WHEN i.wanted_at > now() THEN now() + make_interval(secs => p.seconds) ELSE i.wanted_at END,
  attempts = i.attempts + p.counts::int,
  error = p.error
FROM unnest(%(dids)s, %(errors)s, %(seconds)s::float8[], %(counts)s::boolean[]) p (did, error, seconds, counts)
WHERE i.did = p.did AND i.did = ANY (%(dids)s) AND i.queue IS NOT NULL;

-- :expire
-- Of the accounts %(dids)s: a handle that was verified more than %(usable)s seconds ago no longer counts as verified.
UPDATE pipeline.identity SET
  handle = NULL,
  handle_source = NULL,
  handle_error = 'it was verified too long ago, and can''t be checked now: ' || error
WHERE did = ANY (%(dids)s)
  AND handle IS NOT NULL
  AND (handle_checked_at > now() - make_interval(secs => %(usable)s)) IS NOT TRUE
RETURNING did;

-- :lock_actors
-- Locks the accounts %(dids)s where readers see them.
SELECT did FROM bsky.actor WHERE did = ANY (%(dids)s) ORDER BY did FOR UPDATE;

-- :hide
-- Readers no longer see the handles of the accounts %(dids)s.
UPDATE bsky.actor SET handle = NULL WHERE did = ANY (%(dids)s);

-- :length
-- How many accounts are in the queue %(queue)s, counted up to %(limit)s, and for how many seconds the first one that
-- may be resolved now has waited.
SELECT
  (SELECT count(*) FROM (SELECT FROM pipeline.identity WHERE queue = %(queue)s LIMIT %(limit)s) counted),
  (
    SELECT extract(epoch FROM now() - wanted_at)::float8
    FROM pipeline.identity
    WHERE queue = %(queue)s AND wanted_at <= now()
    ORDER BY wanted_at
    LIMIT 1
  );
