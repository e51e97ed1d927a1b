-- Notifications of posts: `mention`, `quote`, `reply`. (`subscribed-post`: subscription.sql.)
--
-- A post notifies these accounts, in this order, each once and never its own author:
-- - the accounts that it mentions;
-- - the author of the post that it quotes, unless a post gate forbids the quote;
-- - the authors of the four posts above it in its thread, nearest first. None, if its thread gate turns it away; and
--   none above a reply that the gate hides.
--
-- Guarantees: the notifications are a function of the events up to the post's own rev; where a late event changes them,
-- superfluous ones are withdrawn and missing ones added.

-- :stage
-- Posts whose notifications are derived.
CREATE TEMPORARY TABLE notifying_post (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  root text,
  parent text,
  sort_at text NOT NULL,
  is_new boolean NOT NULL,               -- staged in this batch
  is_first boolean NOT NULL,             -- the post's first state, which the batch itself supersedes
  refused boolean NOT NULL,              -- turned away by the thread gate: nobody above is notified
  quiet boolean                          -- true: this state of it notifies nobody
) ON COMMIT DELETE ROWS;

-- The recipients of a post in its first state: subscribers among them are not notified twice.
CREATE TEMPORARY TABLE first_notified (
  uri text NOT NULL,
  did text NOT NULL
) ON COMMIT DELETE ROWS;

-- :collect
-- Lists these posts: staged posts, first states of posts that the batch itself supersedes, and all posts that were
-- evaluated or are affected.
-- - gone: posts that the batch deletes in between.
-- - first: the first state of posts that the batch supersedes, after the last such deletion.
-- - affected_again: evaluated and affected posts that are not staged.
-- - noted: those of them that notify nobody.
WITH gone AS MATERIALIZED (
  SELECT uri, max(rev) AS rev FROM stage_superseded WHERE action = 'delete' GROUP BY uri
), first AS MATERIALIZED (
  SELECT DISTINCT ON (x.uri) x.uri, x.rev, x.cid, x.quiet, least(x.created_at, x.indexed_at) AS sort_at
  FROM stage_superseded x
  LEFT JOIN gone d USING (uri)
  WHERE x.collection = '{nsid.post}' AND x.action <> 'delete'
    AND (d.rev IS NULL OR d.rev <= x.rev)
    AND NOT EXISTS (SELECT FROM touched c WHERE c.uri = x.uri AND c.change = 'updated')
  ORDER BY x.uri, x.rev
), affected_again AS MATERIALIZED (
  SELECT p.*, r.quiet
  FROM (
    SELECT uri FROM evaluation WHERE live
    UNION
    SELECT uri FROM quote_evaluation
    UNION
    SELECT uri FROM affected WHERE live
    EXCEPT
    SELECT uri FROM stage_post
  ) a
  CROSS JOIN LATERAL (
    SELECT p.uri, p.cid, p.creator, p.rev, p."replyRoot" AS root, p."replyParent" AS parent, p."sortAt" AS sort_at,
      p."violatesThreadGate" IS TRUE AS refused
    FROM bsky.post p
    WHERE p.uri = a.uri
    OFFSET 0
  ) p
  CROSS JOIN LATERAL (SELECT r.quiet FROM bsky.record r WHERE r.uri = a.uri OFFSET 0) r
), noted AS (
  INSERT INTO quiet_record (uri)
  SELECT uri FROM affected_again WHERE quiet
)
INSERT INTO notifying_post (uri, cid, creator, rev, root, parent, sort_at, is_new, is_first, refused, quiet)
SELECT p.uri, p.cid, p.creator, s.rev, p."replyRoot", p."replyParent", p."sortAt", true, false,
  p."violatesThreadGate" IS TRUE, s.uri IN (SELECT uri FROM quiet_record)
FROM stage_post s
CROSS JOIN LATERAL (SELECT * FROM bsky.post p WHERE p.uri = s.uri OFFSET 0) p
UNION ALL
SELECT f.uri, f.cid, s.creator, f.rev, v.root, v.parent, f.sort_at, true, true,
  EXISTS (SELECT FROM evaluation e WHERE e.uri = f.uri AND e.rev = f.rev AND e.violating), f.quiet
FROM first f
JOIN stage_post s USING (uri)
CROSS JOIN LATERAL (SELECT root, parent FROM pipeline.version WHERE uri = f.uri AND rev = f.rev OFFSET 0) v
UNION ALL
SELECT uri, cid, creator, rev, root, parent, sort_at, false, false, refused, quiet
FROM affected_again;

