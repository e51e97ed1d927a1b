-- Gaps: what is known to be missing.
--
-- Guarantees: reads only.

-- :stream
-- A stream's open gaps with both ends, newest first, at most %(limit)s. A relay keeps three days: older events can't be
-- sent again.
SELECT kind, from_text::bigint, to_text::bigint
FROM pipeline.gap
WHERE relay = %(relay)s AND shard = %(shard)s AND resolved_at IS NULL AND detected_at > now() - interval '3 days'
  AND from_text ~ '^[0-9]{1,18}$' AND to_text ~ '^[0-9]{1,18}$'
ORDER BY detected_at DESC
LIMIT %(limit)s;

-- :relay
-- The open gaps of a relay's stream with both ends, whatever their shard, newest first, at most %(limit)s.
SELECT shard, kind, from_text::bigint, to_text::bigint
FROM pipeline.gap
WHERE relay = %(relay)s AND resolved_at IS NULL AND from_text ~ '^[0-9]{1,18}$' AND to_text ~ '^[0-9]{1,18}$'
ORDER BY detected_at DESC
LIMIT %(limit)s;

-- :streams
-- The oldest open gaps of all streams, at most %(limit)s: (id, kind, relay, shard, number before, number after, when it
-- was found, time of the newest event before it; null: unknown). One without a number before it began with the stream:
-- the newest event before it came from another relay.
SELECT g.id, g.kind, g.relay, g.shard,
  CASE WHEN g.from_text ~ '^[0-9]{1,18}$' THEN g.from_text::bigint END,
  CASE WHEN g.to_text ~ '^[0-9]{1,18}$' THEN g.to_text::bigint END,
  g.detected_at,
  b.relay_time
FROM pipeline.gap g
LEFT JOIN LATERAL (
  SELECT b.relay_time
  FROM pipeline.batch b
  WHERE b.applied_at <= g.detected_at AND b.relay_time IS NOT NULL
    AND CASE
      WHEN g.from_text IS NULL THEN starts_with(b.source, 'ws') AND b.source <> g.relay
      ELSE b.source = g.relay AND b.shard IS NOT DISTINCT FROM g.shard
        AND b.last_seq <= CASE WHEN g.from_text ~ '^[0-9]{1,18}$' THEN g.from_text::bigint END
    END
  ORDER BY b.applied_at DESC
  LIMIT 1
) b ON true
WHERE g.resolved_at IS NULL AND g.did IS NULL AND g.kind IN ('sequence', 'outdated_cursor')
ORDER BY g.detected_at, g.id
LIMIT %(limit)s;

-- :was_streamed
-- Whether events of another stream than that of %(relay)s were ever applied, or of its shard %(shard)s.
SELECT EXISTS (SELECT FROM pipeline.cursor WHERE relay <> %(relay)s)
  OR EXISTS (
    SELECT
    FROM pipeline.batch
    WHERE relay_time IS NOT NULL AND starts_with(source, 'ws') AND (source <> %(relay)s OR shard = %(shard)s)
  );
