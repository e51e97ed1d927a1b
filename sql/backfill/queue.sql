-- pipeline.backfill_queue: repositories to fetch whole, in the order of their priority and time.
--
-- Guarantees: taking, queuing and finding hosts cost as much as they return, however long the queue is. A repository
-- that is taken comes back by itself when its time is over. A priority is raised, never lowered, while a repository
-- waits. Rows are locked in the order of their DID, or skipped where another process has them.
--
-- `{scope}` is one bucket (`q.bucket = %(bucket)s`) or what is urgent in all of them (`q.priority >= 2`).

-- :enqueue
-- Queues the repositories %(dids)s, with their hosts %(hosts)s (empty: unknown), for %(reason)s with %(priority)s.
-- Accounts that are excluded or not active are left out. One that waits keeps its place, unless somebody asks for it
-- (priority 3): then it goes at once, parked or not. One that is finished begins anew. Returns how many wait because of
-- this that did not wait before.
-- - wanted: the accounts, each once.
-- - queued: their rows; `is_new`: it did not wait before.
WITH wanted AS MATERIALIZED (
  SELECT w.did, max(w.host) AS host
  FROM unnest(%(dids)s, %(hosts)s) w (did, host)
  WHERE NOT EXISTS (
    SELECT FROM pipeline.repo r WHERE r.did = w.did AND (r.excluded OR NOT (r.active OR r.status_doubtful)) OFFSET 0
  )
  GROUP BY w.did
), queued AS (
  INSERT INTO pipeline.backfill_queue AS q (did, host, reason, priority)
  SELECT w.did, coalesce(nullif(w.host, ''), i.pds, ''), %(reason)s, %(priority)s
  FROM wanted w
  LEFT JOIN LATERAL (SELECT pds FROM pipeline.identity i WHERE i.did = w.did OFFSET 0) i ON true
  ORDER BY w.did
  ON CONFLICT (did) DO UPDATE SET
    host = CASE WHEN q.host = '' THEN excluded.host ELSE q.host END,
    reason = CASE WHEN q.finished_at IS NULL AND q.priority > excluded.priority THEN q.reason ELSE excluded.reason END,
    priority = CASE
      WHEN q.finished_at IS NULL THEN greatest(q.priority, excluded.priority) ELSE excluded.priority
    END,
    enqueued_at = CASE WHEN q.finished_at IS NULL AND q.claimed_until IS NULL THEN q.enqueued_at ELSE now() END,
    not_before = CASE
      WHEN q.finished_at IS NOT NULL OR (excluded.priority >= 3 AND q.claimed_until IS NULL) THEN now()
      ELSE q.not_before
    END,
    claimed_until = CASE WHEN q.finished_at IS NULL THEN q.claimed_until END,
    attempts = CASE WHEN q.finished_at IS NOT NULL OR excluded.priority >= 3 THEN 0 ELSE q.attempts END,
    error = CASE WHEN q.finished_at IS NOT NULL OR excluded.priority >= 3 THEN NULL ELSE q.error END,
    parked_at = CASE WHEN q.finished_at IS NOT NULL OR excluded.priority >= 3 THEN NULL ELSE q.parked_at END,
    finished_at = NULL
  WHERE q.finished_at IS NOT NULL OR excluded.priority >= 2 OR excluded.priority > q.priority
  RETURNING (q.enqueued_at = now() AND q.claimed_until IS NULL) AS is_new
)
SELECT count(*) FILTER (WHERE is_new) FROM queued;

-- :enqueue_new
-- Queues the repositories %(dids)s of the hosts %(hosts)s with %(priority)s, for %(reason)s, unless they are known to
-- the queue or complete: for lists, which name everything again and again. Returns how many.
INSERT INTO pipeline.backfill_queue (did, host, reason, priority)
SELECT w.did, coalesce(nullif(max(w.host), ''), max(i.pds), ''), %(reason)s, %(priority)s
FROM unnest(%(dids)s, %(hosts)s) w (did, host)
LEFT JOIN LATERAL (SELECT pds FROM pipeline.identity i WHERE i.did = w.did OFFSET 0) i ON true
WHERE NOT EXISTS (
    SELECT
    FROM pipeline.repo r
    WHERE r.did = w.did
      AND (r.excluded OR NOT (r.active OR r.status_doubtful) OR r.sync_state = 'synchronized')
    OFFSET 0
  )
GROUP BY w.did
ORDER BY w.did
ON CONFLICT (did) DO NOTHING;

