-- Notifications of posts: `mention`, `quote`, `reply`, `subscribed-post`.
--
-- Who is told of a post, in this order, each account once and never the author himself: whom it mentions; whom it quotes,
-- unless a post gate forbids the quote; who wrote the four posts above it in its thread, nearest first, unless its thread
-- gate turns it away, and not above a reply that the gate hides; who subscribed to its author, unless he allows that to
-- nobody (or only to followers, or mutuals).
--
-- Guarantees: the first three are a function of the events up to the post's own rev; where a late event changes them,
-- what is superfluous is withdrawn and what is missing told. Subscribers are told by a post's first appearance only.

-- :stage
CREATE TEMPORARY TABLE telling (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  root text,
  parent text,
  sort_at text NOT NULL,
  is_new boolean NOT NULL,               -- staged in this batch
  silent boolean NOT NULL                -- turned away by the thread gate: nobody above is told
) ON COMMIT DELETE ROWS;

-- :collect
INSERT INTO telling (uri, cid, creator, rev, root, parent, sort_at, is_new, silent)
SELECT p.uri, p.cid, p.creator, s.rev, p."replyRoot", p."replyParent", p."sortAt", true,
  p."violatesThreadGate" IS TRUE
FROM stage_post s
JOIN bsky.post p USING (uri)
UNION ALL
SELECT p.uri, p.cid, p.creator, r.rev, p."replyRoot", p."replyParent", p."sortAt", false,
  p."violatesThreadGate" IS TRUE
FROM (
  SELECT uri FROM judgement WHERE live
  UNION
  SELECT uri FROM quote_judgement
  UNION
  SELECT uri FROM concerned WHERE live AND rev >= since
) again
JOIN bsky.post p USING (uri)
JOIN bsky.record r USING (uri)
WHERE NOT EXISTS (SELECT FROM stage_post s WHERE s.uri = p.uri);

