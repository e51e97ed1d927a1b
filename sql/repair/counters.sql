-- Counters against a recount: post_agg and profile_agg, for the keys in `recount`.
--
-- Guarantees: `*_that_differ` leaves in `recount` the keys whose counters differ in one snapshot, and locks nothing.
-- For those, `*_lock` locks the rows in order of key, as the write path does (sql/apply/counters.sql), and adds missing
-- rows; `*_rewrite`, in the next statement and so in a later snapshot, recounts and writes. Between the two no writer
-- can move a counter; writers that wait add to what is written. bookmarkCount is recounted from the AppView's private
-- table.

-- :posts_next
-- Returns the last key of the next %(limit)s rows of any table that counts for posts; null: they reach to the end.
SELECT min(key) FROM (
  (SELECT uri AS key FROM bsky.post_agg WHERE uri > %(after)s ORDER BY uri OFFSET %(limit)s LIMIT 1)
  UNION ALL
  (SELECT subject FROM bsky."like" WHERE subject > %(after)s ORDER BY subject OFFSET %(limit)s LIMIT 1)
  UNION ALL
  (SELECT subject FROM bsky.repost WHERE subject > %(after)s ORDER BY subject OFFSET %(limit)s LIMIT 1)
  UNION ALL
  (SELECT subject FROM bsky.quote WHERE subject > %(after)s ORDER BY subject OFFSET %(limit)s LIMIT 1)
  UNION ALL
  (SELECT "replyParent" FROM bsky.post WHERE "replyParent" > %(after)s ORDER BY "replyParent" OFFSET %(limit)s LIMIT 1)
  UNION ALL
  (SELECT "subjectUri" FROM bsky.bookmark WHERE "subjectUri" > %(after)s ORDER BY "subjectUri" OFFSET %(limit)s LIMIT 1)
) next;

-- :posts_from
-- Lists the posts from %(after)s (exclusive) to %(until)s (null: to the end).
INSERT INTO recount (key)
SELECT uri FROM bsky.post_agg WHERE uri > %(after)s AND (%(until)s::text IS NULL OR uri <= %(until)s)
UNION
SELECT subject FROM bsky."like" WHERE subject > %(after)s AND (%(until)s::text IS NULL OR subject <= %(until)s)
UNION
SELECT subject FROM bsky.repost WHERE subject > %(after)s AND (%(until)s::text IS NULL OR subject <= %(until)s)
UNION
SELECT subject FROM bsky.quote WHERE subject > %(after)s AND (%(until)s::text IS NULL OR subject <= %(until)s)
UNION
SELECT "replyParent" FROM bsky.post
WHERE "replyParent" > %(after)s AND (%(until)s::text IS NULL OR "replyParent" <= %(until)s)
UNION
SELECT "subjectUri" FROM bsky.bookmark
WHERE "subjectUri" > %(after)s AND (%(until)s::text IS NULL OR "subjectUri" <= %(until)s);

-- :posts_that_differ
-- Drops the posts whose counters are right.
-- - counted: the recount.
WITH counted AS (
  SELECT k.key,
    (SELECT count(*) FROM bsky."like" x WHERE x.subject = k.key) AS likes,
    (SELECT count(*) FROM bsky.post x WHERE x."replyParent" = k.key AND x."violatesThreadGate" IS NOT TRUE) AS replies,
    (SELECT count(*) FROM bsky.repost x WHERE x.subject = k.key) AS reposts,
    (SELECT count(*) FROM bsky.quote x WHERE x.subject = k.key) AS quotes,
    (SELECT count(*) FROM bsky.bookmark x WHERE x."subjectUri" = k.key) AS bookmarks
  FROM recount k
)
DELETE FROM recount r
USING counted c
LEFT JOIN bsky.post_agg a ON a.uri = c.key
WHERE r.key = c.key
  AND (c.likes, c.replies, c.reposts, c.quotes, c.bookmarks) = (
    coalesce(a."likeCount", 0), coalesce(a."replyCount", 0), coalesce(a."repostCount", 0), coalesce(a."quoteCount", 0),
    coalesce(a."bookmarkCount", 0));

-- :posts_lock
-- Locks the counters of the listed posts, and adds missing rows.
INSERT INTO bsky.post_agg AS a (uri)
SELECT key FROM recount ORDER BY key
ON CONFLICT (uri) DO UPDATE SET "likeCount" = a."likeCount";

-- :posts_rewrite
-- Recounts and writes. Returns the keys, their former and their new counters: likes, replies, reposts, quotes,
-- bookmarks.
UPDATE bsky.post_agg a SET
  "likeCount" = c.likes,
  "replyCount" = c.replies,
  "repostCount" = c.reposts,
  "quoteCount" = c.quotes,
  "bookmarkCount" = c.bookmarks
FROM (
  SELECT k.key,
    (SELECT count(*) FROM bsky."like" x WHERE x.subject = k.key) AS likes,
    (SELECT count(*) FROM bsky.post x WHERE x."replyParent" = k.key AND x."violatesThreadGate" IS NOT TRUE) AS replies,
    (SELECT count(*) FROM bsky.repost x WHERE x.subject = k.key) AS reposts,
    (SELECT count(*) FROM bsky.quote x WHERE x.subject = k.key) AS quotes,
    (SELECT count(*) FROM bsky.bookmark x WHERE x."subjectUri" = k.key) AS bookmarks
  FROM recount k
) c
JOIN bsky.post_agg o ON o.uri = c.key
WHERE a.uri = c.key
  AND (a."likeCount", a."replyCount", a."repostCount", a."quoteCount", a."bookmarkCount")
    <> (c.likes, c.replies, c.reposts, c.quotes, c.bookmarks)
