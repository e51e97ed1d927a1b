-- Past states that the reference has not kept, as far as what it has decided tells of them: pipeline.version and
-- pipeline.tombstone.
--
-- Posts are evaluated by what existed at their own rev (docs/architecture.md). The reference evaluates them once, and
-- keeps nothing of what has been deleted since. A valid reply says that its parent existed, and where in the thread it
-- was. A reply that a gate turned away says that there was a gate. A quote or repost that is in no list or feed says
-- that its post was deleted after it. So evaluating again comes to the same, now and in every later rerun.
--
-- Guarantees: each statement may be repeated. What records say today stays.
--
-- Placeholders (store/placeholders.py): {nsid.NAME} is the NSID of a collection.

-- What is noted of a post follows from all replies to it, wherever these are. So a session notes each post once, and
-- looks through its replies once, however many parts have some of them.

-- :prepare
-- The posts that the session has noted; kept while it lives. Another session, or one that goes on, may note them once
-- more, which changes nothing.
CREATE TEMPORARY TABLE IF NOT EXISTS noted_post (uri text PRIMARY KEY);

-- :next
-- Returns the URI up to which the next %(limit)s posts after %(after)s reach; null: to the end.
SELECT uri FROM bsky.post WHERE uri > %(after)s ORDER BY uri OFFSET %(limit)s LIMIT 1;

-- :stage
-- Lists what the posts after %(after)s up to %(until)s (null: to the end) tell of posts that are gone: parents of valid
-- replies, quoted posts without a quote, roots of replies by whose mentions a gate decides. And of posts that have been
-- edited since: parents whose present state is later than a valid reply to them.
-- - told: the posts; gone: those that are gone, and those that were edited.
CREATE TEMPORARY TABLE gone_post ON COMMIT DROP AS
WITH told AS MATERIALIZED (
  SELECT p."replyParent" AS uri
  FROM bsky.post p
  WHERE p.uri > %(after)s AND (%(until)s::text IS NULL OR p.uri <= %(until)s)
    AND p."replyParent" IS NOT NULL AND p."invalidReplyRoot" IS NOT TRUE
  UNION
  SELECT p."replyRoot"
  FROM bsky.post p
  WHERE p.uri > %(after)s AND (%(until)s::text IS NULL OR p.uri <= %(until)s)
    AND p."replyRoot" IS NOT NULL AND p."invalidReplyRoot" IS NOT TRUE
  UNION
  SELECT e."embedUri"
  FROM bsky.post_embed_record e
  WHERE e."postUri" > %(after)s AND (%(until)s::text IS NULL OR e."postUri" <= %(until)s)
    AND NOT EXISTS (SELECT FROM bsky.quote q WHERE q.uri = e."postUri")
), gone AS (
  SELECT t.uri, true AS is_gone
  FROM told t
  WHERE NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = t.uri)
  UNION
  SELECT p."replyParent", false
  FROM bsky.post p
  JOIN bsky.record r ON r.uri = p."replyParent"
  WHERE p.uri > %(after)s AND (%(until)s::text IS NULL OR p.uri <= %(until)s)
    AND p."invalidReplyRoot" IS NOT TRUE AND r.rev > p.rev
)
SELECT g.uri,
  split_part(g.uri, '/', 5) AS rkey,
  g.is_gone,
  g.is_gone AND EXISTS (SELECT FROM bsky.actor a WHERE a.did = split_part(g.uri, '/', 3)) AS is_deleted
FROM gone g
WHERE split_part(g.uri, '/', 4) = '{nsid.post}' AND split_part(g.uri, '/', 5) <> ''
  AND (SELECT true FROM noted_post n WHERE n.uri = g.uri) IS NULL;

-- :stage_reposts
-- Lists the posts that reposts after %(after)s up to %(until)s tell of: reposted ones without a feed item.
CREATE TEMPORARY TABLE gone_post ON COMMIT DROP AS
SELECT DISTINCT s.subject AS uri,
  split_part(s.subject, '/', 5) AS rkey,
  true AS is_gone,
  EXISTS (SELECT FROM bsky.actor a WHERE a.did = split_part(s.subject, '/', 3)) AS is_deleted
FROM bsky.repost s
WHERE s.uri > %(after)s AND (%(until)s::text IS NULL OR s.uri <= %(until)s)
  AND split_part(s.subject, '/', 4) = '{nsid.post}'
  AND split_part(s.subject, '/', 5) <> ''
  AND NOT EXISTS (SELECT FROM bsky.feed_item f WHERE f.uri = s.uri)
  AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = s.subject)
  AND (SELECT true FROM noted_post n WHERE n.uri = s.subject) IS NULL;

