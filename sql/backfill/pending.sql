-- Single records to fetch: rows of pipeline.pending, those that have waited longest first.
--
-- Guarantees: what is due is found by an index, in proportion to what is taken. Taking a record moves the time at which
-- it may be taken again into the future, so a process that dies gives it back by itself. Rows that a writer holds are
-- skipped: neither waits for the other. The row of a reply is never deleted here; only its evaluation does that.

-- :take
-- Takes the records of up to %(limit)s rows that are due, for %(claim_seconds)s. Returns each once: its URI, its kinds,
-- how many rows name it, and how many attempts failed.
-- - due: these rows.
-- - seen: the same, with what is known by now: whether the record is here, whether it may still be fetched, and whether
--   the record that depends on it is gone.
-- - dropped: rows that need no fetching and that no evaluation waits for.
-- - ended: rows whose fetching ends, but that stay.
-- - named: all rows that name the other records; taken: the same, with their new time.
WITH due AS MATERIALIZED (
  SELECT uri, kind, missing, expires_at
  FROM pipeline.pending
  WHERE not_before <= now()
  ORDER BY not_before
  LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED
), seen AS MATERIALIZED (
  SELECT d.*,
    EXISTS (SELECT FROM bsky.record r WHERE r.uri = d.missing) AS is_here,
    d.expires_at <= now()
      OR EXISTS (SELECT FROM pipeline.tombstone t WHERE t.uri = d.missing)
      OR EXISTS (SELECT FROM pipeline.repo r WHERE r.did = split_part(d.missing, '/', 3) AND r.excluded) AS is_over,
    d.uri <> d.missing AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = d.uri) AS is_orphan
  FROM due d
), dropped AS (
  DELETE FROM pipeline.pending p
  USING seen s
  WHERE (p.uri, p.kind, p.missing) = (s.uri, s.kind, s.missing)
    AND s.kind <> 'reply' AND (s.is_here OR s.is_orphan)
), ended AS (
  UPDATE pipeline.pending p SET not_before = NULL
  FROM seen s
  WHERE (p.uri, p.kind, p.missing) = (s.uri, s.kind, s.missing)
    AND NOT (s.kind <> 'reply' AND (s.is_here OR s.is_orphan))
    AND (s.is_here OR s.is_over OR s.is_orphan)
), named AS MATERIALIZED (
  SELECT p.uri, p.kind, p.missing
  FROM (SELECT DISTINCT missing FROM seen WHERE NOT (is_here OR is_over OR is_orphan)) m
  JOIN pipeline.pending p USING (missing)
  WHERE p.not_before IS NOT NULL
    AND NOT EXISTS (
      SELECT FROM seen s
      WHERE (s.uri, s.kind, s.missing) = (p.uri, p.kind, p.missing) AND (s.is_here OR s.is_over OR s.is_orphan)
    )
  FOR UPDATE OF p SKIP LOCKED
), taken AS (
  UPDATE pipeline.pending p SET not_before = now() + make_interval(secs => %(claim_seconds)s)
  FROM named n
  WHERE (p.uri, p.kind, p.missing) = (n.uri, n.kind, n.missing)
  RETURNING p.uri, p.kind, p.missing, p.attempts, p.since
)
SELECT missing, array_agg(DISTINCT kind), count(*)::int, max(attempts)
FROM taken
GROUP BY missing
ORDER BY min(since), missing;

-- :missed
-- Counts a failed attempt at each of %(uris)s, with its reason. A record is tried again after its number of seconds;
-- not any more if the failure is final, or after %(tries)s failures. A record that is here by now is no failure.
-- - failure: what failed.
-- - named: the rows that name these records, and whether the record is here.
-- - arrived: those of records that are, and that no evaluation waits for: removed.
WITH failure AS MATERIALIZED (
  SELECT DISTINCT ON (missing) missing, error, seconds, is_final
  FROM unnest(%(uris)s::text[], %(errors)s::text[], %(seconds)s::float8[], %(finals)s::boolean[])
    f (missing, error, seconds, is_final)
), named AS MATERIALIZED (
  SELECT p.uri, p.kind, p.missing, f.error, f.seconds, f.is_final,
    EXISTS (SELECT FROM bsky.record r WHERE r.uri = p.missing) AS is_here
  FROM failure f
  JOIN pipeline.pending p USING (missing)
  WHERE p.not_before IS NOT NULL
  FOR UPDATE OF p SKIP LOCKED
), arrived AS (
  DELETE FROM pipeline.pending p
  USING named n
  WHERE (p.uri, p.kind, p.missing) = (n.uri, n.kind, n.missing) AND n.is_here AND n.kind <> 'reply'
)
UPDATE pipeline.pending p SET
  attempts = p.attempts + CASE WHEN n.is_here THEN 0 ELSE 1 END,
  error = CASE WHEN n.is_here THEN p.error ELSE n.error END,
  not_before = CASE
    WHEN NOT n.is_here AND NOT n.is_final AND p.attempts + 1 < %(tries)s THEN now() + make_interval(secs => n.seconds)
  END
FROM named n
WHERE (p.uri, p.kind, p.missing) = (n.uri, n.kind, n.missing) AND (NOT n.is_here OR n.kind = 'reply');

-- :postpone
-- Puts %(uris)s off for %(seconds)s, without counting an attempt.
-- - named: the rows that name these records.
WITH named AS MATERIALIZED (
  SELECT p.uri, p.kind, p.missing
  FROM unnest(%(uris)s::text[]) m (missing)
  JOIN pipeline.pending p USING (missing)
  WHERE p.not_before IS NOT NULL
  FOR UPDATE OF p SKIP LOCKED
)
UPDATE pipeline.pending p SET not_before = now() + make_interval(secs => %(seconds)s)
FROM named n
WHERE (p.uri, p.kind, p.missing) = (n.uri, n.kind, n.missing);

-- :state
-- Returns by kind: rows whose record is still fetched, those that are due, for how many seconds the first of them has
-- been, and rows whose record is not fetched (any more).
SELECT kind,
  count(*) FILTER (WHERE not_before IS NOT NULL AND expires_at > now()),
  count(*) FILTER (WHERE not_before <= now() AND expires_at > now()),
  extract(epoch FROM now() - min(not_before) FILTER (WHERE not_before <= now() AND expires_at > now()))::float8,
  count(*) FILTER (WHERE not_before IS NULL OR expires_at <= now())
FROM pipeline.pending
GROUP BY kind
ORDER BY kind;