-- :hosts
-- The next hosts after %(after)s that have something to be taken now in the scope, with a priority of at least
-- %(priority)s, without those that are parked. Looks at no more than %(looked_at)s hosts. Returns the last host looked
-- at (null: there are no more), and those with work.
-- - host: the hosts that have something waiting, one look into the index for each.
WITH RECURSIVE host (number, host) AS (
  (
    SELECT 1, q.host
    FROM pipeline.backfill_queue q
    WHERE q.finished_at IS NULL AND {scope} AND q.host > %(after)s
    ORDER BY q.host
    LIMIT 1
  )
  UNION ALL
  SELECT h.number + 1, n.host
  FROM host h
  CROSS JOIN LATERAL (
    SELECT q.host
    FROM pipeline.backfill_queue q
    WHERE q.finished_at IS NULL AND {scope} AND q.host > h.host
    ORDER BY q.host
    LIMIT 1
  ) n
  WHERE h.number < %(looked_at)s
)
SELECT
  (SELECT host FROM host WHERE number = %(looked_at)s),
  ARRAY(
    SELECT h.host
    FROM host h
    WHERE NOT EXISTS (SELECT FROM pipeline.pds_host p WHERE p.host = h.host AND p.parked_until > now() OFFSET 0)
      AND EXISTS (
        SELECT
        FROM generate_series(3, %(priority)s, -1) v (priority)
        CROSS JOIN LATERAL (
          SELECT
          FROM pipeline.backfill_queue q
          WHERE q.finished_at IS NULL AND {scope} AND q.host = h.host AND q.priority = v.priority
            AND q.not_before <= now()
          LIMIT 1
        ) due
      )
    ORDER BY h.number
  );

-- :take
-- Takes for %(claim)s seconds, of each of the hosts %(hosts)s, at most so many (%(counts)s) repositories of the scope
-- with a priority of at least %(priority)s that may be taken now: the highest priority first, then the one that waits
-- longest.
-- - due: what is taken, locked.
WITH due AS MATERIALIZED (
  SELECT d.did
  FROM unnest(%(hosts)s, %(counts)s) h (host, count)
  CROSS JOIN LATERAL (
    SELECT q.did
    FROM generate_series(3, %(priority)s, -1) v (priority)
    CROSS JOIN LATERAL (
      SELECT q.did
      FROM pipeline.backfill_queue q
      WHERE q.finished_at IS NULL AND {scope} AND q.host = h.host AND q.priority = v.priority
        AND q.not_before <= now()
      ORDER BY q.not_before
      LIMIT h.count
      FOR UPDATE SKIP LOCKED
    ) q
    LIMIT h.count
  ) d
)
UPDATE pipeline.backfill_queue q SET
  not_before = now() + make_interval(secs => %(claim)s),
  claimed_until = now() + make_interval(secs => %(claim)s)
WHERE q.did = ANY (ARRAY(SELECT did FROM due))
RETURNING q.did, q.host, q.priority, q.reason, q.attempts, q.enqueued_at;

-- :take_given
-- Takes those of the repositories %(dids)s that may be taken now.
-- - due: what is taken, locked.
WITH due AS MATERIALIZED (
  SELECT did
  FROM pipeline.backfill_queue
  WHERE did = ANY (%(dids)s) AND finished_at IS NULL AND not_before <= now()
  ORDER BY did
  FOR UPDATE SKIP LOCKED
)
UPDATE pipeline.backfill_queue q SET
  not_before = now() + make_interval(secs => %(claim)s),
  claimed_until = now() + make_interval(secs => %(claim)s)
WHERE q.did = ANY (ARRAY(SELECT did FROM due))
RETURNING q.did, q.host, q.priority, q.reason, q.attempts, q.enqueued_at;

-- :waiting
-- Those of the repositories %(dids)s that are not finished: DID, error (null: none), whether each is parked, and
-- whether a process has taken it.
SELECT did, error, parked_at IS NOT NULL, coalesce(claimed_until > now(), false)
FROM pipeline.backfill_queue
WHERE did = ANY (%(dids)s) AND finished_at IS NULL;

-- :lock
-- Locks the rows of %(dids)s.
SELECT did FROM pipeline.backfill_queue WHERE did = ANY (%(dids)s) ORDER BY did FOR UPDATE;

-- :renew
-- The repositories %(dids)s stay taken for %(claim)s seconds from now.
UPDATE pipeline.backfill_queue SET
  not_before = now() + make_interval(secs => %(claim)s),
  claimed_until = now() + make_interval(secs => %(claim)s)
