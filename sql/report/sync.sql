-- How complete the index is: repositories by state, gaps, and what is being done about them; for plots and checks.
--
-- Guarantees: reads only, and counts no large table.

-- :size
-- How many repositories there are: the larger of PostgreSQL's two estimates, since a crash or a failover forgets one.
SELECT greatest(pg_stat_get_live_tuples(oid), reltuples::bigint, 0) FROM pg_class WHERE oid = 'pipeline.repo'::regclass;

-- :counted
-- Repositories by state, counted.
SELECT sync_state, count(*) FROM pipeline.repo GROUP BY sync_state;

-- :estimated
-- Repositories by state, as PostgreSQL's sample of the table (ANALYZE) says; no rows where there is none yet.
SELECT s.state, round(s.share * greatest(pg_stat_get_live_tuples(c.oid), c.reltuples::bigint))::bigint
FROM pg_stats p
CROSS JOIN LATERAL unnest(p.most_common_vals::text::text[], p.most_common_freqs) s (state, share)
JOIN pg_class c ON c.oid = 'pipeline.repo'::regclass
WHERE p.schemaname = 'pipeline' AND p.tablename = 'repo' AND p.attname = 'sync_state';

-- :gaps
-- Open gaps but for those of labelers, counted up to %(limit)s; seconds since the oldest of them was found (null: there
-- is none); and both of those alone that something can be done about: not of repositories that are given up for now,
-- nor of accounts that are not active.
-- - gap: the open gaps, oldest first within their kind.
-- - kinds: the kinds that gaps have.
WITH RECURSIVE kinds (kind) AS (
  SELECT min(kind) FROM pipeline.gap WHERE resolved_at IS NULL
  UNION ALL
  SELECT (SELECT min(g.kind) FROM pipeline.gap g WHERE g.resolved_at IS NULL AND g.kind > k.kind)
  FROM kinds k
  WHERE k.kind IS NOT NULL
), gap AS MATERIALIZED (
  SELECT g.detected_at, r.sync_state = 'error' OR r.excluded OR NOT r.active AS waits
  FROM kinds k
  CROSS JOIN LATERAL (
    SELECT g.did, g.detected_at
    FROM pipeline.gap g
    WHERE g.resolved_at IS NULL AND g.kind = k.kind AND g.kind <> 'labels'
    ORDER BY g.detected_at
    LIMIT %(limit)s
  ) g
  LEFT JOIN LATERAL (
    SELECT sync_state, excluded, active FROM pipeline.repo WHERE did = g.did OFFSET 0
  ) r ON true
)
SELECT count(*), extract(epoch FROM now() - min(detected_at))::float8, count(*) FILTER (WHERE waits IS NOT TRUE),
  extract(epoch FROM now() - min(detected_at) FILTER (WHERE waits IS NOT TRUE))::float8
FROM gap;

-- :stream_gaps
-- Whether a gap of a stream is open.
SELECT EXISTS (SELECT FROM pipeline.gap WHERE resolved_at IS NULL AND did IS NULL);

-- :newest_work
-- The newest row of what the processes that fetch repositories have done; 0 for none.
SELECT coalesce(max(id), 0) FROM pipeline.backfill_batch;

-- :buckets
-- The buckets of which something of a priority of at least %(priority)s may be taken now.
SELECT b.bucket
FROM generate_series(0, 63) b (bucket)
WHERE EXISTS (
  SELECT
  FROM pipeline.backfill_queue q
  WHERE q.finished_at IS NULL AND q.bucket = b.bucket AND q.priority >= %(priority)s AND q.not_before <= now()
)
ORDER BY b.bucket;
