-- Labelers and what has come of their labels: for the plots of the asset labels, its checks, and `status`.
--
-- Guarantees: reads only, and counts no table of labels. Expired labels are counted in an index alone.

-- :labelers
-- The labelers that are read or were read: DID, handle, whether it is read, endpoint, cursor, state, reason, seconds
-- in that state, whether all that it had sent was applied, seconds since its last frame and since the newest time that
-- a label of it states, the counts of the table, its labels in effect, and seconds since its open gap was found (null:
-- there is none).
-- - expired: labels that are not negated and have ended, by labeler.
WITH expired AS MATERIALIZED (
  SELECT src, count(*) AS labels
  FROM bsky.label
  WHERE NOT neg AND exp IS NOT NULL AND exp <= to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
  GROUP BY src
)
SELECT
  l.did, a.handle, l.is_wanted, l.endpoint, l.cursor, l.state, l.reason,
  extract(epoch FROM now() - l.state_at)::float8,
  coalesce(l.caught_up_at >= coalesce(l.last_frame_at, l.caught_up_at), false),
  extract(epoch FROM now() - l.last_frame_at)::float8,
  extract(epoch FROM now() - l.last_cts)::float8,
  l.frames, l.labels, l.changed, l.repeated, l.rejected, l.rejected_by_kind,
  greatest(l.in_effect - coalesce(e.labels, 0), 0),
  (
    SELECT extract(epoch FROM now() - min(g.detected_at))::float8
    FROM pipeline.gap g
    WHERE g.did = l.did AND g.kind = 'labels' AND g.resolved_at IS NULL
  )
FROM pipeline.labeler l
LEFT JOIN bsky.actor a ON a.did = l.did
LEFT JOIN expired e ON e.src = l.did
ORDER BY l.did;

-- :running
-- Whether a session holds the lock of the label process, whose key is %(key)s. An advisory lock of 64 bits is shown in
-- two halves.
SELECT EXISTS (
  SELECT
  FROM pg_locks
  WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (classid::bigint << 32) | objid::bigint = %(key)s
);

-- :rejected_today
-- Dead letters of labels today (UTC), by kind: those stored, and those that were only counted.
SELECT kind, sum(letters)::bigint
FROM (
  SELECT kind, letters
  FROM pipeline.dead_letter_day
  WHERE day = (now() AT TIME ZONE 'UTC')::date
  UNION ALL
  SELECT kind, count
  FROM pipeline.dead_letter_overflow
  WHERE minute >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
) counted
WHERE starts_with(kind, 'label-')
GROUP BY kind
ORDER BY kind;
