-- Whether repositories are complete: what follows from their gaps, and from their exports.
--
-- Guarantees: a repository is `synchronized` only while it has a start (pipeline.repo.has_start) and no open gap, and
-- it stops being so in the transaction that finds a gap. What is missing is queued in the same transaction, unless the
-- account is excluded or not active. (sql/backfill/queue.sql finds those again that are active once more.) What waits
-- already keeps its time. docs/gaps.md has all cases. (`IS TRUE`: rows of the queue are found by their key, and not by
-- an index of all that waits.)

-- :incomplete
-- Runs where gaps were staged. Notes that repositories with open gaps are not complete. What is missing without a rev
-- is in no export of which the fetching began before. Returns how many repositories of the batch have open gaps.
-- - gap: the newest open gap of each repository, and whether one of the batch is not listed by itself.
-- - marked: the repositories that were complete, or of which nothing was known, or that are being fetched.
WITH gap AS MATERIALIZED (
  SELECT s.did, g.kind, g.is_listed
  FROM (SELECT did, bool_and(to_text IS NOT NULL) AS has_ends FROM stage_gap WHERE did IS NOT NULL GROUP BY did) s
  CROSS JOIN LATERAL (
    SELECT g.kind, s.has_ends AND g.to_text IS NOT NULL AS is_listed
    FROM pipeline.gap g
    WHERE g.did = s.did AND g.resolved_at IS NULL
      AND g.kind IN ('chain', 'sync', 'commit', 'record', 'repository')
    ORDER BY g.detected_at DESC, g.id DESC
    LIMIT 1
  ) g
), marked AS (
  UPDATE pipeline.repo r SET
    sync_state = CASE WHEN r.sync_state = 'error' THEN r.sync_state ELSE 'desynchronized' END,
    sync_reason = CASE
      WHEN r.sync_state IN ('error', 'desynchronized') THEN r.sync_reason
      WHEN g.kind = 'chain' THEN 'chain: a commit does not follow the one before it'
      WHEN g.kind = 'sync' THEN 'sync: the relay announced another state'
      WHEN g.kind = 'commit' THEN 'commit: a commit was refused'
      WHEN g.kind = 'record' THEN 'record: a record was refused'
      ELSE 'repository: more is missing than is listed'
    END,
    sync_at = CASE WHEN r.sync_state IN ('error', 'desynchronized') THEN r.sync_at ELSE now() END,
    resync_oldest = CASE WHEN r.resync_at IS NULL OR g.is_listed THEN r.resync_oldest ELSE '' END
  FROM gap g
  WHERE r.did = g.did
    AND r.did = ANY (ARRAY(SELECT did FROM gap))
    AND NOT r.excluded
    AND (r.sync_state NOT IN ('error', 'desynchronized') OR (r.resync_at IS NOT NULL AND NOT g.is_listed))
)
SELECT count(*) FROM gap;

-- :queue
-- Queues the batch's repositories that are not complete. A queued one keeps its time; where a process is fetching it,
-- it is to be fetched once more.
-- - missing: the repositories, the kind of their newest open gap, and their hosts.
WITH missing AS MATERIALIZED (
  SELECT s.did, coalesce(g.kind, 'export') AS kind, i.pds
  FROM (SELECT did FROM stage_gap WHERE did IS NOT NULL UNION SELECT did FROM stage_export) s
  CROSS JOIN LATERAL (
    SELECT
    FROM pipeline.repo r
    WHERE r.did = s.did AND r.sync_state IN ('desynchronized', 'error')
      AND NOT r.excluded AND (r.active OR r.status_doubtful)
    OFFSET 0
  ) r
  LEFT JOIN LATERAL (
    SELECT g.kind
    FROM pipeline.gap g
    WHERE g.did = s.did AND g.resolved_at IS NULL
      AND g.kind IN ('chain', 'sync', 'commit', 'record', 'repository')
    ORDER BY g.detected_at DESC, g.id DESC
    LIMIT 1
  ) g ON true
  LEFT JOIN LATERAL (SELECT i.pds FROM pipeline.identity i WHERE i.did = s.did OFFSET 0) i ON true
)
INSERT INTO pipeline.backfill_queue AS q (did, host, reason, priority)
SELECT did, coalesce(pds, ''), kind, 2
FROM missing
ORDER BY did
ON CONFLICT (did) DO UPDATE SET
  host = CASE WHEN q.host = '' THEN excluded.host ELSE q.host END,
  reason = CASE WHEN q.finished_at IS NULL AND q.priority >= 2 THEN q.reason ELSE excluded.reason END,
  priority = CASE WHEN q.finished_at IS NULL THEN greatest(q.priority, 2) ELSE 2 END,
  enqueued_at = now(),
  not_before = CASE WHEN q.finished_at IS NULL THEN q.not_before ELSE now() END,
  claimed_until = CASE WHEN q.finished_at IS NULL THEN q.claimed_until END,
  attempts = CASE WHEN q.finished_at IS NULL THEN q.attempts ELSE 0 END,
  error = CASE WHEN q.finished_at IS NULL THEN q.error END,
  parked_at = CASE WHEN q.finished_at IS NULL THEN q.parked_at END,
  finished_at = NULL
