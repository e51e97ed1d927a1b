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
