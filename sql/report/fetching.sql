-- Records fetched on demand, for the plots of the asset fetched_records and its checks.
--
-- Guarantees: reads only.

-- :newest
-- The newest report of the fetch process; 0 for none.
SELECT coalesce(max(id), 0) FROM pipeline.fetch_batch;

-- :after
-- What the fetch process reported after the report %(after)s, out of at most %(limit)s reports, in one row; none where
-- there is no report. Counts are sums; what waits is that of the last report.
-- - report: the reports; by_collection: the records asked for, by collection.
WITH report AS MATERIALIZED (
  SELECT * FROM pipeline.fetch_batch WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
), by_collection AS (
  SELECT jsonb_object_agg(collection, asked) AS counts
  FROM (
    SELECT c.key AS collection, sum(c.value::bigint) AS asked
    FROM report, jsonb_each_text(asked_by_collection) c
    GROUP BY c.key
  ) counted
)
SELECT max(id), sum(seconds), sum(asked)::bigint, sum(found)::bigint, sum(absent)::bigint, sum(refused)::bigint,
  sum(invalid)::bigint, sum(unreachable)::bigint, sum(queued_repositories)::bigint,
  coalesce((SELECT counts FROM by_collection), '{}'), (array_agg(waiting ORDER BY id DESC))[1],
  (array_agg(oldest_seconds ORDER BY id DESC))[1], (array_agg(given_up ORDER BY id DESC))[1],
  sum(signatures_checked)::bigint, sum(signatures_bad)::bigint
FROM report
HAVING count(*) > 0;

-- :last
-- The newest report: how old it is in seconds, what waited, and for how long the oldest had waited (null: none did).
SELECT extract(epoch FROM greatest(clock_timestamp() - finished_at, interval '0'))::float8, waiting, oldest_seconds
FROM pipeline.fetch_batch
ORDER BY id DESC
LIMIT 1;

-- :outcomes
-- What the attempts of the last %(seconds)s seconds came to: found, absent, refused, invalid, unreachable.
SELECT coalesce(sum(found), 0)::bigint, coalesce(sum(absent), 0)::bigint, coalesce(sum(refused), 0)::bigint,
  coalesce(sum(invalid), 0)::bigint, coalesce(sum(unreachable), 0)::bigint
FROM pipeline.fetch_batch
WHERE finished_at > now() - %(seconds)s * interval '1 second';