-- :notify
-- Derives mentions, quotes and replies.
-- - above: the up to four posts above each post, as of its rev.
-- - gate: the state of the thread gate as of its rev.
-- - hidden: the replies that these gates hide.
-- - highest: how far up the thread a post notifies, where it stands below a hidden reply.
-- - first_quote: quotes of first states, as their records say, that no post gate forbids.
-- - recipient: the accounts by reason, ranked in the order that the head of this file gives.
-- - superseded: recipients of first states, kept in first_notified.
WITH RECURSIVE above (uri, rev, ancestor, next, height) AS (
  SELECT t.uri, t.rev, t.parent, p.parent, 1
  FROM notifying_post t
  CROSS JOIN LATERAL pipeline.post_as_of(t.parent, t.rev) p
  WHERE t.parent IS NOT NULL AND NOT t.refused
  UNION ALL
  SELECT a.uri, a.rev, a.next, p.parent, a.height + 1
  FROM above a
  CROSS JOIN LATERAL pipeline.post_as_of(a.next, a.rev) p
  WHERE a.height < 4 AND a.next IS NOT NULL
), gate AS MATERIALIZED (
  SELECT t.uri, t.rev, u.gate_uri, g.rev AS gate_rev, g.is_current
  FROM notifying_post t
  CROSS JOIN LATERAL (
    SELECT pipeline.thread_gate_of(t.root) AS gate_uri
  ) u
  CROSS JOIN LATERAL pipeline.state_as_of(u.gate_uri, t.rev) g
  WHERE t.parent IS NOT NULL AND NOT t.refused
), hidden AS MATERIALIZED (
  SELECT DISTINCT g.gate_uri, g.gate_rev, h.reply
  FROM (SELECT DISTINCT gate_uri, gate_rev, is_current FROM gate) g
  CROSS JOIN LATERAL (
    SELECT r.record -> 'hiddenReplies' AS replies
    FROM pipeline.record_at(g.gate_uri, g.gate_rev, g.is_current) r
    OFFSET 0
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
  FROM notifying_post t
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
), recipient (uri, rev, rank, height, did, reason, subject) AS (
  SELECT t.uri, t.rev, 1, 0, m.did, 'mention', NULL
  FROM stage_post_mention m
  JOIN notifying_post t ON t.uri = m.post_uri AND NOT t.is_first
  UNION ALL
  SELECT t.uri, t.rev, 1, 0, m.did, 'mention', NULL
  FROM notifying_post t
  CROSS JOIN LATERAL (SELECT r.json FROM bsky.record r WHERE NOT t.is_new AND r.uri = t.uri OFFSET 0) r
  CROSS JOIN LATERAL jsonb_array_elements_text(
    jsonb_path_query_array(
      r.json::jsonb, '$.facets[*].features[*] ? (@."$type" == "app.bsky.richtext.facet#mention").did')) m (did)
  WHERE NOT t.is_new
  UNION ALL
  SELECT t.uri, t.rev, 1, 0, m.did, 'mention', NULL
  FROM notifying_post t
  CROSS JOIN LATERAL (
    SELECT v.mentions FROM pipeline.version v WHERE t.is_first AND v.uri = t.uri AND v.rev = t.rev OFFSET 0
  ) v
  CROSS JOIN LATERAL jsonb_array_elements_text(v.mentions) m (did)
  WHERE t.is_first
  UNION ALL
  -- Read from the embed: bsky.quote forgets a quote when the quoted post is deleted, but its notification stays.
  SELECT t.uri, t.rev, 2, 0, split_part(q.subject, '/', 3), 'quote', q.subject
  FROM notifying_post t
  CROSS JOIN LATERAL (
    SELECT e."embedUri" AS subject
    FROM bsky.post_embed_record e
    WHERE e."postUri" = t.uri AND split_part(e."embedUri", '/', 4) = '{nsid.post}'
    OFFSET 0
  ) q
  WHERE NOT t.is_first
    AND NOT EXISTS (SELECT FROM quote_evaluation v WHERE v.uri = t.uri AND v.violating)
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
  INSERT INTO first_notified (uri, did)
  SELECT n.uri, n.did
  FROM recipient n
  JOIN notifying_post t USING (uri, rev)
  WHERE t.is_first
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT DISTINCT ON (t.uri, n.did) n.did, t.uri, t.cid, t.creator, n.reason, n.subject, t.sort_at
FROM recipient n
JOIN notifying_post t USING (uri, rev)
WHERE n.did <> t.creator AND NOT t.is_first
ORDER BY t.uri, n.did, n.rank, n.height;
