-- Opening a shard's cursor: taking over from the shards of other layouts (shards.py, store/cursors.py).
--
-- Guarantees: a cursor of another layout is deleted only once all shards of one layout have started since it last
-- moved: by then each of them has taken over its part. Shards that start at the same time do so one after the other.

-- :lock
-- Makes shards of one relay take turns, until the commit.
SELECT pg_advisory_xact_lock(hashtext('appview-pipeline: cursors of ' || %(relay)s));

-- :all
-- All cursors of a relay, of every layout.
SELECT shard, seq, updated_at
FROM pipeline.cursor
WHERE relay = %(relay)s;

-- :open
-- Sets the shard's own cursor. (Its time is the clock's: the transaction may have begun long before it got the lock.)
INSERT INTO pipeline.cursor (relay, shard, seq, updated_at)
VALUES (%(relay)s, %(shard)s, %(seq)s, clock_timestamp())
ON CONFLICT (relay, shard) DO UPDATE SET seq = excluded.seq, updated_at = excluded.updated_at;

-- :close_former
-- Deletes cursors of other layouts that all shards of this layout have taken over, and returns their shards.
-- - c: the relay's cursors; `own`: of this layout.
-- - layout: how many shards of this layout have started, when the first of them did, and when a cursor of another
--   layout last moved.
WITH c AS (
  SELECT shard, updated_at, split_part(shard, '/', 2)::int = %(count)s AS own
  FROM pipeline.cursor
  WHERE relay = %(relay)s
), layout AS (
  SELECT count(*) FILTER (WHERE own) AS opened,
    min(updated_at) FILTER (WHERE own) AS first_started,
    max(updated_at) FILTER (WHERE NOT own) AS last_moved
  FROM c
)
DELETE FROM pipeline.cursor d
USING c, layout l
WHERE d.relay = %(relay)s AND d.shard = c.shard AND NOT c.own
  AND l.opened = %(count)s AND l.first_started > l.last_moved
RETURNING d.shard;
