-- Fills an empty database with what a network of years leaves behind: rows of every table that the write path touches often,
-- made from numbers, without going through the write path. Parameters are those of prefill.py; sections run in its order.
--
-- Guarantees: the same parameters give the same rows. Every record has the rows that the write path would have given it
-- (table of its collection, feed item, notification, counters). URIs, DIDs, CIDs and record keys have the real length and
-- alphabet and are as random, so that indexes get their real size and shape; all are inserted with the indexes in place, in
-- the order of time. Revs are older than those of the corpus.

-- :functions
CREATE SCHEMA bench;

-- 0 <= u < 1, the same for the same numbers.
CREATE FUNCTION bench.u(i bigint, of bigint) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashint8extended(i, of) & 1125899906842623)::float8 / 1125899906842624;

CREATE FUNCTION bench.base32(bytes bytea, length int) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN substr(translate(lower(encode(bytes, 'base64')), '0189+/', 'axyzbc'), 1, length);

CREATE FUNCTION bench.cid(i bigint, of text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'bafyrei' || bench.base32(sha512(convert_to(of || i, 'UTF8')), 52);

-- Shaped like a TID and in the order of time, but before all that are made today.
CREATE FUNCTION bench.tid(micros bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '3' || translate(lpad(to_hex(micros >> 4), 12, '0'), '0123456789abcdef', '234567abcdefghij');

CREATE FUNCTION bench.iso(micros bigint) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(to_timestamp(micros / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.')
  || lpad((micros / 1000 %% 1000)::text, 3, '0') || 'Z';

-- Zipf's law, its first ranks flattened: one post is not liked by everybody.
CREATE FUNCTION bench.rank(u float8, members float8, flat float8) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(floor(power((members + flat) / flat, u) * flat - flat), members - 1)::bigint;

CREATE FUNCTION bench.micros(i bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN %(begin)s + (i * %(step)s)::bigint;

-- The corpus' own accounts and posts come first: the most active and the most popular. `known_*` is COPYed by prefill.py.
CREATE UNLOGGED TABLE bench.known_account (n bigserial, did text, handle text, rev text, commit_cid text, data_cid text);
CREATE UNLOGGED TABLE bench.known_post (n bigserial, uri text, cid text, creator text, root text, root_cid text);
CREATE UNLOGGED TABLE bench.account (n bigint PRIMARY KEY, did text NOT NULL);
CREATE UNLOGGED TABLE bench.post (
  n bigint PRIMARY KEY, i bigint, did text NOT NULL, rkey text NOT NULL, cid text NOT NULL, micros bigint NOT NULL,
  parent bigint
);

-- :accounts
INSERT INTO bench.account (n, did)
SELECT n - 1, did FROM bench.known_account
UNION ALL
SELECT n, 'did:plc:' || bench.base32(sha256(int8send(n)), 24)
FROM generate_series(%(known_accounts)s, %(accounts)s - 1) n;

-- :posts
-- What record i is: 70 likes, 12 posts, 9 reposts, 8 follows, 1 block in a hundred. Posts are known beforehand, for others
-- to refer to them.
INSERT INTO bench.post (n, i, did, rkey, cid, micros, parent)
SELECT n - 1, NULL, creator, split_part(uri, '/', 5), cid, %(begin)s + n, NULL
FROM bench.known_post
UNION ALL
SELECT p.n, p.i, a.did, bench.tid(p.micros), bench.cid(p.i, 'post'), p.micros,
  CASE
    WHEN bench.u(p.i, 3) >= 0.45 THEN NULL
    WHEN bench.u(p.i, 4) < 0.5 THEN bench.rank(bench.u(p.i, 5), p.n, 100)
    ELSE p.n - 1 - bench.rank(bench.u(p.i, 5), least(p.n, 20000), 200)
  END
FROM (
  SELECT i, %(known_posts)s - 1 + row_number() OVER (ORDER BY i) AS n, bench.micros(i) AS micros
  FROM generate_series(1, %(numbers)s) i
  WHERE bench.u(i, 1) >= 0.70 AND bench.u(i, 1) < 0.82
) p
JOIN bench.account a ON a.n = floor(power(bench.u(p.i, 2), 2) * %(accounts)s)::bigint;
ANALYZE bench.account, bench.post;

-- :chunk
-- Who did what, for the numbers of a chunk. `subject` is a post's, of a follow or block an account's number.
CREATE TEMPORARY TABLE chunk ON COMMIT DROP AS
SELECT c.i, c.kind, a.did, bench.tid(c.micros) AS rkey, bench.iso(c.micros) AS at, c.subject,
  bench.cid(c.i, CASE WHEN c.kind = 'post' THEN 'post' ELSE 'other' END) AS cid
FROM (
  SELECT i, bench.micros(i) AS micros,
    CASE
      WHEN what < 0.70 THEN 'like'
      WHEN what < 0.82 THEN 'post'
      WHEN what < 0.91 THEN 'repost'
      WHEN what < 0.99 THEN 'follow'
      ELSE 'block'
    END AS kind,
    CASE
      WHEN what >= 0.91 THEN bench.rank(bench.u(i, 5), %(accounts)s, 100)
      WHEN bench.u(i, 4) < 0.5 THEN bench.rank(bench.u(i, 5), posts, 100)
      ELSE posts - 1 - bench.rank(bench.u(i, 5), least(posts, 20000), 200)
    END AS subject
  FROM generate_series(%(low)s, %(high)s) i
  -- `posts`: those that there are by then. OFFSET: computed once a row.
  CROSS JOIN LATERAL (
    SELECT bench.u(i, 1) AS what, greatest(
        1, floor(%(known_posts)s + (%(posts)s - %(known_posts)s) * (i / %(numbers)s::float8) * 0.99))::bigint AS posts
    OFFSET 0
  ) so_far
) c
JOIN bench.account a ON a.n = floor(power(bench.u(c.i, 2), 2) * %(accounts)s)::bigint;
CREATE TEMPORARY TABLE done ON COMMIT DROP AS
SELECT c.i, c.kind, c.did, c.rkey, c.at, c.cid, s.did AS subject_did, s.cid AS subject_cid,
  CASE
    WHEN c.kind IN ('follow', 'block') THEN s.did
    ELSE 'at://' || s.did || '/app.bsky.feed.post/' || s.rkey
  END AS subject
FROM chunk c
LEFT JOIN LATERAL (
  SELECT p.did, p.rkey, p.cid FROM bench.post p WHERE p.n = c.subject AND c.kind IN ('like', 'repost')
  UNION ALL
  SELECT f.did, NULL, NULL FROM bench.account f WHERE f.n = c.subject AND c.kind IN ('follow', 'block')
) s ON true;
CREATE TEMPORARY TABLE wrote ON COMMIT DROP AS
SELECT p.n, p.i, 'at://' || p.did || '/app.bsky.feed.post/' || p.rkey AS uri, p.cid, p.did, p.rkey,
  bench.iso(p.micros) AS at, 'at://' || q.did || '/app.bsky.feed.post/' || q.rkey AS parent, q.cid AS parent_cid,
  q.did AS parent_did,
  substr('relay train garden weather honestly somehow probably book paper science music night light quiet reading '
    || 'walking finally tomorrow anyway people time know think really good today new still day make never going back '
    || 'see someone first want need work love thing looks weird morning cat bread rain protocol server coffee',
    1, (6 + 100 * power(bench.u(p.i, 6), 2))::int) AS text
FROM bench.post p
LEFT JOIN bench.post q ON q.n = p.parent
WHERE p.i BETWEEN %(low)s AND %(high)s;

-- :records
INSERT INTO bsky.record (uri, cid, did, json, "indexedAt", rev)
SELECT 'at://' || did || '/' || nsid || '/' || rkey, cid, did,
  '{"$type":"' || nsid || '","subject":' || CASE
    WHEN subject_cid IS NULL THEN '"' || subject || '"'
    ELSE '{"cid":"' || subject_cid || '","uri":"' || subject || '"}'
  END || ',"createdAt":"' || at || '"}', at, rkey
FROM done
JOIN (
  VALUES ('like', 'app.bsky.feed.like'), ('repost', 'app.bsky.feed.repost'), ('follow', 'app.bsky.graph.follow'),
    ('block', 'app.bsky.graph.block')
) names (kind, nsid) USING (kind)
UNION ALL
SELECT uri, cid, did,
  '{"text":"' || text || '","$type":"app.bsky.feed.post","langs":["en"],' || coalesce('"reply":{"root":{"cid":"'
    || parent_cid || '","uri":"' || parent || '"},"parent":{"cid":"' || parent_cid || '","uri":"' || parent || '"}},', '')
    || '"createdAt":"' || at || '"}', at, rkey
FROM wrote
ORDER BY 1
ON CONFLICT DO NOTHING;

-- :likes
INSERT INTO bsky."like" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")
SELECT 'at://' || did || '/app.bsky.feed.like/' || rkey, cid, did, subject, subject_cid, at, at
FROM done
WHERE kind = 'like'
ORDER BY subject, did
ON CONFLICT DO NOTHING;

-- :others
INSERT INTO bsky.repost (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")
SELECT 'at://' || did || '/app.bsky.feed.repost/' || rkey, cid, did, subject, subject_cid, at, at
FROM done
WHERE kind = 'repost'
ORDER BY did, subject
ON CONFLICT DO NOTHING;
INSERT INTO bsky.follow (uri, cid, creator, "subjectDid", "createdAt", "indexedAt")
SELECT 'at://' || did || '/app.bsky.graph.follow/' || rkey, cid, did, subject, at, at
FROM done
WHERE kind = 'follow'
ORDER BY did, subject
ON CONFLICT DO NOTHING;
INSERT INTO bsky.actor_block (uri, cid, creator, "subjectDid", "createdAt", "indexedAt")
SELECT 'at://' || did || '/app.bsky.graph.block/' || rkey, cid, did, subject, at, at
FROM done
WHERE kind = 'block'
ORDER BY did, subject
ON CONFLICT DO NOTHING;
INSERT INTO bsky.post
  (uri, cid, creator, text, "replyRoot", "replyRootCid", "replyParent", "replyParentCid", "createdAt", "indexedAt", langs,
   "invalidReplyRoot", "violatesThreadGate"{rev_column})
SELECT uri, cid, did, text, parent, parent_cid, parent, parent_cid, at, at, '["en"]',
  CASE WHEN parent IS NOT NULL THEN false END, CASE WHEN parent IS NOT NULL THEN false END{rev_of_post}
FROM wrote
ORDER BY uri
ON CONFLICT DO NOTHING;
INSERT INTO bsky.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt")
SELECT 'at://' || did || '/app.bsky.feed.repost/' || rkey, cid, 'repost', subject, did, at FROM done WHERE kind = 'repost'
UNION ALL
SELECT uri, cid, 'post', uri, did, at FROM wrote
ORDER BY 1
ON CONFLICT DO NOTHING;
INSERT INTO bsky.post_embed_image ("postUri", position, "imageCid", alt)
SELECT uri, '0', cid, '' FROM wrote WHERE bench.u(i, 7) < 0.3
ORDER BY uri
ON CONFLICT DO NOTHING;
INSERT INTO bsky.post_embed_external ("postUri", uri, title, description)
SELECT uri, 'https://news.example/' || rkey, 'A title of ordinary length for a link', text
FROM wrote WHERE bench.u(i, 7) >= 0.9
ORDER BY uri
ON CONFLICT DO NOTHING;
INSERT INTO pipeline.tombstone (uri, rev, collection)
SELECT 'at://' || did || '/app.bsky.feed.like/' || rkey || 'x', rkey, 'app.bsky.feed.like' FROM done WHERE bench.u(i, 8) < 0.04
ORDER BY 1
ON CONFLICT DO NOTHING;

-- :notifications
INSERT INTO bsky.notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt")
SELECT subject_did,
  'at://' || did || '/app.bsky.' || CASE kind WHEN 'follow' THEN 'graph.' ELSE 'feed.' END || kind || '/' || rkey,
  cid, did, kind, CASE WHEN kind <> 'follow' THEN subject END, at
FROM done
WHERE kind <> 'block' AND subject_did IS NOT NULL AND subject_did <> did
UNION ALL
SELECT parent_did, uri, cid, did, 'reply', parent, at FROM wrote WHERE parent_did <> did
ORDER BY 2
ON CONFLICT DO NOTHING;

-- :known
-- The corpus' posts, which were there before its first frame.
INSERT INTO bsky.record (uri, cid, did, json, "indexedAt", rev)
SELECT uri, cid, creator, '{"text":"known","$type":"app.bsky.feed.post","createdAt":"' || bench.iso(%(begin)s) || '"}',
  bench.iso(%(begin)s), split_part(uri, '/', 5)
FROM bench.known_post
ON CONFLICT DO NOTHING;
INSERT INTO bsky.post
  (uri, cid, creator, text, "replyRoot", "replyRootCid", "replyParent", "replyParentCid", "createdAt", "indexedAt",
   "invalidReplyRoot", "violatesThreadGate"{rev_column})
SELECT uri, cid, creator, 'known', NULLIF(root, uri), NULLIF(root_cid, cid), NULLIF(root, uri), NULLIF(root_cid, cid),
  bench.iso(%(begin)s), bench.iso(%(begin)s), CASE WHEN root <> uri THEN false END, CASE WHEN root <> uri THEN false END{rev_of_post}
FROM bench.known_post
ON CONFLICT DO NOTHING;
INSERT INTO bsky.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt")
SELECT uri, cid, 'post', uri, creator, bench.iso(%(begin)s) FROM bench.known_post
ON CONFLICT DO NOTHING;

-- :profiles
INSERT INTO bsky.record (uri, cid, did, json, "indexedAt", rev)
SELECT 'at://' || did || '/app.bsky.actor.profile/self', bench.cid(n, 'profile'), did,
  '{"$type":"app.bsky.actor.profile","displayName":"Account ' || n || '","description":"Nothing to see here."}',
  bench.iso(%(begin)s), bench.tid(%(begin)s)
FROM bench.account
ON CONFLICT DO NOTHING;
INSERT INTO bsky.profile (uri, cid, creator, "displayName", description, "indexedAt", "createdAt")
SELECT 'at://' || did || '/app.bsky.actor.profile/self', bench.cid(n, 'profile'), did, 'Account ' || n,
  'Nothing to see here.', bench.iso(%(begin)s), bench.iso(%(begin)s)
FROM bench.account
ON CONFLICT DO NOTHING;
INSERT INTO bsky.actor (did, handle, "indexedAt")
SELECT a.did, coalesce(k.handle, 'account' || a.n || '.bench.test'), bench.iso(%(begin)s)
FROM bench.account a
LEFT JOIN bench.known_account k USING (did)
ON CONFLICT DO NOTHING;
INSERT INTO bsky.actor_sync (did, "commitCid", "repoRev")
SELECT a.did, coalesce(k.commit_cid, bench.cid(a.n, 'commit')), coalesce(k.rev, bench.tid(%(begin)s))
FROM bench.account a
LEFT JOIN bench.known_account k USING (did)
ON CONFLICT DO NOTHING;
INSERT INTO pipeline.repo (did, rev, chain_from, commit_cid, data_cid, seq)
SELECT a.did, coalesce(k.rev, bench.tid(%(begin)s)), coalesce(k.rev, bench.tid(%(begin)s)),
  coalesce(k.commit_cid, bench.cid(a.n, 'commit')), coalesce(k.data_cid, bench.cid(a.n, 'data')), NULL
FROM bench.account a
LEFT JOIN bench.known_account k USING (did)
ON CONFLICT DO NOTHING;

-- :counters
INSERT INTO bsky.post_agg (uri, "likeCount", "replyCount", "repostCount")
SELECT uri, sum(likes), sum(replies), sum(reposts)
FROM (
  SELECT subject AS uri, count(*) AS likes, 0 AS replies, 0 AS reposts FROM bsky."like" GROUP BY subject
  UNION ALL
  SELECT "replyParent", 0, count(*), 0 FROM bsky.post WHERE "replyParent" IS NOT NULL GROUP BY "replyParent"
  UNION ALL
  SELECT subject, 0, 0, count(*) FROM bsky.repost GROUP BY subject
) counted
GROUP BY uri
ORDER BY hashtext(uri)
ON CONFLICT DO NOTHING;

-- :profile_counters
-- Also of a database that reads.sql has added to.
INSERT INTO bsky.profile_agg (did, "followersCount", "followsCount", "postsCount")
SELECT did, sum(followers), sum(follows), sum(posts)
FROM (
  SELECT "subjectDid" AS did, count(*) AS followers, 0 AS follows, 0 AS posts FROM bsky.follow GROUP BY "subjectDid"
  UNION ALL
  SELECT creator, 0, count(*), 0 FROM bsky.follow GROUP BY creator
  UNION ALL
  SELECT creator, 0, 0, count(*) FROM bsky.post GROUP BY creator
) counted
GROUP BY did
ORDER BY hashtext(did)
ON CONFLICT DO NOTHING;

-- :clean
DROP SCHEMA bench CASCADE;