-- :next_repost
-- Returns the URI up to which the next %(limit)s reposts after %(after)s reach; null: to the end.
SELECT uri FROM bsky.repost WHERE uri > %(after)s ORDER BY uri OFFSET %(limit)s LIMIT 1;

-- :states
-- Notes that these posts existed, from the rev of their key on, and what their valid replies say of their place: the
-- root of a thread, or a reply to it. Where a deletion is known, of a time before the database was given back, they
-- existed again by the first reply after it. Accounts that a root's gate let reply may have been mentioned in it.
INSERT INTO pipeline.version (uri, rev, collection, deleted, root, parent, mentions)
SELECT g.uri,
  CASE
    WHEN d.rev IS NOT NULL THEN v.first_rev
    WHEN g.rkey ~ '^[2-7a-j][2-7a-z]{12}$' AND g.rkey COLLATE "C" <= coalesce(v.first_rev, g.rkey) COLLATE "C"
      THEN g.rkey
    ELSE coalesce(v.first_rev, '2222222222222')
  END,
  '{nsid.post}', false,
  nullif(v.root, g.uri), nullif(v.root, g.uri),
  coalesce(CASE WHEN EXISTS (SELECT FROM bsky.record r WHERE r.uri = pipeline.thread_gate_of(g.uri)) THEN (
    SELECT jsonb_agg(DISTINCT m.creator)
    FROM bsky.post m
    WHERE m."replyRoot" = g.uri AND m."violatesThreadGate" IS NOT TRUE
  ) END, '[]')
FROM gone_post g
CROSS JOIN LATERAL (
  SELECT max(w.rev) AS rev FROM pipeline.version w WHERE w.uri = g.uri AND w.deleted
) d
LEFT JOIN LATERAL (
  SELECT min(p.rev) AS first_rev, min(p."replyRoot") AS root
  FROM bsky.post p
  WHERE p."replyParent" = g.uri AND p."invalidReplyRoot" IS NOT TRUE
    AND (g.is_gone OR p.rev < (SELECT r.rev FROM bsky.record r WHERE r.uri = g.uri))
    AND (d.rev IS NULL OR p.rev > d.rev)
) v ON true
WHERE d.rev IS NULL OR v.first_rev IS NOT NULL
ORDER BY g.uri
ON CONFLICT DO NOTHING;

-- :deletions
-- Notes their deletion, right after the last that tells that they existed. Not of accounts that were deleted as a
-- whole: these have no tombstones, for their records return with them.
-- - gone: the posts and the rev of that.
-- - tombstones: rows in pipeline.tombstone.
WITH gone AS MATERIALIZED (
  SELECT g.uri, pg_temp.tid_after(greatest(
    CASE WHEN g.rkey ~ '^[2-7a-j][2-7a-z]{12}$' THEN g.rkey END COLLATE "C",
    (
      SELECT max(p.rev) FROM bsky.post p
      WHERE p."replyParent" = g.uri AND p."invalidReplyRoot" IS NOT TRUE AND p.rev ~ '^[2-7a-j][2-7a-z]{12}$'
    ) COLLATE "C",
    (
      SELECT max(r.rev)
      FROM bsky.post_embed_record e
      JOIN bsky.record r ON r.uri = e."postUri"
      WHERE e."embedUri" = g.uri AND NOT EXISTS (SELECT FROM bsky.quote q WHERE q.uri = e."postUri")
    ) COLLATE "C",
    (
      SELECT max(r.rev)
      FROM bsky.repost s
      JOIN bsky.record r ON r.uri = s.uri
      WHERE s.subject = g.uri AND NOT EXISTS (SELECT FROM bsky.feed_item f WHERE f.uri = s.uri)
    ) COLLATE "C")) AS rev
  FROM gone_post g
  WHERE g.is_deleted
), tombstones AS (
  INSERT INTO pipeline.tombstone AS t (uri, rev, collection)
  SELECT uri, rev, '{nsid.post}' FROM gone WHERE rev IS NOT NULL ORDER BY uri
  ON CONFLICT (uri) DO UPDATE SET rev = excluded.rev, seq = NULL, deleted_at = now()
  WHERE t.rev < excluded.rev
)
INSERT INTO pipeline.version (uri, rev, collection, deleted)
SELECT uri, rev, '{nsid.post}', true FROM gone WHERE rev IS NOT NULL ORDER BY uri
ON CONFLICT DO NOTHING;