WHERE did = ANY (%(dids)s) AND finished_at IS NULL AND claimed_until IS NOT NULL;

-- :release
-- Gives the repositories %(dids)s back: they may be taken again at once.
UPDATE pipeline.backfill_queue SET not_before = now(), claimed_until = NULL
WHERE did = ANY (%(dids)s) AND finished_at IS NULL AND claimed_until IS NOT NULL;

-- :set_hosts
-- The repositories %(dids)s are at %(hosts)s, and may be taken again at once.
UPDATE pipeline.backfill_queue q SET host = h.host, not_before = now(), claimed_until = NULL
FROM unnest(%(dids)s, %(hosts)s) h (did, host)
WHERE q.did = h.did AND q.did = ANY (%(dids)s) AND q.finished_at IS NULL;

-- :finish
-- What was fetched of the repositories %(dids)s. One that was asked for again since it was taken (%(enqueued_at)s), or
-- that is still not complete, stays in the queue: it is fetched again, at once the first time. %(parked)s: one that is
-- still not complete is given up for now. Returns those that are (null: others).
UPDATE pipeline.backfill_queue q SET
  finished_at = CASE WHEN f.is_finished THEN coalesce(q.finished_at, now()) END,
  not_before = CASE
    WHEN f.is_finished THEN q.not_before
    ELSE now() + make_interval(secs => CASE WHEN q.attempts = 0 THEN 0 ELSE f.seconds END)
  END,
  claimed_until = NULL,
  parked_at = CASE WHEN f.is_parked THEN coalesce(q.parked_at, now()) END,
  attempts = CASE WHEN f.is_finished THEN 0 ELSE q.attempts + 1 END,
  error = CASE
    WHEN f.is_parked THEN 'its export does not have everything that is missing, however often it is fetched'
    WHEN NOT f.is_finished THEN 'something newer of it is missing: it is fetched again'
  END,
  rev = coalesce(f.rev, q.rev),
  records = coalesce(f.records, q.records),
  bytes = coalesce(f.bytes, q.bytes)
FROM (
  SELECT f.*, k.is_last AND r.sync_state IS NULL AS is_finished,
    f.parked AND r.sync_state = 'desynchronized' AS is_parked
  FROM unnest(
    %(dids)s, %(enqueued_at)s::timestamptz[], %(revs)s::text[], %(records)s::bigint[],
    %(bytes)s::bigint[], %(seconds)s::float8[], %(parked)s::boolean[]
  ) f (did, enqueued_at, rev, records, bytes, seconds, parked)
  CROSS JOIN LATERAL (
    SELECT k.finished_at IS NOT NULL OR k.enqueued_at <= f.enqueued_at AS is_last
    FROM pipeline.backfill_queue k
    WHERE k.did = f.did
    OFFSET 0
  ) k
  LEFT JOIN LATERAL (
    SELECT r.sync_state
    FROM pipeline.repo r
    WHERE r.did = f.did AND r.sync_state IN ('desynchronized', 'resyncing')
    OFFSET 0
  ) r ON true
) f
WHERE q.did = f.did AND q.did = ANY (%(dids)s)
RETURNING CASE WHEN q.parked_at IS NOT NULL THEN q.did END;

-- :postpone
-- The repositories %(dids)s could not be fetched (%(errors)s): they may be taken again after %(seconds)s. Where
-- %(counts)s is false no attempt was made. %(parked)s: given up for now. Those that somebody has asked for meanwhile
-- may be taken at once.
UPDATE pipeline.backfill_queue q SET
  not_before = now() + make_interval(
    secs => CASE WHEN q.priority >= 3 AND q.enqueued_at > p.enqueued_at THEN 0 ELSE p.seconds END
  ),
  claimed_until = NULL,
  attempts = q.attempts + p.counts::int,
  error = p.error,
  parked_at = CASE WHEN p.parked THEN coalesce(q.parked_at, now()) WHEN p.counts THEN NULL ELSE q.parked_at END
FROM unnest(
  %(dids)s, %(errors)s, %(seconds)s::float8[], %(counts)s::boolean[], %(parked)s::boolean[],
  %(enqueued_at)s::timestamptz[]
) p (did, error, seconds, counts, parked, enqueued_at)
WHERE q.did = p.did AND q.did = ANY (%(dids)s) AND q.finished_at IS NULL;

-- :forget_excluded
-- Deletes those of %(dids)s whose accounts were excluded after they were queued.
DELETE FROM pipeline.backfill_queue q
WHERE did = ANY (%(dids)s)
  AND EXISTS (SELECT FROM pipeline.repo r WHERE r.did = q.did AND r.excluded OFFSET 0);

