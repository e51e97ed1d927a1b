-- The batches applied after the batch %(after)s, for the plots of the assets: a row per hour (UTC) of application,
-- oldest first, out of at most %(limit)s batches.
--
-- Guarantees: reads only. A batch is in exactly one row, and last_id of the newest row is where the next report
-- continues. Sequence numbers, lag and last_relay_time are those of %(relay)s alone; counts include every source,
-- replayed files too. Exports of repositories, which are no frames, count only with their operations and the rows that
-- they wrote: what a backfill costs and refuses is reported by itself. With %(shard)s ("i/n", null: all) only the
-- batches that this shard's sensor reports: its own, and for shard 0 also those of no shard of this layout. Of two
-- concurrent writers, a batch that commits after a younger one was reported is left out: only the plots miss it.
--
-- - batch: the batches; `live`: from the relay.
-- - op: operations by hour, collection and action.
-- - written: rows written by hour and table.
-- - rejected: dead letters by hour and kind.
-- - ignored: operations of collections that are not indexed, by hour.
-- - newest: the last batch from the relay in each hour.
WITH batch AS MATERIALIZED (
  SELECT *, date_trunc('hour', applied_at, 'UTC') AS hour, source = %(relay)s AS live
  FROM pipeline.batch
  WHERE id > %(after)s
    AND (
      %(shard)s::text IS NULL
      OR (source = %(relay)s AND shard = %(shard)s)
      OR (
        split_part(%(shard)s, '/', 1) = '0'
        AND (source <> %(relay)s OR split_part(shard, '/', 2) <> split_part(%(shard)s, '/', 2))
      )
    )
  ORDER BY id
  LIMIT %(limit)s
), op AS (
  SELECT hour, jsonb_object_agg(collection || ' ' || action, n) AS ops
  FROM (
    SELECT b.hour, c.key AS collection, a.key AS action, sum(a.value::bigint) AS n
    FROM batch b, jsonb_each(b.ops) c, jsonb_each_text(c.value) a
    GROUP BY 1, 2, 3
  ) counted
  GROUP BY hour
), written AS (
  SELECT hour, jsonb_object_agg(name, n) AS written
  FROM (
    SELECT b.hour, w.key AS name, sum(w.value::bigint) AS n FROM batch b, jsonb_each_text(b.written) w GROUP BY 1, 2
  ) counted
  GROUP BY hour
), rejected AS (
  SELECT hour, jsonb_object_agg(name, n) AS rejected_by_kind
  FROM (
    SELECT b.hour, r.key AS name, sum(r.value::bigint) AS n
    FROM batch b, jsonb_each_text(b.rejected_by_kind) r
    WHERE b.live OR b.frames > 0
    GROUP BY 1, 2
  ) counted
  GROUP BY hour
), ignored AS (
  SELECT b.hour, sum(i.value::bigint) AS ignored FROM batch b, jsonb_each_text(b.ignored) i GROUP BY 1
), newest AS (
  SELECT DISTINCT ON (hour)
    hour, last_seq, relay_time, extract(epoch FROM greatest(applied_at, relay_time) - relay_time)::float8 AS lag_seconds
  FROM batch
  WHERE live
  ORDER BY hour, id DESC
)
SELECT
  b.hour,
  count(*) AS batches,
  max(b.id) AS last_id,
  min(b.first_seq) FILTER (WHERE b.live) AS first_seq,
  n.last_seq,
  n.relay_time AS last_relay_time,
  n.lag_seconds,
  max(b.applied_at) AS last_applied_at,
  sum(b.frames)::bigint AS frames,
  sum(b.events)::bigint AS events,
  coalesce(sum(b.rejected) FILTER (WHERE b.live OR b.frames > 0), 0)::bigint AS rejected,
  coalesce(sum(b.stale) FILTER (WHERE b.live OR b.frames > 0), 0)::bigint AS stale,
  coalesce(sum(b.skipped) FILTER (WHERE b.live), 0)::bigint AS skipped,
  coalesce(sum(b.doubtful) FILTER (WHERE b.live), 0)::bigint AS doubtful,
  sum(b.withheld)::bigint AS withheld,
  coalesce(sum(b.bytes) FILTER (WHERE b.live OR b.frames > 0), 0)::bigint AS bytes,
  coalesce(sum(b.decode_ms) FILTER (WHERE b.live OR b.frames > 0), 0)::float8 AS decode_ms,
  coalesce(sum(b.apply_ms) FILTER (WHERE b.live OR b.frames > 0), 0)::float8 AS apply_ms,
  coalesce(i.ignored, 0)::bigint AS ignored,
  coalesce(o.ops, '{}') AS ops,
  coalesce(w.written, '{}') AS written,
  coalesce(r.rejected_by_kind, '{}') AS rejected_by_kind
FROM batch b
LEFT JOIN op o USING (hour)
LEFT JOIN written w USING (hour)
LEFT JOIN rejected r USING (hour)
LEFT JOIN ignored i USING (hour)
LEFT JOIN newest n USING (hour)
GROUP BY b.hour, n.last_seq, n.relay_time, n.lag_seconds, i.ignored, o.ops, w.written, r.rejected_by_kind
ORDER BY b.hour