RETURNING a.uri,
  ARRAY[o."likeCount", o."replyCount", o."repostCount", o."quoteCount", o."bookmarkCount"],
  ARRAY[c.likes, c.replies, c.reposts, c.quotes, c.bookmarks];

-- :profiles_next
-- Returns the last key of the next %(limit)s rows of any table that counts for accounts; null: they reach to the end.
SELECT min(key) FROM (
  (SELECT did AS key FROM bsky.profile_agg WHERE did > %(after)s ORDER BY did OFFSET %(limit)s LIMIT 1)
  UNION ALL
  (SELECT creator FROM bsky.follow WHERE creator > %(after)s ORDER BY creator OFFSET %(limit)s LIMIT 1)
  UNION ALL
  (SELECT "subjectDid" FROM bsky.follow WHERE "subjectDid" > %(after)s ORDER BY "subjectDid" OFFSET %(limit)s LIMIT 1)
  UNION ALL
  (SELECT creator FROM bsky.post WHERE creator > %(after)s ORDER BY creator OFFSET %(limit)s LIMIT 1)
) next;

-- :profiles_from
-- Lists the accounts from %(after)s (exclusive) to %(until)s (null: to the end).
INSERT INTO recount (key)
SELECT did FROM bsky.profile_agg WHERE did > %(after)s AND (%(until)s::text IS NULL OR did <= %(until)s)
UNION
SELECT creator FROM bsky.follow WHERE creator > %(after)s AND (%(until)s::text IS NULL OR creator <= %(until)s)
UNION
SELECT "subjectDid" FROM bsky.follow
WHERE "subjectDid" > %(after)s AND (%(until)s::text IS NULL OR "subjectDid" <= %(until)s)
UNION
SELECT creator FROM bsky.post WHERE creator > %(after)s AND (%(until)s::text IS NULL OR creator <= %(until)s);

-- :profiles_that_differ
-- Drops the accounts whose counters are right.
-- - counted: the recount.
WITH counted AS (
  SELECT k.key,
    (SELECT count(*) FROM bsky.follow x WHERE x."subjectDid" = k.key) AS followers,
    (SELECT count(*) FROM bsky.follow x WHERE x.creator = k.key) AS follows,
    (SELECT count(*) FROM bsky.post x WHERE x.creator = k.key) AS posts
  FROM recount k
)
DELETE FROM recount r
USING counted c
LEFT JOIN bsky.profile_agg a ON a.did = c.key
WHERE r.key = c.key
  AND (c.followers, c.follows, c.posts)
    = (coalesce(a."followersCount", 0), coalesce(a."followsCount", 0), coalesce(a."postsCount", 0));

-- :profiles_lock
-- Locks the counters of the listed accounts, and adds missing rows.
INSERT INTO bsky.profile_agg AS a (did)
SELECT key FROM recount ORDER BY key
ON CONFLICT (did) DO UPDATE SET "postsCount" = a."postsCount";

-- :profiles_rewrite
-- Recounts and writes. Returns the keys, their former and their new counters: followers, follows, posts.
UPDATE bsky.profile_agg a SET "followersCount" = c.followers, "followsCount" = c.follows, "postsCount" = c.posts
FROM (
  SELECT k.key,
    (SELECT count(*) FROM bsky.follow x WHERE x."subjectDid" = k.key) AS followers,
    (SELECT count(*) FROM bsky.follow x WHERE x.creator = k.key) AS follows,
    (SELECT count(*) FROM bsky.post x WHERE x.creator = k.key) AS posts
  FROM recount k
) c
JOIN bsky.profile_agg o ON o.did = c.key
WHERE a.did = c.key
  AND (a."followersCount", a."followsCount", a."postsCount") <> (c.followers, c.follows, c.posts)
RETURNING a.did,
  ARRAY[o."followersCount", o."followsCount", o."postsCount"],
  ARRAY[c.followers, c.follows, c.posts];

-- :clear
-- Empties the list.
DELETE FROM recount;

-- :posts_moved
-- Lists the posts whose counters this transaction would have moved.
INSERT INTO recount (key) SELECT DISTINCT uri FROM delta_post WHERE uri IS NOT NULL;

-- :profiles_moved
-- Lists the accounts whose counters this transaction would have moved.
INSERT INTO recount (key) SELECT DISTINCT did FROM delta_profile;

-- :posts_subjects
-- Moves the next %(limit)s posts from the rerun's subjects to the list.
-- - next: these posts.
WITH next AS (
  DELETE FROM subject_post WHERE key IN (SELECT key FROM subject_post ORDER BY key LIMIT %(limit)s) RETURNING key
)
INSERT INTO recount (key) SELECT key FROM next;

-- :profiles_subjects
-- Moves the next %(limit)s accounts from the rerun's subjects to the list.
-- - next: these accounts.
WITH next AS (
  DELETE FROM subject_profile WHERE key IN (SELECT key FROM subject_profile ORDER BY key LIMIT %(limit)s) RETURNING key
)
INSERT INTO recount (key) SELECT key FROM next;

-- :position
-- Returns the last key that the rotating recount has compared.
SELECT after_key FROM pipeline.recount_position WHERE name = %(name)s;

-- :advance
-- Stores the last key compared; null ends a round.
INSERT INTO pipeline.recount_position AS p (name, after_key, rounds)
VALUES (%(name)s, coalesce(%(until)s, ''), CASE WHEN %(until)s::text IS NULL THEN 1 ELSE 0 END)
ON CONFLICT (name) DO UPDATE SET
  after_key = excluded.after_key,
  rounds = p.rounds + excluded.rounds,
  updated_at = now();
