-- Resolution, for the plots of the asset actors and its checks.
--
-- Guarantees: reads only.

-- :newest
-- The newest report of the identity process; 0 for none.
SELECT coalesce(max(id), 0) FROM pipeline.identity_batch;

-- :after
-- What the identity process reported after the report %(after)s: a row per hour (UTC), oldest first, out of at most
-- %(limit)s reports. Counts are sums; the queue is that of the hour's last report.
-- - report: the reports.
WITH report AS MATERIALIZED (
  SELECT *, date_trunc('hour', finished_at, 'UTC') AS hour
  FROM pipeline.identity_batch
  WHERE id > %(after)s
  ORDER BY id
  LIMIT %(limit)s
)
SELECT hour, max(id), max(finished_at), sum(seconds), sum(resolved)::bigint, sum(failed)::bigint,
  sum(verified)::bigint, sum(not_verified)::bigint, sum(statuses)::bigint, sum(lookups)::bigint, sum(hits)::bigint,
  (array_agg(queued ORDER BY id DESC))[1], (array_agg(oldest_seconds ORDER BY id DESC))[1]
FROM report
GROUP BY hour
ORDER BY hour;

-- :last
-- The newest report: how old it is in seconds, what waited, and for how long the oldest had waited (null: none did).
SELECT extract(epoch FROM greatest(clock_timestamp() - finished_at, interval '0'))::float8, queued, oldest_seconds
FROM pipeline.identity_batch
ORDER BY id DESC
LIMIT 1;

-- :met
-- The accounts that the stream's batches after the batch %(after)s (null: the newest) had events of, how many of them
-- were queued, and the newest batch.
SELECT coalesce(sum(accounts), 0)::bigint, coalesce(sum(unresolved), 0)::bigint,
  coalesce(max(id), (SELECT max(id) FROM pipeline.batch), 0)
FROM pipeline.batch
WHERE id > coalesce(%(after)s, (SELECT max(id) FROM pipeline.batch));

-- :upstreams
-- At most %(limit)s servers that resolution asks: those that it leaves alone first, then those that failed last.
SELECT host, breaker, failures, opened, extract(epoch FROM open_until)::float8,
  extract(epoch FROM parked_until)::float8, reason
FROM pipeline.upstream
ORDER BY breaker = 'closed', parked_until IS NULL OR parked_until < now(), updated_at DESC, host COLLATE "C"
LIMIT %(limit)s;

-- :left_alone
-- How many servers are left alone now: with a breaker that is not closed, or with a pause that they asked for.
SELECT count(*) FILTER (WHERE breaker <> 'closed'), count(*) FILTER (WHERE parked_until > now())
FROM pipeline.upstream;

-- :refresh
-- Accounts whose refresh is due, those in the queue refresh among them, counted up to %(limit)s.
SELECT count(*)
FROM (
  (SELECT FROM pipeline.identity WHERE queue = 'refresh' AND wanted_at <= now() LIMIT %(limit)s)
  UNION ALL
  (SELECT FROM pipeline.identity WHERE queue IS NULL AND next_check_at <= now() LIMIT %(limit)s)
  LIMIT %(limit)s
) due;