-- :tell
WITH RECURSIVE hidden AS MATERIALIZED (
  SELECT t.uri, g.record -> 'hiddenReplies' AS replies
  FROM telling t
  CROSS JOIN LATERAL pipeline.record_as_of(
    'at://' || split_part(t.root, '/', 3) || '/app.bsky.feed.threadgate/' || split_part(t.root, '/', 5), t.rev) g
  WHERE t.parent IS NOT NULL AND NOT t.silent AND jsonb_typeof(g.record -> 'hiddenReplies') = 'array'
), above (uri, rev, ancestor, next, height) AS (
  SELECT t.uri, t.rev, t.parent, p.parent, 1
  FROM telling t
  CROSS JOIN LATERAL pipeline.post_as_of(t.parent, t.rev) p
  WHERE t.parent IS NOT NULL AND NOT t.silent
  UNION ALL
  SELECT a.uri, a.rev, a.next, p.parent, a.height + 1
  FROM above a
  CROSS JOIN LATERAL pipeline.post_as_of(a.next, a.rev) p
  WHERE a.height < 4
    AND a.next IS NOT NULL
    AND NOT EXISTS (SELECT FROM hidden h WHERE h.uri = a.uri AND h.replies ? a.ancestor)
), told (uri, rank, height, did, reason, subject) AS (
  SELECT m.post_uri, 1, 0, m.did, 'mention', NULL
  FROM stage_post_mention m
  UNION ALL
  SELECT t.uri, 1, 0, m.did, 'mention', NULL
  FROM telling t
  CROSS JOIN LATERAL (SELECT r.json FROM bsky.record r WHERE NOT t.is_new AND r.uri = t.uri OFFSET 0) r
  CROSS JOIN LATERAL jsonb_array_elements_text(
    jsonb_path_query_array(
      r.json::jsonb, '$.facets[*].features[*] ? (@."$type" == "app.bsky.richtext.facet#mention").did')) m (did)
  WHERE NOT t.is_new
  UNION ALL
  -- From the embed: its row in bsky.quote goes when the quoted post does, which changes nothing here.
  SELECT t.uri, 2, 0, split_part(q.subject, '/', 3), 'quote', q.subject
  FROM telling t
  CROSS JOIN LATERAL (
    SELECT e."embedUri" AS subject
    FROM bsky.post_embed_record e
    WHERE e."postUri" = t.uri AND split_part(e."embedUri", '/', 4) = 'app.bsky.feed.post'
    OFFSET 0
  ) q
  WHERE NOT EXISTS (SELECT FROM quote_judgement j WHERE j.uri = t.uri AND j.violating)
    AND (t.is_new OR NOT EXISTS (
      SELECT FROM bsky.post p WHERE p.uri = t.uri AND p."violatesEmbeddingRules"))
  UNION ALL
  SELECT a.uri, 3, a.height, split_part(a.ancestor, '/', 3), 'reply', a.ancestor
  FROM above a
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT DISTINCT ON (t.uri, n.did) n.did, t.uri, t.cid, t.creator, n.reason, n.subject, t.sort_at
FROM told n
JOIN telling t USING (uri)
WHERE n.did <> t.creator
ORDER BY t.uri, n.did, n.rank, n.height;

-- Whose subscription waits for a follow to arrive is noted with the post.
-- :subscribers
WITH asked AS MATERIALIZED (
  SELECT t.uri, coalesce(f.cid, t.cid) AS cid, t.creator, t.rev, coalesce(f.sort_at, t.sort_at) AS sort_at, t.is_new,
    s.creator AS did, allowed.to_whom, s.creator || ' ' || t.creator AS fact
  FROM telling t
  -- The state in which the post first appeared, where the batch supersedes that.
  LEFT JOIN LATERAL (
    SELECT x.cid, least(x.created_at, x.indexed_at) AS sort_at
    FROM stage_superseded x
    WHERE x.uri = t.uri AND x.action <> 'delete'
    ORDER BY x.rev
    LIMIT 1
  ) f ON true
  CROSS JOIN LATERAL (
    SELECT a.creator, a.post, a.reply FROM bsky.activity_subscription a WHERE a."subjectDid" = t.creator OFFSET 0
  ) s
  LEFT JOIN LATERAL pipeline.record_as_of(
    'at://' || t.creator || '/app.bsky.notification.declaration/self', t.rev) d ON true
  CROSS JOIN LATERAL (SELECT coalesce(d.record ->> 'allowSubscriptions', 'followers') AS to_whom) allowed
  WHERE CASE WHEN t.parent IS NULL THEN s.post ELSE s.reply END
    AND s.creator <> t.creator
    AND allowed.to_whom IN ('followers', 'mutuals')
    AND CASE
      WHEN t.is_new THEN NOT EXISTS (SELECT FROM touched c WHERE c.uri = t.uri AND c.change = 'updated')
      ELSE EXISTS (
        SELECT FROM pipeline.dependency d WHERE d.fact = s.creator || ' ' || t.creator AND d.uri = t.uri)
    END
    -- Who is told already is not told twice of one post (unless by an edit, which came after).
    AND (
      NOT EXISTS (SELECT FROM new_notification n WHERE n.did = s.creator AND n.record_uri = t.uri)
      OR EXISTS (SELECT FROM stage_superseded x WHERE x.uri = t.uri AND x.action <> 'delete')
    )
), waiting AS (
  INSERT INTO pipeline.dependency (fact, uri)
  SELECT f.fact, a.uri
  FROM asked a
  CROSS JOIN LATERAL (
    VALUES (a.fact), (CASE WHEN a.to_whom = 'mutuals' THEN a.creator || ' ' || a.did END)
  ) f (fact)
  WHERE a.is_new AND f.fact IS NOT NULL
  ORDER BY f.fact, a.uri
  ON CONFLICT DO NOTHING
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT did, uri, cid, creator, 'subscribed-post', NULL, sort_at
FROM asked
WHERE pipeline.follows_as_of(did, creator, rev)
  AND (to_whom = 'followers' OR pipeline.follows_as_of(creator, did, rev));

-- A like or repost that came before the post it names could not know the thread. Who muted that is told no longer; who
-- muted the post itself, which turns out to be no root, is told now.
-- :muted_threads
WITH muter AS (
  SELECT s.uri, s.creator, coalesce(s.reply_root, s.uri) AS root
  FROM stage_post s
  WHERE s.creator IN (SELECT "mutedByDid" FROM bsky.thread_mute)
), liked AS (
  SELECT m.uri, m.creator, m.root, l.uri AS record_uri, l.cid, l.creator AS author, l.reason, l.sort_at
  FROM muter m
  CROSS JOIN LATERAL (
    SELECT k.uri, k.cid, k.creator, 'like' AS reason, k."sortAt" AS sort_at
    FROM bsky."like" k
    WHERE k.subject = m.uri AND k.creator <> m.creator
    UNION ALL
    SELECT r.uri, r.cid, r.creator, 'repost', r."sortAt"
    FROM bsky.repost r
    WHERE r.subject = m.uri AND r.creator <> m.creator
    OFFSET 0
  ) l
), withdrawn AS (
  DELETE FROM bsky.notification n
  USING liked l
  WHERE n."recordUri" = l.record_uri AND n.did = l.creator AND n.reason = l.reason
    AND EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.root AND t."mutedByDid" = l.creator)
  RETURNING n."recordUri", n.did, n.reason
), silenced AS (
  INSERT INTO pipeline.silenced (record_uri, did, reason)
  SELECT "recordUri", did, reason FROM withdrawn
  ORDER BY "recordUri", did, reason
  ON CONFLICT DO NOTHING
), unsilenced AS (
  DELETE FROM pipeline.silenced s
  USING liked l
  WHERE s.record_uri = l.record_uri AND s.did = l.creator AND s.reason = l.reason
    AND l.root <> l.uri
    AND EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.uri AND t."mutedByDid" = l.creator)
    AND NOT EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.root AND t."mutedByDid" = l.creator)
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT creator, record_uri, cid, author, reason, uri, sort_at
FROM liked l
WHERE l.root <> l.uri
  AND EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.uri AND t."mutedByDid" = l.creator);
