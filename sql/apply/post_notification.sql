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
  is_first boolean NOT NULL,             -- the post as it first appeared, which the batch supersedes
  silent boolean NOT NULL                -- turned away by the thread gate: nobody above is told
) ON COMMIT DELETE ROWS;

-- Who subscribed to the author of a post, and which follows decide on whether to tell.
CREATE TEMPORARY TABLE subscription (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  sort_at text NOT NULL,
  is_new boolean NOT NULL,
  did text NOT NULL,
  follow text NOT NULL,
  follow_back text                       -- null: it is enough that the subscriber follows
) ON COMMIT DELETE ROWS;

-- Whom a post told as it first appeared. Only its subscribers ask: what else it told has been superseded.
CREATE TEMPORARY TABLE first_told (
  uri text NOT NULL,
  did text NOT NULL
) ON COMMIT DELETE ROWS;

-- :collect
WITH gone AS MATERIALIZED (
  SELECT uri, max(rev) AS rev FROM stage_superseded WHERE action = 'delete' GROUP BY uri
), first AS MATERIALIZED (
  SELECT DISTINCT ON (x.uri) x.uri, x.rev, x.cid, least(x.created_at, x.indexed_at) AS sort_at
  FROM stage_superseded x
  LEFT JOIN gone d USING (uri)
  WHERE x.collection = '{nsid.post}' AND x.action <> 'delete'
    AND (d.rev IS NULL OR d.rev <= x.rev)
    AND NOT EXISTS (SELECT FROM touched c WHERE c.uri = x.uri AND c.change = 'updated')
  ORDER BY x.uri, x.rev
)
INSERT INTO telling (uri, cid, creator, rev, root, parent, sort_at, is_new, is_first, silent)
SELECT p.uri, p.cid, p.creator, s.rev, p."replyRoot", p."replyParent", p."sortAt", true, false,
  p."violatesThreadGate" IS TRUE
FROM stage_post s
CROSS JOIN LATERAL (SELECT * FROM bsky.post p WHERE p.uri = s.uri OFFSET 0) p
UNION ALL
SELECT f.uri, f.cid, s.creator, f.rev, v.root, v.parent, f.sort_at, true, true,
  EXISTS (SELECT FROM judgement j WHERE j.uri = f.uri AND j.rev = f.rev AND j.violating)
FROM first f
JOIN stage_post s USING (uri)
CROSS JOIN LATERAL (SELECT root, parent FROM pipeline.version WHERE uri = f.uri AND rev = f.rev OFFSET 0) v
UNION ALL
SELECT p.uri, p.cid, p.creator, p.rev, p."replyRoot", p."replyParent", p."sortAt", false, false,
  p."violatesThreadGate" IS TRUE
FROM (
  SELECT uri FROM judgement WHERE live
  UNION
  SELECT uri FROM quote_judgement
  UNION
  SELECT uri FROM affected WHERE live
  EXCEPT
  SELECT uri FROM stage_post
) again
CROSS JOIN LATERAL (SELECT * FROM bsky.post p WHERE p.uri = again.uri OFFSET 0) p;

