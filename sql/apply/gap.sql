-- pipeline.gap: what is known to be missing. (Gaps that late commits close: gap_closing.sql.)
--
-- Guarantees: a gap is written in the transaction of the batch that finds it; found again, it is the same row. At most
-- 100 gaps of one repository are added a day, and at most 1,000 of one stream: those beyond the limit are one row
-- without bounds (kind `repository`, or `sequence`), which only fetching everything closes.

-- :begin
-- Moves the beginning of a gap to the newest commit known before the batch (known_repo), where that is later than the
-- batch's own commit.
UPDATE stage_gap s SET
  from_text = k.rev,
  links = s.links || jsonb_build_object(k.rev, jsonb_build_array(NULL, NULL, k.data_cid))
FROM known_repo k
WHERE k.did = s.did AND s.kind IN ('chain', 'sync') AND s.from_text < k.rev AND k.rev < s.to_text;

-- :unreachable
-- Takes the bounds of gaps away whose refused commit has a rev of the future (more than 5 minutes ahead), whatever it
-- was refused for: no export would ever reach that. Any that is fetched from now on closes them.
UPDATE stage_gap SET from_text = NULL, to_text = NULL
WHERE kind = 'commit' AND to_text > pipeline.tid_of(now() + interval '5 minutes') COLLATE "C";

-- :known
-- Drops gaps that are none: between commits known to be applied nothing is missing, and a commit that follows the
-- newest known one leaves no gap. From the first gap of a repository on, everything up to its newest commit is
-- accounted for: what comes late in there adds no gap. And whatever is missing up to an export, the export has it.
DELETE FROM stage_gap s
USING known_repo k
WHERE k.did = s.did AND (s.kind IN ('chain', 'sync') OR s.to_text <= k.export_rev) AND (
  s.to_text <= k.export_rev
  OR (s.from_text >= k.chain_from AND s.to_text <= k.rev)
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
-- Drops a chain's gap that refused commits explain: each has a gap of its own, and together they lead all the way.
-- - back: from the end of the gap, one refused commit after the other, backwards.
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
-- Writes the gaps. A gap that is found again keeps its row (see `again`). `resolved`: found and closed at once.
-- - subject: the repositories and streams of the staged gaps.
-- - allowance: how many gaps may still be added for each today.
-- - fresh: staged gaps that are not stored yet, numbered within their repository or stream.
WITH subject AS MATERIALIZED (
  SELECT DISTINCT did, relay, shard FROM stage_gap
), allowance AS MATERIALIZED (
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
  END AS remaining
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
  CASE WHEN f.number > a.remaining AND f.did IS NOT NULL THEN 'repository' ELSE f.kind END,
  f.did,
  f.relay,
  f.shard,
  CASE WHEN f.number <= a.remaining THEN f.from_text END,
  CASE WHEN f.number <= a.remaining THEN f.to_text END,
  CASE WHEN f.number <= a.remaining THEN f.links END,
  CASE WHEN f.number <= a.remaining AND f.resolved THEN now() END
FROM fresh f
JOIN allowance a
  ON a.did IS NOT DISTINCT FROM f.did AND a.relay IS NOT DISTINCT FROM f.relay AND a.shard IS NOT DISTINCT FROM f.shard
ORDER BY 1, 2, 3, 4, 5, 6
ON CONFLICT ON CONSTRAINT gap_once DO UPDATE SET resolved_at = NULL, detected_at = now()
WHERE g.resolved_at IS NOT NULL AND g.from_text IS NULL AND g.to_text IS NULL;

-- :again
-- Changes gaps that were stored before: a stream's gap is closed when its consumer finds it filled, and opened when it
-- is found again; so is a gap without bounds.
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
