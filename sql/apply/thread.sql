-- Threads: which replies are valid, whom a thread gate turns away, which quotes a post gate forbids.
--
-- A reply is judged by what existed at its own rev:
-- - its root is invalid when the parent (a record of any collection) was not there, or was invalid itself, or the two
--   disagree on the root;
-- - it violates the thread gate when its author is not the root's, the gate lists who may reply, and he is none of them.
-- A quote violates the post gate of what it quotes when that forbids quoting and the two authors differ.
--
-- Guarantees: a judgement is a function of the events up to the post's own rev, not of their order of arrival. Whatever
-- comes late (parent, root, gate, follow, list item, or the deletion of one) leads to the posts that it concerns, and
-- they are judged again, with all that hangs on them. Of two writers one judges after the other has committed (`lock`),
-- so that neither can miss what the other brings.

-- :stage
CREATE TEMPORARY TABLE post_event (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE concerned (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  live boolean NOT NULL,
  level int NOT NULL,
  since text COLLATE "C" NOT NULL        -- rev of the event; who is older only leads to others
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE judgement (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  creator text NOT NULL,
  root text NOT NULL,
  parent text NOT NULL,
  live boolean NOT NULL,                 -- a row of bsky.post; else one of pipeline.version
  is_new boolean NOT NULL,
  was_invalid boolean,
  was_violating boolean,
  parent_rev text COLLATE "C",           -- of the parent as it was; null: it was not there
  invalid boolean,
  violating boolean NOT NULL DEFAULT false
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE quote_judgement (
  uri text NOT NULL,
  violating boolean NOT NULL
) ON COMMIT DELETE ROWS;

-- Taken by every batch with records, after it has written what its own repositories bring and before it looks at, or writes
-- to, what other repositories bring: judgements, counters, notifications, feed items of deleted posts. Until its commit.
-- :lock
SELECT pg_advisory_xact_lock(hashtext('appview-pipeline: judging'));

-- Every event of a post in this batch.
-- :events
INSERT INTO post_event (uri, rev)
SELECT uri, rev FROM stage_post
UNION
SELECT uri, rev FROM new_version WHERE collection = 'app.bsky.feed.post';

-- Events of other records that earlier replies name as their parent or root. Such replies are rare, and a stream in order
-- has none that is newer than what it brings: then nothing is looked up.
-- :events_of_others
INSERT INTO post_event (uri, rev)
SELECT e.uri, e.rev
FROM (
  SELECT uri, rev FROM stage_write WHERE collection <> 'app.bsky.feed.post'
  UNION
  SELECT uri, rev FROM new_version WHERE collection <> 'app.bsky.feed.post'
) e
CROSS JOIN LATERAL (
  SELECT FROM pipeline.reply_to_other o WHERE o.subject = e.uri AND o.rev >= e.rev LIMIT 1
) named
WHERE EXISTS (
    SELECT
    FROM pipeline.reply_to_other o
    WHERE o.rev >= (SELECT coalesce(min(oldest_rev), '') FROM stage_repo)
  );

-- :collect_new
INSERT INTO judgement (uri, rev, creator, root, parent, live, is_new)
SELECT uri, rev, creator, reply_root, reply_parent, true, true
FROM stage_post
WHERE reply_parent IS NOT NULL
UNION ALL
SELECT v.uri, v.rev, split_part(v.uri, '/', 3), v.root, v.parent, false, true
FROM new_version n
CROSS JOIN LATERAL (
  SELECT * FROM pipeline.version v WHERE v.uri = n.uri AND v.rev = n.rev OFFSET 0
) v
WHERE v.parent IS NOT NULL AND v.invalid IS NULL;

-- Replies that came before what this batch brings. Only posts whose rev is not older than an event's can be concerned by it.
-- (`OFFSET 0` keeps the planner from turning a look-up into a scan of a large table: it can't guess how few rows ask.)

-- Below the batch's posts, to any depth: `concerned_next` is repeated until it finds nothing. Four levels down also past
-- replies that are older than the event: they are not concerned, but whoever answers them later tells those above.
-- :concerned_below
INSERT INTO concerned (uri, rev, live, level, since)
SELECT DISTINCT c.uri, c.rev, c.live, 1, e.rev
FROM post_event e
CROSS JOIN LATERAL pipeline.replies_to(e.uri) c;

-- :concerned_next
INSERT INTO concerned (uri, rev, live, level, since)
SELECT DISTINCT c.uri, c.rev, c.live, b.level + 1, b.since
FROM concerned b
CROSS JOIN LATERAL pipeline.replies_to(b.uri) c
WHERE b.level = (SELECT max(level) FROM concerned)
  AND (b.rev >= b.since OR b.level < 4)
  AND NOT EXISTS (SELECT FROM concerned k WHERE k.uri = c.uri AND k.rev = c.rev AND k.since <= b.since);

-- In the threads of the batch's gates, and of its posts, whose mentions a gate may ask for.
-- :concerned_in_thread
WITH event (post_uri, rev) AS (
  SELECT g.post_uri, w.rev
  FROM stage_threadgate g
  JOIN stage_write w USING (uri)
  UNION
  SELECT 'at://' || did || '/app.bsky.feed.post/' || split_part(uri, '/', 5), rev
  FROM new_version
  WHERE collection = 'app.bsky.feed.threadgate'
  UNION
  SELECT uri, rev FROM post_event
)
INSERT INTO concerned (uri, rev, live, level, since)
SELECT DISTINCT c.uri, c.rev, true, 0, e.rev
FROM event e
CROSS JOIN LATERAL (
  SELECT p.uri, r.rev
  FROM bsky.post p
  JOIN bsky.record r USING (uri)
  WHERE p."replyRoot" = e.post_uri AND r.rev >= e.rev
  OFFSET 0
) c;

-- By its follows and list items, its own and those that end with it.
-- :concerned_by_facts
WITH event (fact, rev) AS (
  SELECT creator || ' ' || subject_did, rev FROM stage_follow
  UNION
  SELECT list_uri || ' ' || subject_did, rev FROM stage_listitem
  UNION
  SELECT v.fact, v.rev
  FROM new_version n
  CROSS JOIN LATERAL (
    SELECT v.fact, v.rev FROM pipeline.version v WHERE v.uri = n.uri AND v.rev = n.rev OFFSET 0
  ) v
  WHERE v.fact IS NOT NULL
)
INSERT INTO concerned (uri, rev, live, level, since)
SELECT DISTINCT c.uri, c.rev, true, 0, e.rev
FROM event e
CROSS JOIN LATERAL (
  SELECT r.uri, r.rev
  FROM pipeline.dependency d
  JOIN bsky.record r USING (uri)
  WHERE d.fact = e.fact AND r.rev >= e.rev
  OFFSET 0
) c;

-- :collect_concerned
INSERT INTO judgement (uri, rev, creator, root, parent, live, is_new, was_invalid, was_violating)
SELECT c.uri, c.rev, split_part(c.uri, '/', 3), p.root, p.parent, c.live, false, p.invalid, p.violating
FROM (
  SELECT DISTINCT uri, rev, live
  FROM concerned c
  WHERE rev >= since AND NOT EXISTS (SELECT FROM judgement j WHERE j.uri = c.uri AND j.rev = c.rev)
) c
CROSS JOIN LATERAL (
  SELECT "replyRoot" AS root, "replyParent" AS parent, "invalidReplyRoot" AS invalid, "violatesThreadGate" AS violating
  FROM bsky.post
  WHERE c.live AND uri = c.uri AND "replyParent" IS NOT NULL
  UNION ALL
  SELECT root, parent, invalid, NULL
  FROM pipeline.version
  WHERE NOT c.live AND uri = c.uri AND rev = c.rev AND parent IS NOT NULL
  OFFSET 0
) p;

-- Parents first, level by level. What no level reaches (posts of one commit that answer each other) stays invalid.
-- :judge_roots
WITH RECURSIVE parented AS MATERIALIZED (
  SELECT j.uri, j.rev, j.root, j.parent, p.rev AS parent_rev, p.root AS parent_root, p.parent AS parent_parent,
    p.invalid AS parent_invalid
  FROM judgement j
  LEFT JOIN LATERAL pipeline.parent_as_of(j.parent, j.rev) p ON true
), of_others AS (
  INSERT INTO pipeline.reply_to_other (subject, uri, rev)
  SELECT DISTINCT s.subject, j.uri, j.rev
  FROM judgement j
  CROSS JOIN LATERAL (VALUES (j.parent), (j.root)) s (subject)
  WHERE split_part(s.subject, '/', 4) <> 'app.bsky.feed.post'
  ORDER BY s.subject, j.uri, j.rev
  ON CONFLICT DO NOTHING
), judged (uri, rev, invalid) AS (
  SELECT c.uri, c.rev,
    c.parent_rev IS NULL
    OR c.parent_invalid IS TRUE
    OR CASE
      WHEN c.parent = c.root THEN c.parent_parent IS NOT NULL
      ELSE c.parent_root IS DISTINCT FROM c.root
    END
  FROM parented c
  WHERE NOT EXISTS (SELECT FROM judgement j WHERE j.uri = c.parent AND j.rev = c.parent_rev)
  UNION ALL
  SELECT c.uri, c.rev,
    j.invalid
    OR CASE
      WHEN c.parent = c.root THEN c.parent_parent IS NOT NULL
      ELSE c.parent_root IS DISTINCT FROM c.root
    END
  FROM judged j
  JOIN parented c ON c.parent = j.uri AND c.parent_rev = j.rev
)
UPDATE judgement t SET parent_rev = c.parent_rev, invalid = coalesce(j.invalid, true)
FROM parented c
LEFT JOIN judged j USING (uri, rev)
WHERE t.uri = c.uri AND t.rev = c.rev;

-- :judge_gates
WITH gated AS MATERIALIZED (
  SELECT j.uri, j.rev, j.creator, j.root, split_part(j.root, '/', 3) AS owner, g.record -> 'allow' AS allow
  FROM judgement j
  CROSS JOIN LATERAL pipeline.record_as_of(pipeline.thread_gate_of(j.root), j.rev) g
  WHERE (j.live OR j.is_new) AND split_part(j.root, '/', 3) <> j.creator AND jsonb_typeof(g.record -> 'allow') = 'array'
), depends AS (
  INSERT INTO pipeline.dependency (fact, uri)
  SELECT DISTINCT f.fact, g.uri
  FROM gated g
  CROSS JOIN LATERAL jsonb_array_elements(g.allow) a (rule)
  CROSS JOIN LATERAL (
    SELECT CASE rule ->> '$type'
      WHEN 'app.bsky.feed.threadgate#followerRule' THEN g.creator || ' ' || g.owner
      WHEN 'app.bsky.feed.threadgate#followingRule' THEN g.owner || ' ' || g.creator
      WHEN 'app.bsky.feed.threadgate#listRule' THEN (rule ->> 'list') || ' ' || g.creator
    END AS fact
  ) f
  WHERE f.fact IS NOT NULL
  ORDER BY f.fact, g.uri
  ON CONFLICT DO NOTHING
)
UPDATE judgement t SET violating = true
FROM gated g
WHERE t.uri = g.uri AND t.rev = g.rev
  AND NOT EXISTS (
    SELECT
    FROM jsonb_array_elements(g.allow) a (rule)
    WHERE CASE rule ->> '$type'
      WHEN 'app.bsky.feed.threadgate#mentionRule' THEN
        EXISTS (
          SELECT
          FROM pipeline.post_as_of(g.root, g.rev) root
          CROSS JOIN LATERAL jsonb_array_elements_text(
            coalesce(root.mentions, (
              SELECT jsonb_path_query_array(
                r.json::jsonb, '$.facets[*].features[*] ? (@."$type" == "app.bsky.richtext.facet#mention").did')
              FROM bsky.record r
              WHERE r.uri = g.root
            ))) mention
          WHERE mention = g.creator
        )
      WHEN 'app.bsky.feed.threadgate#followerRule' THEN pipeline.follows_as_of(g.creator, g.owner, g.rev)
      WHEN 'app.bsky.feed.threadgate#followingRule' THEN pipeline.follows_as_of(g.owner, g.creator, g.rev)
      WHEN 'app.bsky.feed.threadgate#listRule' THEN pipeline.listed_as_of(rule ->> 'list', g.creator, g.rev)
      ELSE false
    END
  );

-- As the reference has it: both flags are set, or neither. Counts the reply with its parent, or no longer.
-- :flag
WITH flagged AS (
  UPDATE bsky.post p SET
    "invalidReplyRoot" = CASE WHEN j.invalid OR j.violating THEN j.invalid END,
    "violatesThreadGate" = CASE WHEN j.invalid OR j.violating THEN j.violating END
  FROM judgement j
  WHERE j.live AND p.uri = j.uri
    AND p.uri = ANY (ARRAY(
      SELECT uri FROM judgement
      WHERE live AND (is_new IS FALSE OR invalid OR violating)
    ))
    AND (
      p."invalidReplyRoot" IS DISTINCT FROM CASE WHEN j.invalid OR j.violating THEN j.invalid END
      OR p."violatesThreadGate" IS DISTINCT FROM CASE WHEN j.invalid OR j.violating THEN j.violating END
    )
), remembered AS (
  UPDATE pipeline.version v SET invalid = j.invalid
  FROM judgement j
  WHERE NOT j.live AND v.uri = j.uri AND v.rev = j.rev AND v.invalid IS DISTINCT FROM j.invalid
    AND v.uri = ANY (ARRAY(SELECT uri FROM judgement WHERE NOT live))
)
INSERT INTO delta_post (uri, replies)
SELECT parent,
  CASE WHEN violating THEN 0 ELSE 1 END - CASE WHEN is_new OR was_violating IS TRUE THEN 0 ELSE 1 END
FROM judgement
WHERE live AND violating IS DISTINCT FROM (is_new OR was_violating IS TRUE);

-- What is not there is missed: it can be fetched, and until it is there the judgement is not final.
-- :pend
WITH missed AS (
  INSERT INTO pipeline.pending (uri, kind, missing)
  SELECT j.uri, 'reply', j.parent
  FROM judgement j
  WHERE j.live AND j.parent_rev IS NULL
    AND (SELECT true FROM bsky.record r WHERE r.uri = j.parent) IS NULL
    AND (SELECT true FROM pipeline.version v WHERE v.uri = j.parent LIMIT 1) IS NULL
  ORDER BY j.uri
  ON CONFLICT DO NOTHING
)
DELETE FROM pipeline.pending d
USING judgement j
WHERE d.uri = j.uri AND d.uri = ANY (ARRAY(SELECT uri FROM judgement)) AND d.kind = 'reply'
  AND (NOT j.live OR j.parent_rev IS NOT NULL OR d.missing <> j.parent);

-- Quotes of the batch, and those that a post gate of the batch concerns: by what they embed, for bsky.quote forgets a quote
-- when the quoted post goes, which changes nothing of whether it was allowed.
-- :judge_quotes
WITH gate_event (post_uri, rev) AS (
  SELECT g.post_uri, s.rev
  FROM stage_postgate g
  JOIN stage_write s USING (uri)
  UNION
  SELECT 'at://' || did || '/app.bsky.feed.post/' || split_part(uri, '/', 5), rev
  FROM new_version
  WHERE collection = 'app.bsky.feed.postgate'
), quoting (uri, rev, creator, subject) AS (
  SELECT p.uri, p.rev, p.creator, e.embed_uri
  FROM stage_post_record e
  JOIN stage_post p ON p.uri = e.post_uri
  WHERE e.is_quote
  UNION
  SELECT r.uri, r.rev, r.did, g.post_uri
  FROM gate_event g
  CROSS JOIN LATERAL (
    SELECT e."postUri" AS uri FROM bsky.post_embed_record e WHERE e."embedUri" = g.post_uri OFFSET 0
  ) e
  CROSS JOIN LATERAL (SELECT r.uri, r.rev, r.did FROM bsky.record r WHERE r.uri = e.uri AND r.rev >= g.rev OFFSET 0) r
), judged AS (
  SELECT q.uri, coalesce(
    q.creator <> split_part(q.subject, '/', 3)
    AND g.record -> 'embeddingRules' @> '[{"$type": "app.bsky.feed.postgate#disableRule"}]', false) AS violating
  FROM quoting q
  LEFT JOIN LATERAL pipeline.record_as_of(
    'at://' || split_part(q.subject, '/', 3) || '/app.bsky.feed.postgate/' || split_part(q.subject, '/', 5), q.rev
  ) g ON true
), noted AS (
  INSERT INTO quote_judgement (uri, violating)
  SELECT uri, violating FROM judged
)
UPDATE bsky.post p SET "violatesEmbeddingRules" = CASE WHEN j.violating THEN true END
FROM judged j
WHERE p.uri = j.uri
  AND p.uri = ANY (ARRAY(SELECT uri FROM judged))
  AND p."violatesEmbeddingRules" IS DISTINCT FROM CASE WHEN j.violating THEN true END;
