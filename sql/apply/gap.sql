-- pipeline.gap: what is known to be missing, and what turned out to be there after all.
--
-- Guarantees: a gap is written in the transaction of the batch that finds it; found again, it is the same row. Of one
-- repository at most 100 gaps are added a day, of one stream at most 1,000: what exceeds it is one row without bounds
-- (kind `repository`, or `sequence`), which only fetching everything closes. A chain's gap closes once the commits known
-- lead from one end to the other, whatever order they arrived in.

-- :begin
-- What the batch itself takes for the end of a gap may not be the newest commit known before it (known_repo): it begins
-- there. A commit that follows that one leaves none, and between commits known to be applied nothing is missing. From the
-- first gap of a repository on everything is accounted for up to its newest commit: what comes late there adds no gap.
UPDATE stage_gap s SET
  from_text = k.rev,
  links = s.links || jsonb_build_object(k.rev, jsonb_build_array(NULL, NULL, k.data_cid))
FROM known_repo k
WHERE k.did = s.did AND s.kind IN ('chain', 'sync') AND s.from_text < k.rev AND k.rev < s.to_text;

-- :known
DELETE FROM stage_gap s
USING known_repo k
WHERE k.did = s.did AND s.kind IN ('chain', 'sync') AND (
  (s.from_text >= k.chain_from AND s.to_text <= k.rev)
  OR (
    s.to_text <= k.rev AND EXISTS (
      SELECT FROM pipeline.gap g WHERE g.kind IN ('chain', 'sync') AND g.did = s.did AND g.from_text <= s.to_text
    )
  )
  OR (
    s.from_text = k.rev
    AND s.links -> s.to_text ->> 0 = k.rev
    AND (s.links -> s.to_text ->> 1 IS NULL OR k.data_cid IS NULL OR s.links -> s.to_text ->> 1 = k.data_cid)
  )
);

-- :explained
-- Refused commits lie between: their own gaps say so, one each, and lead all the way.
DELETE FROM stage_gap s
WHERE s.kind = 'chain' AND EXISTS (
  WITH RECURSIVE back (rev, steps) AS (
    SELECT (s.links -> s.to_text ->> 0) COLLATE "C", 0
    UNION ALL
    SELECT c.from_text, b.steps + 1
    FROM back b
    CROSS JOIN LATERAL (
      SELECT g.from_text
      FROM pipeline.gap g
      WHERE g.kind = 'commit' AND g.did = s.did AND g.to_text = b.rev
      LIMIT 1
    ) c
    WHERE b.rev > s.from_text AND b.steps < 100
  )
  SELECT FROM back WHERE rev = s.from_text AND steps > 0
);

-- :note
-- A row that is found again is left as it is (`again` looks at it). `resolved`: found and closed at once.
WITH subject AS MATERIALIZED (
  SELECT DISTINCT did, relay, shard FROM stage_gap
), room AS MATERIALIZED (
  SELECT s.did, s.relay, s.shard, CASE
    WHEN s.did IS NOT NULL THEN 100 - (
      SELECT count(*)
      FROM (
        SELECT FROM pipeline.gap g WHERE g.did = s.did AND g.detected_at > now() - interval '1 day' LIMIT 100
      ) today
    )
    ELSE 1000 - (
      SELECT count(*)
      FROM (
        SELECT FROM pipeline.gap g WHERE g.relay = s.relay AND g.detected_at > now() - interval '1 day' LIMIT 1000
      ) today
    )
  END AS room
  FROM subject s
), fresh AS MATERIALIZED (
  SELECT s.*, row_number() OVER (PARTITION BY s.did, s.relay, s.shard ORDER BY s.to_text, s.from_text, s.kind) AS number
  FROM (SELECT DISTINCT * FROM stage_gap) s
  WHERE (s.kind = 'chain') = %(chains)s
    AND NOT EXISTS (
      SELECT FROM pipeline.gap g
      WHERE g.kind = s.kind AND g.did = s.did AND g.to_text IS NOT DISTINCT FROM s.to_text
        AND g.from_text IS NOT DISTINCT FROM s.from_text
      OFFSET 0
    )
    AND NOT EXISTS (
      SELECT FROM pipeline.gap g
      WHERE g.kind = s.kind AND g.did IS NULL AND s.did IS NULL AND g.relay = s.relay AND g.shard = s.shard
        AND g.from_text = s.from_text AND g.to_text = s.to_text
      OFFSET 0
    )
)
INSERT INTO pipeline.gap AS g (kind, did, relay, shard, from_text, to_text, links, resolved_at)
SELECT DISTINCT ON (1, 2, 3, 4, 5, 6)
  CASE WHEN f.number > r.room AND f.did IS NOT NULL THEN 'repository' ELSE f.kind END,
  f.did,
  f.relay,
  f.shard,
  CASE WHEN f.number <= r.room THEN f.from_text END,
  CASE WHEN f.number <= r.room THEN f.to_text END,
  CASE WHEN f.number <= r.room THEN f.links END,
  CASE WHEN f.number <= r.room AND f.resolved THEN now() END
FROM fresh f
JOIN room r
  ON r.did IS NOT DISTINCT FROM f.did AND r.relay IS NOT DISTINCT FROM f.relay AND r.shard IS NOT DISTINCT FROM f.shard
ORDER BY 1, 2, 3, 4, 5, 6
ON CONFLICT ON CONSTRAINT gap_once DO UPDATE SET resolved_at = NULL, detected_at = now()
WHERE g.resolved_at IS NOT NULL AND g.from_text IS NULL AND g.to_text IS NULL;

-- :again
-- A stream's gap is closed by what its consumer sees, and open again when it is found again; so is what has no bounds.
UPDATE pipeline.gap g SET
  resolved_at = CASE WHEN g.resolved_at IS NULL THEN now() END,
  detected_at = CASE WHEN g.resolved_at IS NULL THEN g.detected_at ELSE now() END
WHERE g.id = ANY (ARRAY(
  SELECT found.id
  FROM stage_gap s
  CROSS JOIN LATERAL (
    SELECT f.id, f.resolved_at
    FROM pipeline.gap f
    WHERE f.kind = s.kind AND f.relay = s.relay AND f.shard = s.shard AND f.did IS NULL
      AND f.from_text = s.from_text AND f.to_text = s.to_text
    UNION ALL
    SELECT f.id, f.resolved_at
    FROM pipeline.gap f
    WHERE f.kind = s.kind AND f.did = s.did AND f.from_text IS NULL AND f.to_text IS NULL
      AND s.from_text IS NULL AND s.to_text IS NULL
    OFFSET 0
  ) found
  WHERE s.resolved = (found.resolved_at IS NULL)
));

-- ---------------------------------------------------------------------------------------------------------------------
-- For batches with commits that arrived late.

-- :late
-- Repositories of late commits that have open gaps; their commits are staged then (stage_link).
SELECT s.did
FROM stage_repo s
JOIN known_repo k USING (did)
CROSS JOIN LATERAL (
  SELECT FROM pipeline.gap g WHERE g.did = s.did AND g.resolved_at IS NULL LIMIT 1
) g
WHERE s.oldest_rev <= k.rev;

-- :link
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
-- A refused commit came again, and was not refused.
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