-- :keep_notifications
-- Replies below them keep their notifications: who was above is not known.
-- - below: replies to posts that are gone, and up to three replies further down.
WITH RECURSIVE below (uri, height) AS (
  SELECT p.uri, 1
  FROM gone_post g
  JOIN bsky.post p ON p."replyParent" = g.uri
  WHERE g.is_gone OR p.rev < (SELECT r.rev FROM bsky.record r WHERE r.uri = g.uri)
  UNION
  SELECT p.uri, b.height + 1
  FROM below b
  JOIN bsky.post p ON p."replyParent" = b.uri
  WHERE b.height < 4
)
INSERT INTO pipeline.kept_notification (uri)
SELECT DISTINCT uri FROM below ORDER BY uri
ON CONFLICT DO NOTHING;

-- :noted
-- Notes that the session has noted these posts.
INSERT INTO noted_post (uri) SELECT uri FROM gone_post ON CONFLICT DO NOTHING;

-- :gates
-- The thread gates and post gates of the posts after %(after)s up to %(until)s exist since the event that wrote them,
-- and not since the key that they share with their post.
UPDATE bsky.record r SET rev = g.rev
FROM (
  SELECT o.uri, greatest(split_part(o.uri, '/', 5) COLLATE "C", least(
    pg_temp.tid_of_text(o."indexedAt") COLLATE "C",
    (SELECT s."repoRev" FROM bsky.actor_sync s WHERE s.did = o.did) COLLATE "C")) AS rev
  FROM (
    SELECT uri FROM bsky.thread_gate
    WHERE "postUri" > %(after)s AND (%(until)s::text IS NULL OR "postUri" <= %(until)s)
    UNION ALL
    SELECT uri FROM bsky.post_gate
    WHERE "postUri" > %(after)s AND (%(until)s::text IS NULL OR "postUri" <= %(until)s)
  ) x
  JOIN bsky.record o ON o.uri = x.uri
  WHERE o.rev = split_part(o.uri, '/', 5)
) g
WHERE r.uri = g.uri AND r.rev IS DISTINCT FROM g.rev;

-- :gone_gates
-- Gates that are gone, or were edited, and turned something away or had set a flag before: notes that they existed at
-- those moments.
-- - decided: posts that are turned away by gates that are gone, and the gates; flags that a gate which is gone has set.
-- - gone: the same, once for each gate and moment.
WITH decided AS MATERIALIZED (
  SELECT pipeline.thread_gate_of(p."replyRoot") AS uri, p."replyRoot" AS post, p.rev, '{nsid.threadgate}' AS collection
  FROM bsky.post p
  WHERE p.uri > %(after)s AND (%(until)s::text IS NULL OR p.uri <= %(until)s) AND p."violatesThreadGate"
  UNION
  SELECT replace(p.uri, '/{nsid.post}/', '/{nsid.threadgate}/'), p.uri, p.rev, '{nsid.threadgate}'
  FROM bsky.post p
  WHERE p.uri > %(after)s AND (%(until)s::text IS NULL OR p.uri <= %(until)s) AND p."hasThreadGate" IS FALSE
  UNION
  SELECT replace(e."embedUri", '/{nsid.post}/', '/{nsid.postgate}/'), e."embedUri", p.rev, '{nsid.postgate}'
  FROM bsky.post p
  JOIN bsky.post_embed_record e ON e."postUri" = p.uri
  WHERE p.uri > %(after)s AND (%(until)s::text IS NULL OR p.uri <= %(until)s) AND p."violatesEmbeddingRules"
    AND split_part(e."embedUri", '/', 4) = '{nsid.post}'
  UNION
  SELECT replace(p.uri, '/{nsid.post}/', '/{nsid.postgate}/'), p.uri, p.rev, '{nsid.postgate}'
  FROM bsky.post p
  WHERE p.uri > %(after)s AND (%(until)s::text IS NULL OR p.uri <= %(until)s) AND p."hasPostGate" IS FALSE
), gone AS MATERIALIZED (
  SELECT d.*
  FROM decided d
  WHERE d.rev ~ '^[2-7a-j][2-7a-z]{12}$'
    AND split_part(d.uri, '/', 4) = d.collection
    AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = d.uri AND r.rev <= d.rev)
)
INSERT INTO pipeline.version (uri, rev, collection, deleted, record)
SELECT uri, rev, collection, false,
  CASE collection
    WHEN '{nsid.threadgate}' THEN jsonb_build_object('$type', collection, 'post', post, 'allow', '[]'::jsonb)
    ELSE jsonb_build_object(
      '$type', collection, 'post', post,
      'embeddingRules', jsonb_build_array(jsonb_build_object('$type', '{nsid.postgate}#disableRule')))
  END
FROM gone
UNION ALL
SELECT uri, pg_temp.tid_after(rev), collection, true, NULL FROM gone
ON CONFLICT DO NOTHING;
