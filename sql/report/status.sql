-- The state of the index, for `appview-pipeline status`.
--
-- Guarantees: reads only, and counts no large table.

-- :streams
-- The cursors with the batches of their last hour. The third column says whether the cursor belongs to the layout that
-- moved last; a former layout is shown as such until all shards of the present one have started.
SELECT
  c.relay,
  c.shard,
  split_part(c.shard, '/', 2) = (
    SELECT split_part(l.shard, '/', 2) FROM pipeline.cursor l WHERE l.relay = c.relay ORDER BY l.updated_at DESC LIMIT 1
  ),
  c.seq,
  extract(epoch FROM now() - c.updated_at)::float8,
  (
    SELECT extract(epoch FROM greatest(b.applied_at, b.relay_time) - b.relay_time)::float8
    FROM pipeline.batch b
    WHERE b.source = c.relay AND b.shard = c.shard AND b.relay_time IS NOT NULL
    ORDER BY b.id DESC
    LIMIT 1
  ),
  coalesce(h.events, 0)::bigint,
  coalesce(h.events / nullif(h.seconds, 0), 0)::float8,
  coalesce(h.rejected, 0)::bigint,
  coalesce(h.skipped, 0)::bigint,
  coalesce(h.doubtful, 0)::bigint
FROM pipeline.cursor c
LEFT JOIN LATERAL (
  SELECT sum(b.events) AS events, sum(b.rejected) AS rejected, sum(b.skipped) AS skipped, sum(b.doubtful) AS doubtful,
    extract(epoch FROM now() - min(b.applied_at)) AS seconds
  FROM pipeline.batch b
  WHERE b.source = c.relay AND b.shard = c.shard AND b.applied_at > now() - interval '1 hour'
) h ON true
ORDER BY c.relay, 3 DESC, split_part(c.shard, '/', 2)::int, split_part(c.shard, '/', 1)::int;

-- :dead_letters
-- Open dead letters by kind.
SELECT kind, count(*)
FROM pipeline.dead_letter
WHERE resolved_at IS NULL
GROUP BY kind
ORDER BY kind;

-- :dead_letters_of_day
-- By kind: bytes stored today (UTC), which the daily limit counts, and dead letters of the last 24 hours that were only
-- counted.
SELECT kind, sum(bytes)::bigint, sum(left_out)::bigint
FROM (
  SELECT kind, bytes, 0 AS left_out FROM pipeline.dead_letter_day WHERE day = (now() AT TIME ZONE 'UTC')::date
  UNION ALL
  SELECT kind, 0, count FROM pipeline.dead_letter_overflow WHERE minute > now() - interval '24 hours'
) counted
GROUP BY kind
ORDER BY kind;

-- :gaps
-- Open gaps by kind, and for how many seconds the oldest of each has been open.
SELECT kind, count(*), extract(epoch FROM now() - min(detected_at))::float8
FROM pipeline.gap
WHERE resolved_at IS NULL
GROUP BY kind
ORDER BY kind;

-- :incomplete_states
-- Repositories that are not complete, by state, counted up to %(limit)s.
SELECT sync_state, count(*)
FROM (
  SELECT sync_state
  FROM pipeline.repo
  WHERE sync_state IN ('desynchronized', 'resyncing', 'error')
  LIMIT %(limit)s
) counted
GROUP BY sync_state
ORDER BY sync_state;

-- :incomplete
-- How many repositories have an open gap.
SELECT count(DISTINCT did)
FROM pipeline.gap
WHERE resolved_at IS NULL AND did IS NOT NULL AND kind <> 'labels';

-- :totals
-- Size of the database, pending records, repositories (PostgreSQL's estimate), and accounts that have opted out.
SELECT
  pg_database_size(current_database()),
  (SELECT count(*) FROM pipeline.pending),
  (
    SELECT greatest(pg_stat_get_live_tuples(oid), reltuples::bigint, 0)
    FROM pg_class
    WHERE oid = 'pipeline.repo'::regclass
  ),
  (SELECT count(*) FROM pipeline.actor_setting WHERE data_collection_forbidden);

-- :ignored
-- The ten collections that are not indexed and have the most operations.
SELECT collection, creates + updates + deletes
FROM pipeline.ignored_collection
ORDER BY 2 DESC, 1
LIMIT 10;

-- :rows
-- Rows of the largest tables (PostgreSQL's estimate).
SELECT relname, greatest(pg_stat_get_live_tuples(oid), reltuples::bigint, 0)
FROM pg_class
WHERE relnamespace = 'bsky'::regnamespace
  AND relname IN ('record', 'post', 'like', 'repost', 'follow', 'profile', 'notification', 'post_agg', 'label')
ORDER BY relname;
