-- Gaps that commits close which arrive late. Runs only for batches with such commits.
--
-- Guarantees: a gap closes only when nothing is missing in it. A chain's gap closes once the known commits lead from
-- one end to the other, whatever order they arrived in.

-- :find_repos
-- Returns the repositories of late commits that have open gaps; their commits are staged then, in stage_link.
SELECT s.did
FROM stage_repo s
JOIN known_repo k USING (did)
CROSS JOIN LATERAL (
  SELECT FROM pipeline.gap g WHERE g.did = s.did AND g.resolved_at IS NULL LIMIT 1
) g
WHERE s.oldest_rev <= k.rev;

-- :link
-- Adds the late commits to the gaps that they lie in; a gap keeps at most 200.
UPDATE pipeline.gap g SET links = g.links || (
  SELECT jsonb_object_agg(l.rev, jsonb_build_array(l.since, l.prev_data, l.data))
  FROM stage_link l
  WHERE l.did = g.did AND l.rev > g.from_text AND l.rev <= g.to_text
)
WHERE g.id = ANY (ARRAY(
  SELECT f.id
  FROM stage_link l
  CROSS JOIN LATERAL (
    SELECT f.id
    FROM pipeline.gap f
    WHERE f.did = l.did AND f.resolved_at IS NULL AND f.kind IN ('chain', 'sync')
      AND l.rev > f.from_text AND l.rev <= f.to_text
      AND (SELECT count(*) FROM jsonb_object_keys(f.links)) < 200
    OFFSET 0
  ) f
));

-- :close_chains
-- Closes gaps whose commits lead from one end to the other.
-- - subject: the repositories of the late commits.
-- - back: from the end of each open gap, one known commit after the other, backwards.
WITH RECURSIVE subject AS MATERIALIZED (
  SELECT DISTINCT did FROM stage_link
), back (id, from_text, rev, since, prev_data) AS (
  SELECT g.id, g.from_text, g.to_text, (g.links -> g.to_text ->> 0) COLLATE "C", g.links -> g.to_text ->> 1
  FROM subject s
  CROSS JOIN LATERAL (
    SELECT f.*
    FROM pipeline.gap f
    WHERE f.did = s.did AND f.resolved_at IS NULL AND f.kind IN ('chain', 'sync')
    OFFSET 0
  ) g
  UNION ALL
  SELECT b.id, b.from_text, b.since, (g.links -> b.since ->> 0) COLLATE "C", g.links -> b.since ->> 1
  FROM back b
  CROSS JOIN LATERAL (SELECT f.links FROM pipeline.gap f WHERE f.id = b.id OFFSET 0) g
  WHERE b.since < b.rev AND g.links ? b.since
    AND (b.prev_data IS NULL OR g.links -> b.since ->> 2 IS NULL OR b.prev_data = g.links -> b.since ->> 2)
)
UPDATE pipeline.gap g SET resolved_at = now()
WHERE g.id = ANY (ARRAY(SELECT id FROM back WHERE rev = from_text));

-- :close_commits
-- Closes gaps of refused commits that have arrived again and were not refused.
UPDATE pipeline.gap g SET resolved_at = now()
WHERE g.id = ANY (ARRAY(
  SELECT f.id
  FROM stage_link l
  CROSS JOIN LATERAL (
    SELECT f.id
    FROM pipeline.gap f
    WHERE f.kind = 'commit' AND f.did = l.did AND f.to_text = l.rev AND f.resolved_at IS NULL
    OFFSET 0
  ) f
));

-- :close_records
-- Closes gaps of records of which the missing state, a newer one or a deletion is stored.
UPDATE pipeline.gap g SET resolved_at = now()
WHERE g.id = ANY (ARRAY(
  SELECT g.id
  FROM (SELECT DISTINCT did FROM stage_link) s
  CROSS JOIN LATERAL (
    SELECT f.id, f.to_text, ('at://' || f.did || '/' || f.from_text) COLLATE "default" AS uri
    FROM pipeline.gap f
    WHERE f.did = s.did AND f.resolved_at IS NULL AND f.kind = 'record' AND f.from_text IS NOT NULL
    OFFSET 0
  ) g
  WHERE (SELECT r.rev FROM bsky.record r WHERE r.uri = g.uri) >= g.to_text
    OR (SELECT t.rev FROM pipeline.tombstone t WHERE t.uri = g.uri) >= g.to_text
));
