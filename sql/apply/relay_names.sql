-- One name for each relay (addresses.py): rows stored under other spellings of its URL, or with user and password in
-- it, move to its name. Runs before a shard's cursor is opened (store/cursors.py); finds nothing after the first time.
--
-- Guarantees: of several cursors for one shard the one that moved last is kept; where another one is behind it, the
-- events between the two are a gap. No spelling with a password remains in a table.

-- :lock
-- Makes processes that rename relays take turns, until the commit.
SELECT pg_advisory_xact_lock(hashtext('appview-pipeline: names of relays'));

-- :all
-- Relays that are stored under a URL.
SELECT DISTINCT relay
FROM pipeline.cursor
WHERE position('://' IN relay) > 0;

-- :limits
-- Allows an hour: this happens once, and goes over all batches that are kept.
SET LOCAL statement_timeout = '1h';

-- :cursors
-- Moves cursors to the relays' names.
-- - names: each old spelling and its name.
-- - spelled: the cursors of these relays under any spelling.
-- - kept: for each shard, the cursor that moved last.
-- - left_behind: a gap for each cursor behind the kept one.
-- - gone: cursors under old spellings, deleted.
WITH names AS (
  SELECT * FROM unnest(%(old)s::text[], %(new)s::text[]) AS n (old, new)
), spelled AS (
  SELECT coalesce(n.new, c.relay) AS name, c.relay, c.shard, c.seq, c.updated_at
  FROM pipeline.cursor c
  LEFT JOIN names n ON n.old = c.relay
  WHERE coalesce(n.new, c.relay) IN (SELECT new FROM names)
), kept AS (
  SELECT DISTINCT ON (name, shard) name, shard, seq, updated_at
  FROM spelled
  ORDER BY name, shard, updated_at DESC, seq
), left_behind AS (
  INSERT INTO pipeline.gap (kind, relay, shard, from_text, to_text)
  SELECT 'sequence', k.name, k.shard, s.seq::text, k.seq::text
  FROM spelled s
  JOIN kept k USING (name, shard)
  WHERE s.seq < k.seq
  ON CONFLICT DO NOTHING
), gone AS (
  DELETE FROM pipeline.cursor c
  USING names n
  WHERE c.relay = n.old
)
INSERT INTO pipeline.cursor (relay, shard, seq, updated_at)
SELECT name, shard, seq, updated_at FROM kept
ORDER BY name, shard
ON CONFLICT (relay, shard) DO UPDATE SET seq = excluded.seq, updated_at = excluded.updated_at
WHERE cursor.updated_at < excluded.updated_at;

-- :batches
-- Moves the reports of batches.
UPDATE pipeline.batch b
SET source = n.new
FROM unnest(%(old)s::text[], %(new)s::text[]) AS n (old, new)
WHERE b.source = n.old;

-- :dead_letters
-- Moves dead letters; their reasons may name the relay too.
UPDATE pipeline.dead_letter d
SET source = n.new, reason = replace(d.reason, n.old, n.new)
FROM unnest(%(old)s::text[], %(new)s::text[]) AS n (old, new)
WHERE d.source = n.old;

-- :same_gaps
-- Deletes gaps that would be the same row under the new name; an open one is kept.
-- - named: gaps of these relays, numbered by what makes them the same.
WITH named AS (
  SELECT g.id, row_number() OVER (
    PARTITION BY g.kind, g.did, coalesce(n.new, g.relay), g.shard, g.from_text, g.to_text
    ORDER BY g.resolved_at NULLS FIRST, g.id
  ) AS number
  FROM pipeline.gap g
  LEFT JOIN unnest(%(old)s::text[], %(new)s::text[]) AS n (old, new) ON n.old = g.relay
  WHERE coalesce(n.new, g.relay) = ANY (%(new)s::text[])
)
DELETE FROM pipeline.gap g
USING named
WHERE g.id = named.id AND named.number > 1;

-- :gaps
-- Moves the gaps that remain.
UPDATE pipeline.gap g
SET relay = n.new
FROM unnest(%(old)s::text[], %(new)s::text[]) AS n (old, new)
WHERE g.relay = n.old;