-- :unknown
-- Of the repositories that only the stream has brought, the next %(limit)s that nobody has queued; locked.
SELECT did
FROM pipeline.repo
WHERE sync_state = 'unknown' AND sync_reason IS NULL AND active AND NOT excluded
ORDER BY did
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED;

-- :note_queued
-- Says of the repositories %(dids)s, whose state is unknown, that they are queued.
UPDATE pipeline.repo SET sync_reason = 'queued'
WHERE did = ANY (%(dids)s) AND sync_state = 'unknown' AND sync_reason IS NULL;

-- :incomplete
-- Looks at the next %(limit)s repositories after %(after)s that are not complete. Returns the last one (null: that was
-- the end), and those that are not in the queue though they should be: the account was not active when something of it
-- was missing, say, and is again.
WITH page AS MATERIALIZED (
  SELECT did, active OR status_doubtful AS active, excluded
  FROM pipeline.repo
  WHERE sync_state IN ('desynchronized', 'resyncing', 'error') AND did > %(after)s
  ORDER BY did
  LIMIT %(limit)s
)
SELECT
  (SELECT CASE WHEN count(*) = %(limit)s THEN max(did) END FROM page),
  ARRAY(
    SELECT did
    FROM page p
    WHERE p.active AND NOT p.excluded AND NOT EXISTS (
      SELECT FROM pipeline.backfill_queue q WHERE q.did = p.did AND q.finished_at IS NULL OFFSET 0
    )
    ORDER BY did
  );

-- :waiting_of_bucket
-- How many repositories of the bucket %(bucket)s are not finished, counted up to %(limit)s.
SELECT count(*)
FROM (
  SELECT
  FROM pipeline.backfill_queue
  WHERE finished_at IS NULL AND bucket = %(bucket)s AND priority >= %(priority)s
  LIMIT %(limit)s
) counted;

-- :urgent
-- How many urgent repositories are not finished, counted up to %(limit)s; how many of them may be taken now; and for
-- how many seconds the one has waited that was asked for first.
SELECT count(*), count(*) FILTER (WHERE not_before <= now()), extract(epoch FROM now() - min(enqueued_at))::float8
FROM (
  SELECT not_before, enqueued_at
  FROM pipeline.backfill_queue
  WHERE finished_at IS NULL AND priority >= 2 AND parked_at IS NULL
  LIMIT %(limit)s
) counted;

-- :urgent_due
-- Whether anything urgent may be taken now of a host that is not parked.
SELECT EXISTS (
  SELECT
  FROM pipeline.backfill_queue q
  WHERE q.finished_at IS NULL AND q.priority >= 2 AND q.not_before <= now()
    AND NOT EXISTS (SELECT FROM pipeline.pds_host p WHERE p.host = q.host AND p.parked_until > now() OFFSET 0)
);

-- :states
-- How many repositories wait by priority, and how many are being fetched: each counted up to %(limit)s.
-- - urgent: those of the priorities 2 and 3.
-- - others: all others, the same share of each bucket.
WITH urgent AS MATERIALIZED (
  SELECT priority, claimed_until
  FROM pipeline.backfill_queue
  WHERE finished_at IS NULL AND priority >= 2 AND parked_at IS NULL
  LIMIT %(limit)s
), others AS MATERIALIZED (
  SELECT q.priority, q.claimed_until
  FROM generate_series(0, 63) b (bucket)
  CROSS JOIN LATERAL (
    SELECT q.priority, q.claimed_until
    FROM pipeline.backfill_queue q
    WHERE q.finished_at IS NULL AND q.bucket = b.bucket AND q.priority < 2 AND q.parked_at IS NULL
    LIMIT %(limit)s / 64
  ) q
)
SELECT priority, count(*), count(*) FILTER (WHERE claimed_until > now())
FROM (SELECT * FROM urgent UNION ALL SELECT * FROM others) counted
GROUP BY priority;

-- :parked_count
-- How many are parked, counted up to %(limit)s.
SELECT count(*)
FROM (
  SELECT FROM pipeline.backfill_queue WHERE finished_at IS NULL AND parked_at IS NOT NULL LIMIT %(limit)s
) counted;

-- :parked
-- The %(limit)s repositories that were given up last: DID, host, failures, reason, since when.
SELECT did, host, attempts, error, parked_at
FROM pipeline.backfill_queue
WHERE finished_at IS NULL AND parked_at IS NOT NULL
ORDER BY parked_at DESC
LIMIT %(limit)s;
