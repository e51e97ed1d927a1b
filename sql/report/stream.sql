-- The state of the stream of %(relay)s: a row per shard, with the batches of the last hour. Only of the layout whose
-- cursor moved last: no consumer moves the cursors of former layouts.
--
-- Guarantees: reads only.
SELECT
  c.shard,
  c.seq,
  extract(epoch FROM now() - c.updated_at)::float8 AS idle_seconds,
  n.lag_seconds,
  h.batches,
  h.events,
  h.rejected
FROM pipeline.cursor c
LEFT JOIN LATERAL (
  SELECT extract(epoch FROM greatest(b.applied_at, b.relay_time) - b.relay_time)::float8 AS lag_seconds
  FROM pipeline.batch b
  WHERE b.source = c.relay AND b.shard = c.shard AND b.relay_time IS NOT NULL
  ORDER BY b.id DESC
  LIMIT 1
) n ON true
CROSS JOIN LATERAL (
  SELECT
    count(*) AS batches,
    coalesce(sum(b.events), 0)::bigint AS events,
    coalesce(sum(b.rejected), 0)::bigint AS rejected
  FROM pipeline.batch b
  WHERE b.source = c.relay AND b.shard = c.shard AND b.applied_at > now() - interval '1 hour'
) h
WHERE c.relay = %(relay)s
  AND split_part(c.shard, '/', 2) = (
    SELECT split_part(l.shard, '/', 2) FROM pipeline.cursor l WHERE l.relay = c.relay ORDER BY l.updated_at DESC LIMIT 1
  )
ORDER BY split_part(c.shard, '/', 1)::int