WHERE q.finished_at IS NOT NULL OR q.priority < 2 OR q.claimed_until IS NOT NULL;

-- :ended
-- Notes of the repositories whose export has ended whether they are complete, and takes those out of the queue.
-- - found: whether each is complete.
-- - noted: the repositories.
-- - waiting: rows of the queue, locked.
WITH found AS MATERIALIZED (
  SELECT e.did, e.rev, r.has_start AND NOT EXISTS (
      SELECT
      FROM pipeline.gap g
      WHERE g.did = e.did AND g.resolved_at IS NULL
        AND g.kind IN ('chain', 'sync', 'commit', 'record', 'repository')
      OFFSET 0
    ) AS is_complete
  FROM stage_export e
  CROSS JOIN LATERAL (SELECT r.has_start FROM pipeline.repo r WHERE r.did = e.did OFFSET 0) r
  WHERE e.is_end
), noted AS (
  UPDATE pipeline.repo r SET
    sync_state = CASE WHEN f.is_complete THEN 'synchronized' ELSE 'desynchronized' END,
    sync_reason = CASE WHEN NOT f.is_complete THEN 'its export does not have everything that is missing' END,
    sync_at = CASE
      WHEN r.sync_state = CASE WHEN f.is_complete THEN 'synchronized' ELSE 'desynchronized' END THEN r.sync_at
      ELSE now()
    END
  FROM found f
  WHERE r.did = f.did AND r.did = ANY (ARRAY(SELECT did FROM found))
), waiting AS MATERIALIZED (
  SELECT q.did
  FROM pipeline.backfill_queue q
  WHERE q.did = ANY (ARRAY(SELECT did FROM found WHERE is_complete)) AND (q.finished_at IS NULL) IS TRUE
  ORDER BY q.did
  FOR UPDATE
)
UPDATE pipeline.backfill_queue q SET
  finished_at = now(), claimed_until = NULL, parked_at = NULL, attempts = 0, error = NULL, rev = f.rev
FROM found f
WHERE q.did = f.did AND q.did = ANY (ARRAY(SELECT did FROM waiting));

-- :closed
-- Notes of those of %(dids)s that have no gap any more, because late commits or retries have closed it, that they are
-- complete again. Nobody needs to fetch them, unless somebody has asked for it. The caller has locked their rows.
-- - found: those that are complete.
-- - noted: the same, in pipeline.repo.
-- - waiting: their rows of the queue, locked.
WITH found AS MATERIALIZED (
  SELECT r.did
  FROM pipeline.repo r
  WHERE r.did = ANY (%(dids)s)
    AND r.has_start
    AND NOT r.excluded
    AND r.sync_state IN ('desynchronized', 'resyncing', 'error')
    AND NOT EXISTS (
      SELECT
      FROM pipeline.gap g
      WHERE g.did = r.did AND g.resolved_at IS NULL
        AND g.kind IN ('chain', 'sync', 'commit', 'record', 'repository')
      OFFSET 0
    )
), noted AS (
  UPDATE pipeline.repo r SET sync_state = 'synchronized', sync_reason = NULL, sync_at = now()
  WHERE r.did = ANY (ARRAY(SELECT did FROM found))
), waiting AS MATERIALIZED (
  SELECT q.did
  FROM pipeline.backfill_queue q
  WHERE q.did = ANY (ARRAY(SELECT did FROM found)) AND (q.finished_at IS NULL AND q.priority = 2) IS TRUE
  ORDER BY q.did
  FOR UPDATE
)
UPDATE pipeline.backfill_queue q SET
  finished_at = now(), claimed_until = NULL, parked_at = NULL, attempts = 0, error = NULL
WHERE q.did = ANY (ARRAY(SELECT did FROM waiting));

-- :lock
-- Locks the repositories %(dids)s.
SELECT FROM pipeline.repo WHERE did = ANY (%(dids)s) ORDER BY did FOR UPDATE;