-- :tell
WITH RECURSIVE above (uri, rev, ancestor, next, height) AS (
  SELECT t.uri, t.rev, t.parent, p.parent, 1
  FROM telling t
  CROSS JOIN LATERAL pipeline.post_as_of(t.parent, t.rev) p
  WHERE t.parent IS NOT NULL AND NOT t.silent
  UNION ALL
  SELECT a.uri, a.rev, a.next, p.parent, a.height + 1
  FROM above a
  CROSS JOIN LATERAL pipeline.post_as_of(a.next, a.rev) p
  WHERE a.height < 4 AND a.next IS NOT NULL
), gate AS MATERIALIZED (
  SELECT t.uri, t.rev, u.gate_uri, g.rev AS gate_rev, g.is_current
  FROM telling t
  CROSS JOIN LATERAL (
    SELECT pipeline.thread_gate_of(t.root) AS gate_uri
  ) u
  CROSS JOIN LATERAL pipeline.state_as_of(u.gate_uri, t.rev) g
  WHERE t.parent IS NOT NULL AND NOT t.silent
), hidden AS MATERIALIZED (
  SELECT DISTINCT g.gate_uri, g.gate_rev, h.reply
  FROM (SELECT DISTINCT gate_uri, gate_rev, is_current FROM gate) g
  CROSS JOIN LATERAL (
    SELECT r.record -> 'hiddenReplies' AS replies FROM pipeline.record_at(g.gate_uri, g.gate_rev, g.is_current) r OFFSET 0
  ) r
  CROSS JOIN LATERAL jsonb_array_elements_text(
    CASE WHEN jsonb_typeof(r.replies) = 'array' THEN r.replies ELSE '[]' END) h (reply)
), highest AS MATERIALIZED (
  SELECT a.uri, a.rev, min(a.height) AS height
  FROM above a
  JOIN gate g USING (uri, rev)
  JOIN hidden h ON h.gate_uri = g.gate_uri AND h.gate_rev = g.gate_rev AND h.reply = a.ancestor
  GROUP BY a.uri, a.rev
), first_quote AS (
  SELECT t.uri, t.rev, q.subject
  FROM telling t
  JOIN stage_superseded x USING (uri, rev)
  CROSS JOIN LATERAL (
    SELECT CASE e.body ->> '$type'
      WHEN 'app.bsky.embed.record' THEN e.body #>> '{record,uri}'
      WHEN 'app.bsky.embed.recordWithMedia' THEN e.body #>> '{record,record,uri}'
    END AS subject
    FROM (SELECT x.json::jsonb -> 'embed' AS body) e
  ) q
  WHERE t.is_first AND split_part(q.subject, '/', 4) = '{nsid.post}'
    AND (
      split_part(q.subject, '/', 3) = t.creator
      OR NOT EXISTS (
        SELECT
        FROM (
          SELECT 'at://' || split_part(q.subject, '/', 3) || '/{nsid.postgate}/' || split_part(q.subject, '/', 5) AS uri
        ) u
        CROSS JOIN LATERAL pipeline.state_as_of(u.uri, t.rev) g
        CROSS JOIN LATERAL pipeline.record_at(u.uri, g.rev, g.is_current) r
        WHERE r.record -> 'embeddingRules' @> '[{"$type": "{nsid.postgate}#disableRule"}]'))
), told (uri, rev, rank, height, did, reason, subject) AS (
  SELECT t.uri, t.rev, 1, 0, m.did, 'mention', NULL
  FROM stage_post_mention m
  JOIN telling t ON t.uri = m.post_uri AND NOT t.is_first
  UNION ALL
  SELECT t.uri, t.rev, 1, 0, m.did, 'mention', NULL
  FROM telling t
  CROSS JOIN LATERAL (SELECT r.json FROM bsky.record r WHERE NOT t.is_new AND r.uri = t.uri OFFSET 0) r
  CROSS JOIN LATERAL jsonb_array_elements_text(
    jsonb_path_query_array(
      r.json::jsonb, '$.facets[*].features[*] ? (@."$type" == "app.bsky.richtext.facet#mention").did')) m (did)
  WHERE NOT t.is_new
  UNION ALL
  SELECT t.uri, t.rev, 1, 0, m.did, 'mention', NULL
  FROM telling t
  CROSS JOIN LATERAL (
    SELECT v.mentions FROM pipeline.version v WHERE t.is_first AND v.uri = t.uri AND v.rev = t.rev OFFSET 0
  ) v
  CROSS JOIN LATERAL jsonb_array_elements_text(v.mentions) m (did)
  WHERE t.is_first
  UNION ALL
  -- From the embed: its row in bsky.quote goes when the quoted post does, which changes nothing here.
  SELECT t.uri, t.rev, 2, 0, split_part(q.subject, '/', 3), 'quote', q.subject
  FROM telling t
  CROSS JOIN LATERAL (
    SELECT e."embedUri" AS subject
    FROM bsky.post_embed_record e
    WHERE e."postUri" = t.uri AND split_part(e."embedUri", '/', 4) = '{nsid.post}'
    OFFSET 0
  ) q
  WHERE NOT t.is_first
    AND NOT EXISTS (SELECT FROM quote_judgement j WHERE j.uri = t.uri AND j.violating)
    AND (t.is_new OR (SELECT p."violatesEmbeddingRules" FROM bsky.post p WHERE p.uri = t.uri) IS NOT TRUE)
  UNION ALL
  SELECT uri, rev, 2, 0, split_part(subject, '/', 3), 'quote', subject
  FROM first_quote
  UNION ALL
  SELECT a.uri, a.rev, 3, a.height, split_part(a.ancestor, '/', 3), 'reply', a.ancestor
  FROM above a
  LEFT JOIN highest h USING (uri, rev)
  WHERE h.height IS NULL OR a.height <= h.height
), superseded AS (
  INSERT INTO first_told (uri, did)
  SELECT n.uri, n.did
  FROM told n
  JOIN telling t USING (uri, rev)
  WHERE t.is_first
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT DISTINCT ON (t.uri, n.did) n.did, t.uri, t.cid, t.creator, n.reason, n.subject, t.sort_at
FROM told n
JOIN telling t USING (uri, rev)
WHERE n.did <> t.creator AND NOT t.is_first
ORDER BY t.uri, n.did, n.rank, n.height;

-- :subscriptions
-- Whose subscription waits for a follow to arrive is noted with the post.
WITH subscribed AS MATERIALIZED (
  SELECT t.uri, t.rev, t.cid, t.creator, t.sort_at, t.is_new, s.creator AS did
  FROM telling t
  CROSS JOIN LATERAL (
    SELECT a.creator, a.post, a.reply FROM bsky.activity_subscription a WHERE a."subjectDid" = t.creator OFFSET 0
  ) s
  WHERE CASE WHEN t.parent IS NULL THEN s.post ELSE s.reply END
    AND s.creator <> t.creator
    AND CASE
      WHEN t.is_first THEN true
      WHEN t.is_new THEN
        NOT EXISTS (SELECT FROM touched c WHERE c.uri = t.uri AND c.change = 'updated')
        AND NOT EXISTS (SELECT FROM telling f WHERE f.uri = t.uri AND f.is_first)
      ELSE (
        SELECT true FROM pipeline.dependency d WHERE d.fact = s.creator || ' ' || t.creator AND d.uri = t.uri)
    END
    -- Who is told already is not told twice of one post (unless by an edit, which came after).
    AND NOT EXISTS (SELECT FROM first_told n WHERE t.is_first AND n.did = s.creator AND n.uri = t.uri)
    AND NOT EXISTS (
      SELECT FROM new_notification n WHERE NOT t.is_first AND n.did = s.creator AND n.record_uri = t.uri)
), declaration AS MATERIALIZED (
  SELECT s.creator, s.rev, d.rev AS declared, d.is_current
  FROM (SELECT DISTINCT creator, rev FROM subscribed) s
  CROSS JOIN LATERAL pipeline.state_as_of('at://' || s.creator || '/{nsid.notification_declaration}/self', s.rev) d
), allowed AS MATERIALIZED (
  SELECT d.creator, d.declared, r.record ->> 'allowSubscriptions' AS to_whom
  FROM (SELECT DISTINCT creator, declared, is_current FROM declaration) d
  CROSS JOIN LATERAL pipeline.record_at(
    'at://' || d.creator || '/{nsid.notification_declaration}/self', d.declared, d.is_current) r
), asked AS MATERIALIZED (
  SELECT s.*, s.did || ' ' || s.creator AS follow,
    CASE WHEN a.to_whom = 'mutuals' THEN s.creator || ' ' || s.did END AS follow_back
  FROM subscribed s
  LEFT JOIN declaration d ON d.creator = s.creator AND d.rev = s.rev
  LEFT JOIN allowed a ON a.creator = d.creator AND a.declared = d.declared
  WHERE coalesce(a.to_whom, 'followers') IN ('followers', 'mutuals')
), waiting AS (
  INSERT INTO pipeline.dependency (fact, uri)
  SELECT f.fact, a.uri
  FROM asked a
  CROSS JOIN LATERAL (VALUES (a.follow), (a.follow_back)) f (fact)
  WHERE a.is_new AND f.fact IS NOT NULL
  ORDER BY f.fact, a.uri
  ON CONFLICT DO NOTHING
), facts AS (
  INSERT INTO fact_asked (fact, rev)
  SELECT DISTINCT f.fact, a.rev
  FROM asked a
  CROSS JOIN LATERAL (VALUES (a.follow), (a.follow_back)) f (fact)
  WHERE f.fact IS NOT NULL AND NOT EXISTS (SELECT FROM fact_asked k WHERE k.fact = f.fact AND k.rev = a.rev)
)
INSERT INTO subscription (uri, rev, cid, creator, sort_at, is_new, did, follow, follow_back)
SELECT uri, rev, cid, creator, sort_at, is_new, did, follow, follow_back FROM asked;

-- :subscribers
-- Run after `facts` of thread.sql, where there are subscriptions.
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT s.did, s.uri, s.cid, s.creator, 'subscribed-post', NULL, s.sort_at
FROM subscription s
JOIN fact_asked f ON f.fact = s.follow AND f.rev = s.rev AND f.holds
LEFT JOIN fact_asked b ON b.fact = s.follow_back AND b.rev = s.rev
WHERE s.follow_back IS NULL OR b.holds;

-- :muted_threads
-- A like or repost that came before the post it names could not know the thread. Who muted that is told no longer; who
-- muted the post itself, which turns out to be no root, is told now. A like that is older than the post says nothing of
-- its thread, whenever it comes.
WITH muter AS (
  SELECT e.uri, split_part(e.uri, '/', 3) AS creator, min(e.rev) AS rev
  FROM post_event e
  WHERE e.moves AND split_part(e.uri, '/', 3) IN (SELECT "mutedByDid" FROM bsky.thread_mute)
  GROUP BY e.uri
), liked AS (
  SELECT m.uri, m.creator, coalesce(p.root, m.uri) AS root, l.uri AS record_uri, l.cid, l.creator AS author, l.reason,
    l.sort_at
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
  CROSS JOIN LATERAL (SELECT r.rev FROM bsky.record r WHERE r.uri = l.uri AND r.rev >= m.rev OFFSET 0) r
  LEFT JOIN LATERAL pipeline.post_as_of(m.uri, r.rev) p ON true
), withdrawn AS (
  DELETE FROM bsky.notification n
  USING liked l
  WHERE n."recordUri" = l.record_uri AND n.did = l.creator AND n.reason = l.reason AND n."reasonSubject" = l.uri
    AND n."recordUri" = ANY (ARRAY(SELECT record_uri FROM liked))
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
    AND s.record_uri = ANY (ARRAY(SELECT record_uri FROM liked))
    AND l.root <> l.uri
    AND EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.uri AND t."mutedByDid" = l.creator)
    AND NOT EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.root AND t."mutedByDid" = l.creator)
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT creator, record_uri, cid, author, reason, uri, sort_at
FROM liked l
WHERE l.root <> l.uri
  AND EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.uri AND t."mutedByDid" = l.creator);
