-- Adds to a prefilled database (prefill.sql) what readers meet in a real network and a prefill has not: accounts, posts
-- and lists of very different sizes, threads, quotes, labels, moderation, and private data. Run by reads_world.py.
--
-- Guarantees: the same parameters give the same rows, in the same order. `records` is the size of the whole database;
-- all numbers follow from it. Rows have the tables, columns and lengths that the write path would have given them.

-- :functions
CREATE SCHEMA reads;

CREATE FUNCTION reads.cid(kind text, n bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'bafyrei' || translate(md5(kind || n) || substr(md5(n || kind), 1, 20), '0189', 'wxyz');

-- 0 <= u < 1, the same for the same numbers.
CREATE FUNCTION reads.u(n bigint, seed bigint) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashint8extended(n, seed) & 1125899906842623)::float8 / 1125899906842624;

-- The time of number n of `total`, spread over the thirty days of the prefill; microseconds.
CREATE FUNCTION reads.micros(n bigint, total bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN %(begin)s + (n * (30 * 86400000000.0 / total))::bigint;

CREATE FUNCTION reads.iso(micros bigint) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(to_timestamp(micros / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.')
  || lpad((micros / 1000 %% 1000)::text, 3, '0') || 'Z';

-- Shaped like a TID and in the order of time, but before all that are made today. In these days the first hexadecimal
-- digit of the microseconds never changes.
CREATE FUNCTION reads.tid(micros bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '3' || translate(right(to_hex(micros), 12), '0123456789abcdef', '234567abcdefghij');

CREATE FUNCTION reads.nsid(kind text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'app.bsky.' || CASE
  WHEN kind IN ('like', 'post', 'repost', 'threadgate', 'postgate', 'generator') THEN 'feed.'
  WHEN kind = 'service' THEN 'labeler.'
  WHEN kind IN ('profile', 'status') THEN 'actor.'
  WHEN kind = 'declaration' THEN 'notification.'
  ELSE 'graph.'
END || kind;

-- Account 0 is followed by very many and wrote the post that very many liked, 1 follows thousands, 2 has written a
-- tenth of everything; from 3 on they are ordinary. Posts by their place in time.
CREATE UNLOGGED TABLE reads.account (n bigint PRIMARY KEY, did text NOT NULL);
CREATE UNLOGGED TABLE reads.post (n bigint PRIMARY KEY, uri text NOT NULL, cid text NOT NULL);
CREATE UNLOGGED TABLE reads.list (
  n bigint PRIMARY KEY, uri text NOT NULL, cid text NOT NULL, members bigint NOT NULL,
  own boolean NOT NULL -- its members are in no list before it
);
-- What is added: records by kind, with what each refers to. They become rows of bsky.record and of their own tables.
CREATE UNLOGGED TABLE reads.act (
  kind text NOT NULL, n bigint NOT NULL, did text NOT NULL, rkey text NOT NULL, at text NOT NULL, cid text NOT NULL,
  subject text, subject_cid text, parent text, parent_cid text, root text, root_cid text, embed text,
  uri text GENERATED ALWAYS AS ('at://' || did || '/' || reads.nsid(kind) || '/' || rkey) STORED
);
CREATE INDEX ON reads.act (kind, n);

-- :accounts
INSERT INTO bsky.actor (did, handle, "indexedAt")
SELECT 'did:plc:' || substr(translate(md5('account' || n), '0189', 'wxyz'), 1, 24), 'silent' || n || '.bench.test',
  reads.iso(%(begin)s)
FROM generate_series((SELECT count(*) FROM bsky.actor), %(records)s / 15) n
ON CONFLICT DO NOTHING;
INSERT INTO bsky.actor_sync (did, "commitCid", "repoRev")
SELECT did, reads.cid('commit', 1), reads.tid(%(begin)s) FROM bsky.actor
ON CONFLICT DO NOTHING;
INSERT INTO reads.account (n, did)
SELECT row_number() OVER (ORDER BY md5(did), did) - 1, did FROM bsky.actor;
ANALYZE reads.account;
-- Handles and names as people have them: words that are searched for.
UPDATE bsky.actor SET
  handle = (array['anna', 'ben', 'clara', 'david', 'emma', 'felix', 'greta', 'hugo'])[1 + n %% 8]
    || (array['', 'writes', 'draws', 'codes', 'bakes', 'runs'])[1 + n %% 6] || n || '.bsky.social',
  "upstreamStatus" = CASE WHEN n %% 97 = 5 THEN 'deactivated' END,
  "takedownRef" = CASE WHEN n %% 997 = 5 THEN 'TAKEDOWN' END,
  "trustedVerifier" = n IN (3, 4, 5)
FROM reads.account a
WHERE a.did = actor.did;
INSERT INTO reads.act (kind, n, did, rkey, at, cid)
SELECT 'profile', n, did, 'self', reads.iso(%(begin)s), reads.cid('profile', n) FROM reads.account
UNION ALL
SELECT 'declaration', n, did, 'self', reads.iso(%(begin)s), reads.cid('declaration', n)
FROM reads.account
WHERE n %% 10 = 0
UNION ALL
SELECT 'service', n, did, 'self', reads.iso(%(begin)s), reads.cid('service', n)
FROM reads.account
WHERE n BETWEEN 10 AND 19;
INSERT INTO bsky.labeler (uri, cid, creator, "createdAt", "indexedAt")
SELECT uri, cid, did, at, at FROM reads.act WHERE kind = 'service';

-- :posts
INSERT INTO reads.post (n, uri, cid)
SELECT row_number() OVER (ORDER BY "sortAt", uri), uri, cid FROM bsky.post;
-- By account 2: a tenth of all records, two fifths of them in long threads of its own.
INSERT INTO reads.act (kind, n, did, rkey, at, cid, root, root_cid, parent, parent_cid)
SELECT 'post', n, did, reads.tid(reads.micros(n, total)), reads.iso(reads.micros(n, total)), reads.cid('post', n),
  CASE WHEN replies THEN 'at://' || did || '/app.bsky.feed.post/' || reads.tid(reads.micros(n - n %% 50 + 30, total))
  END,
  CASE WHEN replies THEN reads.cid('post', n - n %% 50 + 30) END,
  CASE WHEN replies THEN 'at://' || did || '/app.bsky.feed.post/' || reads.tid(reads.micros(n - 1, total)) END,
  CASE WHEN replies THEN reads.cid('post', n - 1) END
FROM (SELECT did, %(records)s / 10 AS total FROM reads.account WHERE n = 2) writer
CROSS JOIN LATERAL (SELECT n, n %% 50 > 30 AS replies FROM generate_series(1, total) n) post;
-- One post of account 0 that everybody knows, in the middle of the time; one that begins a thread three hundred deep.
INSERT INTO reads.act (kind, n, did, rkey, at, cid)
SELECT 'post', -i, did, reads.tid(reads.micros(i, 2)), reads.iso(reads.micros(i, 2)), reads.cid('root', i)
FROM reads.account, generate_series(0, 1) i
WHERE n = 0;
INSERT INTO reads.act (kind, n, did, rkey, at, cid, root, root_cid, parent, parent_cid)
SELECT 'post', -1000000 - i, a.did, reads.tid(m), reads.iso(m), reads.cid('reply', i), p.uri, p.cid, p.uri, p.cid
FROM reads.act p
CROSS JOIN LATERAL (
  SELECT i, reads.micros(%(records)s / 200 + i, %(records)s / 100) AS m, i %% (SELECT count(*) FROM reads.account) AS n
  FROM generate_series(1, %(records)s / 200) i
) reply
JOIN reads.account a ON a.n = reply.n
WHERE p.kind = 'post' AND p.n = -1;
INSERT INTO reads.act (kind, n, did, rkey, at, cid, root, root_cid, parent, parent_cid)
SELECT 'post', -2000000 - i, a.did, reads.tid(m), reads.iso(m), reads.cid('chain', i), r.uri, r.cid,
  CASE WHEN i = 1 THEN r.uri ELSE 'at://' || b.did || '/app.bsky.feed.post/' || reads.tid(m - 1000000) END,
  CASE WHEN i = 1 THEN r.cid ELSE reads.cid('chain', i - 1) END
FROM reads.act r
CROSS JOIN LATERAL (SELECT i, %(begin)s + 86400000000 + i * 1000000::bigint AS m FROM generate_series(1, 300) i) chain
JOIN reads.account a ON a.n = 20 + i %% 7
JOIN reads.account b ON b.n = 20 + (i - 1) %% 7
WHERE r.kind = 'post' AND r.n = 0;
-- Quotes of the known post, and of others.
INSERT INTO reads.act (kind, n, did, rkey, at, cid, subject, subject_cid)
SELECT 'post', -3000000 - i, a.did, reads.tid(m), reads.iso(m), reads.cid('quote', i), q.uri, q.cid
FROM generate_series(1, %(records)s / 100) i
CROSS JOIN LATERAL (SELECT reads.micros(%(records)s / 100 + i, %(records)s / 50) + 7 AS m) at
CROSS JOIN LATERAL (
  SELECT uri, cid FROM reads.act WHERE i %% 2 = 0 AND kind = 'post' AND n = -1
  UNION ALL
  SELECT uri, cid FROM reads.post WHERE i %% 2 = 1 AND n = 1 + i
) q
JOIN reads.account a ON a.n = i;

-- :edges
ANALYZE reads.act, reads.post;
INSERT INTO reads.act (kind, n, did, rkey, at, cid, subject, subject_cid)
SELECT e.kind, e.n, a.did, reads.tid(reads.micros(e.n, total) + 3), reads.iso(reads.micros(e.n, total)),
  reads.cid(e.kind || 'edge', e.n), s.subject, s.cid
FROM (
  VALUES ('like', %(records)s / 20), ('repost', %(records)s / 50), ('follow', %(records)s / 20),
    ('block', %(records)s / 500)
) kinds (kind, total)
CROSS JOIN LATERAL (SELECT kinds.kind, n FROM generate_series(1, total) n) e
JOIN reads.account a ON a.n = e.n + 2
CROSS JOIN LATERAL (
  SELECT uri AS subject, act.cid FROM reads.act WHERE e.kind IN ('like', 'repost') AND kind = 'post' AND act.n = -1
  UNION ALL
  SELECT did, NULL FROM reads.account
  WHERE e.kind IN ('follow', 'block') AND n = CASE e.kind WHEN 'block' THEN 1 ELSE 0 END
) s;
ANALYZE reads.act;
-- Account 1 follows the most active ones and many others, and likes what account 2 writes.
INSERT INTO reads.act (kind, n, did, rkey, at, cid, subject)
SELECT 'follow', -s.n, a.did, reads.tid(reads.micros(s.n, %(records)s / 200) + 5),
  reads.iso(reads.micros(s.n, %(records)s / 200)), reads.cid('following', s.n), s.did
FROM reads.account a
JOIN (
  SELECT row_number() OVER () AS n, did FROM (
    (SELECT creator AS did FROM bsky.post GROUP BY creator ORDER BY count(*) DESC, creator LIMIT %(records)s / 1000)
    UNION
    SELECT did FROM reads.account WHERE n <> 1 AND n < %(records)s / 200
  ) subjects
) s ON true
WHERE a.n = 1;
INSERT INTO reads.act (kind, n, did, rkey, at, cid, subject, subject_cid)
SELECT 'like', -p.n, a.did, reads.tid(%(begin)s + p.n * 1000011), p.at, reads.cid('liking', p.n), p.uri, p.cid
FROM reads.account a
JOIN reads.act p ON p.kind = 'post' AND p.n BETWEEN 1 AND %(records)s / 100
WHERE a.n = 1;

-- :lists
ANALYZE reads.act;
-- Of account 0: a list of very many, a moderation list of many, and a starter pack's. Every twentieth account has a
-- small one.
INSERT INTO reads.act (kind, n, did, rkey, at, cid, embed)
SELECT 'list', n, did, reads.tid(%(begin)s + n), reads.iso(%(begin)s + n * 1000000), reads.cid('list', n), purpose
FROM (
  SELECT x AS n, did, CASE x WHEN 1 THEN 'modlist' WHEN 2 THEN 'referencelist' ELSE 'curatelist' END AS purpose
  FROM reads.account, generate_series(0, 2) x WHERE account.n = 0
  UNION ALL
  SELECT n, did, CASE WHEN n %% 40 = 0 THEN 'modlist' ELSE 'curatelist' END
  FROM reads.account WHERE n > 2 AND n %% 20 = 0
) lists;
INSERT INTO bsky.list (uri, cid, creator, name, purpose, "createdAt", "indexedAt")
SELECT uri, cid, did, 'List ' || n, 'app.bsky.graph.defs#' || embed, at, at FROM reads.act WHERE kind = 'list'
ORDER BY n;
INSERT INTO reads.list (n, uri, cid, members, own)
SELECT row_number() OVER (ORDER BY n), uri, cid,
  CASE n WHEN 0 THEN %(records)s / 50 WHEN 1 THEN %(records)s / 200 WHEN 2 THEN 150 ELSE 10 END,
  row_number() OVER (ORDER BY n) * 10 + 10 < (SELECT count(*) FROM reads.account) - %(records)s / 200 - 900 + 41
FROM reads.act
WHERE kind = 'list';
INSERT INTO bsky.list_item (uri, cid, creator, "subjectDid", "listUri", "createdAt", "indexedAt")
SELECT 'at://' || split_part(l.uri, '/', 3) || '/app.bsky.graph.listitem/' || reads.tid(m), reads.cid('item' || l.n, i),
  split_part(l.uri, '/', 3), a.did, l.uri, reads.iso(m), reads.iso(m)
FROM reads.list l
CROSS JOIN LATERAL (SELECT i, reads.micros(i, l.members) + l.n AS m FROM generate_series(1, l.members) i) member
-- Nobody is in two lists that one account mutes or blocks: the reference's getRelationships fails on those.
JOIN reads.account a ON a.n = CASE
  WHEN l.n <= 3 THEN i + 2
  ELSE %(records)s / 200 + 900 + (l.n * 10 + i) %% ((SELECT count(*) FROM reads.account) - %(records)s / 200 - 900)
END
ON CONFLICT DO NOTHING;
INSERT INTO bsky.record (uri, cid, did, json, "indexedAt", rev)
SELECT uri, cid, creator, '{"$type":"app.bsky.graph.listitem","list":"' || "listUri" || '","subject":"' || "subjectDid"
  || '","createdAt":"' || "createdAt" || '"}', "indexedAt", split_part(uri, '/', 5)
FROM bsky.list_item;
INSERT INTO reads.act (kind, n, did, rkey, at, cid, subject)
SELECT 'listblock', a.n, a.did, reads.tid(%(begin)s + a.n), reads.iso(%(begin)s + a.n * 1000),
  reads.cid('listblock', a.n), l.uri
FROM reads.account a
JOIN reads.list l ON l.n = 2 OR (a.n = 1 AND l.n BETWEEN 4 AND 40 AND l.own)
WHERE a.n %% 50 = 1;
INSERT INTO bsky.list_block (uri, cid, creator, "subjectUri", "createdAt", "indexedAt")
SELECT uri, cid, did, subject, at, at FROM reads.act WHERE kind = 'listblock'
ON CONFLICT DO NOTHING;
INSERT INTO bsky.reference_list_opt_out (uri, cid, creator, "subjectUri", "createdAt", "indexedAt")
SELECT 'at://' || did || '/app.bsky.graph.referencelistoptout/' || reads.tid(%(begin)s), reads.cid('optout', n), did,
  l.uri, reads.iso(%(begin)s), reads.iso(%(begin)s)
FROM reads.account
JOIN (SELECT uri FROM reads.list WHERE n = 3) l ON true
WHERE n BETWEEN 3 AND 60 AND n %% 3 = 0;
INSERT INTO reads.act (kind, n, did, rkey, at, cid, subject)
SELECT 'starterpack', a.n, a.did, reads.tid(%(begin)s + a.n), reads.iso(%(begin)s + a.n * 1000), reads.cid('pack', a.n),
  l.uri
FROM reads.account a
JOIN reads.list l ON l.n = 3
WHERE a.n = 0 OR a.n %% 100 = 50;
INSERT INTO bsky.starter_pack (uri, cid, creator, name, "createdAt", "indexedAt")
SELECT uri, cid, did,
  (array['Birds of', 'Trains in', 'Science from', 'Bread and'])[1 + n / 50 %% 4] || ' place ' || n, at,
  at
FROM reads.act
WHERE kind = 'starterpack';
INSERT INTO reads.act (kind, n, did, rkey, at, cid)
SELECT 'generator', a.n, a.did, 'feed' || a.n, reads.iso(%(begin)s + a.n * 1000), reads.cid('generator', a.n)
FROM reads.account a
WHERE a.n = 0 OR a.n %% 100 = 60;
INSERT INTO bsky.feed_generator (uri, cid, creator, "feedDid", "displayName", "createdAt", "indexedAt")
SELECT uri, cid, did, 'did:web:feeds.bench.test',
  (array['Birds', 'Trains', 'Science', 'Bread'])[1 + n / 60 %% 4] || ' ' || n, at, at
FROM reads.act
WHERE kind = 'generator';
INSERT INTO reads.act (kind, n, did, rkey, at, cid, subject)
SELECT 'verification', s.n * 10 + v.n, v.did, reads.tid(%(begin)s + s.n), reads.iso(%(begin)s + s.n),
  reads.cid('verification' || v.n, s.n), s.did
FROM reads.account v
JOIN reads.account s ON s.n %% 200 = 0
WHERE v.n IN (3, 4);
INSERT INTO bsky.verification (uri, cid, rkey, creator, subject, handle, "displayName", "createdAt", "indexedAt")
SELECT uri, cid, rkey, did, subject, handle, 'name', at, at
FROM reads.act
JOIN bsky.actor USING (did)
WHERE kind = 'verification';

-- :gates
INSERT INTO reads.act (kind, n, did, rkey, at, cid, subject)
SELECT kind, n, split_part(uri, '/', 3), split_part(uri, '/', 5), reads.iso(%(begin)s), reads.cid(kind, n), uri
FROM reads.post, (VALUES ('threadgate'), ('postgate')) kinds (kind)
WHERE n %% 100 = 0;
INSERT INTO bsky.thread_gate (uri, cid, creator, "postUri", "createdAt", "indexedAt")
SELECT uri, cid, did, subject, at, at FROM reads.act WHERE kind = 'threadgate';
INSERT INTO bsky.post_gate (uri, cid, creator, "postUri", "createdAt", "indexedAt")
SELECT uri, cid, did, subject, at, at FROM reads.act WHERE kind = 'postgate';
UPDATE bsky.post SET "hasThreadGate" = true, "hasPostGate" = true
FROM reads.act
WHERE post.uri = subject AND kind = 'threadgate';

-- :rows
-- What was put together above, as rows of the reference's tables.
ANALYZE reads.act;
INSERT INTO bsky.record (uri, cid, did, json, "indexedAt", rev)
SELECT uri, cid, did, '{"$type":"' || reads.nsid(kind) || '",' || CASE
    WHEN kind = 'post' THEN '"text":"words about trains and bread ' || n || '",' || coalesce(
      '"reply":{"root":{"cid":"' || root_cid || '","uri":"' || root || '"},"parent":{"cid":"' || parent_cid
      || '","uri":"' || parent || '"}},', '')
    WHEN kind = 'profile' THEN '"displayName":"Name ' || n || '",'
    WHEN subject_cid IS NOT NULL THEN '"subject":{"cid":"' || subject_cid || '","uri":"' || subject || '"},'
    ELSE coalesce('"subject":"' || subject || '",', '')
  END || '"createdAt":"' || at || '"}', at, CASE WHEN rkey = 'self' THEN reads.tid(%(begin)s) ELSE rkey END
FROM reads.act
ORDER BY at, uri
ON CONFLICT DO NOTHING;
INSERT INTO bsky.profile (uri, cid, creator, "displayName", description, "indexedAt", "createdAt")
SELECT uri, cid, did, 'Name ' || n, 'Nothing to see here.', at, at FROM reads.act WHERE kind = 'profile'
ON CONFLICT DO NOTHING;
INSERT INTO bsky.post
  (uri, cid, creator, text, "replyRoot", "replyRootCid", "replyParent", "replyParentCid", "createdAt", "indexedAt",
   langs, "invalidReplyRoot", "violatesThreadGate", rev)
SELECT uri, cid, did, 'words about trains and bread ' || n, root, root_cid, parent, parent_cid, at, at, '["en"]',
  CASE WHEN parent IS NOT NULL THEN false END, CASE WHEN parent IS NOT NULL THEN false END, rkey
FROM reads.act
WHERE kind = 'post'
ORDER BY at, uri
ON CONFLICT DO NOTHING;
INSERT INTO bsky.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt")
SELECT uri, cid, kind, CASE kind WHEN 'post' THEN uri ELSE subject END, did, at
FROM reads.act
WHERE kind IN ('post', 'repost')
ORDER BY at, uri
ON CONFLICT DO NOTHING;
INSERT INTO bsky.quote (uri, cid, subject, "subjectCid", "createdAt", "indexedAt")
SELECT uri, cid, subject, subject_cid, at, at FROM reads.act WHERE kind = 'post' AND subject IS NOT NULL
ORDER BY at, uri;
INSERT INTO bsky.post_embed_record ("postUri", "embedUri", "embedCid")
SELECT uri, subject, subject_cid FROM reads.act WHERE kind = 'post' AND subject IS NOT NULL;
INSERT INTO bsky.post_embed_image ("postUri", position, "imageCid", alt)
SELECT uri, '0', cid, '' FROM reads.act WHERE kind = 'post' AND n > 0 AND n %% 10 = 1;
INSERT INTO bsky.post_embed_gallery_image ("postUri", position, "imageCid", alt)
SELECT uri, '0', cid, '' FROM reads.act WHERE kind = 'post' AND n > 0 AND n %% 100 = 2;
INSERT INTO bsky.post_embed_video ("postUri", "videoCid", alt)
SELECT uri, cid, '' FROM reads.act WHERE kind = 'post' AND n > 0 AND n %% 100 = 3;
INSERT INTO bsky.op_thread_reply ("rootUri", "parentUri", uri)
SELECT root, parent, uri FROM reads.act WHERE kind = 'post' AND root IS NOT NULL AND split_part(root, '/', 3) = did;
INSERT INTO bsky."like" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")
SELECT uri, cid, did, subject, subject_cid, at, at FROM reads.act WHERE kind = 'like' ORDER BY at, uri
ON CONFLICT DO NOTHING;
INSERT INTO bsky.repost (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")
SELECT uri, cid, did, subject, subject_cid, at, at FROM reads.act WHERE kind = 'repost' ORDER BY at, uri
ON CONFLICT DO NOTHING;
INSERT INTO bsky.follow (uri, cid, creator, "subjectDid", "createdAt", "indexedAt")
SELECT uri, cid, did, subject, at, at FROM reads.act WHERE kind = 'follow' ORDER BY at, uri
ON CONFLICT DO NOTHING;
INSERT INTO bsky.actor_block (uri, cid, creator, "subjectDid", "createdAt", "indexedAt")
SELECT uri, cid, did, subject, at, at FROM reads.act WHERE kind = 'block' ORDER BY at, uri
ON CONFLICT DO NOTHING;
INSERT INTO bsky.notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt")
SELECT recipient, uri, cid, did, reason, CASE WHEN reason <> 'follow' THEN coalesce(parent, subject) END, at
FROM (
  SELECT act.*,
    CASE kind WHEN 'follow' THEN subject ELSE split_part(coalesce(parent, subject), '/', 3) END AS recipient,
    CASE WHEN kind <> 'post' THEN kind WHEN parent IS NULL THEN 'quote' ELSE 'reply' END AS reason
  FROM reads.act
  WHERE kind IN ('like', 'repost', 'follow', 'post') AND coalesce(parent, subject) IS NOT NULL
) notified
WHERE recipient <> did
ORDER BY at, uri
ON CONFLICT DO NOTHING;

-- :moderation
UPDATE bsky.profile SET "joinedViaStarterPackUri" = p.uri
FROM reads.account a
JOIN LATERAL (
  SELECT uri FROM reads.act
  WHERE kind = 'starterpack' AND act.n = CASE WHEN a.n %% 40 = 1 THEN 0 ELSE 50 + 100 * (a.n %% 5) END
) p ON true
WHERE a.did = profile.creator AND a.n %% 20 = 1;
INSERT INTO bsky.label (src, uri, cid, val, neg, cts, exp)
SELECT s.did, p.uri, '', (array['porn', 'spam', 'rude', 'spider'])[1 + p.n / 8 %% 4], false,
  reads.iso(%(begin)s + p.n * 1000),
  CASE WHEN p.n %% 20 = 0 THEN reads.iso(%(begin)s + p.n * 1000) END
FROM (
  SELECT n, uri FROM reads.post WHERE n %% 8 = 0
  UNION ALL
  SELECT n, did FROM reads.account WHERE n %% 8 = 1
) p
JOIN reads.account s ON s.n = 10 + p.n / 8 %% 10;
UPDATE bsky.record SET "takedownRef" = 'TAKEDOWN'
FROM reads.post
WHERE record.uri = post.uri AND n %% 1000 = 0;
INSERT INTO bsky.blob_takedown (did, cid, "takedownRef")
SELECT did, reads.cid('blob', n), 'TAKEDOWN' FROM reads.account WHERE n %% 500 = 0;
INSERT INTO bsky.suggested_follow (did, "order")
SELECT did, row_number() OVER (ORDER BY n) FROM reads.account WHERE n < 500 AND n <> 1;
INSERT INTO bsky.suggested_feed (uri, "order")
SELECT uri, row_number() OVER (ORDER BY n) FROM reads.act WHERE kind = 'generator' AND n < 10000;
INSERT INTO bsky.tagged_suggestion (tag, subject, "subjectType")
SELECT 'tag' || n %% 10, did, 'actor' FROM reads.account WHERE n < 200;

-- :private
INSERT INTO bsky.actor_state (did, "lastSeenNotifs", "priorityNotifs")
SELECT did, reads.iso(reads.micros(n %% 1000, 1000)), n %% 10 = 3 FROM reads.account WHERE n <> 0 AND n %% 3 < 2;
INSERT INTO bsky.mute ("subjectDid", "mutedByDid", "createdAt")
SELECT s.did, a.did, reads.iso(%(begin)s + s.n * 1000)
FROM reads.account a
JOIN reads.account s ON s.n BETWEEN 100 AND 99 + CASE a.n WHEN 1 THEN %(records)s / 500 ELSE 3 END
WHERE a.n %% 30 = 1;
INSERT INTO bsky.list_mute ("listUri", "mutedByDid", "createdAt")
SELECT l.uri, a.did, reads.iso(%(begin)s + l.n)
FROM reads.account a
JOIN reads.list l ON l.n = 2 OR (a.n = 1 AND l.n BETWEEN 4 AND 40 AND l.own)
WHERE a.n %% 30 = 1;
INSERT INTO bsky.thread_mute ("rootUri", "mutedByDid", "createdAt")
SELECT p.uri, a.did, reads.iso(%(begin)s + p.n)
FROM reads.account a
JOIN reads.post p ON p.n BETWEEN 1 AND CASE a.n WHEN 1 THEN 200 ELSE 3 END
WHERE a.n %% 30 = 1;
INSERT INTO bsky.bookmark (creator, key, "subjectUri", "subjectCid", "indexedAt")
SELECT a.did, reads.tid(reads.micros(p.n, 1000000)), p.uri, p.cid, reads.iso(reads.micros(p.n, 1000000))
FROM reads.account a
JOIN reads.post p ON p.n BETWEEN 1 AND CASE a.n WHEN 1 THEN %(records)s / 200 ELSE 5 END
WHERE a.n %% 10 = 1;
INSERT INTO bsky.draft (creator, key, "createdAt", "updatedAt", payload)
SELECT a.did, reads.tid(%(begin)s + i), reads.iso(%(begin)s), reads.iso(%(begin)s + i * 1000000),
  '{"posts":[{"text":"draft"}]}'
FROM reads.account a
CROSS JOIN LATERAL (SELECT i FROM generate_series(1, CASE a.n WHEN 1 THEN 500 ELSE 3 END) i) drafts
WHERE a.n %% 10 = 1;
INSERT INTO bsky.activity_subscription (creator, "subjectDid", key, "indexedAt", post, reply)
SELECT a.did, s.did, reads.tid(%(begin)s + s.n), reads.iso(%(begin)s), true, s.n %% 2 = 0
FROM reads.account a
JOIN reads.account s ON s.n BETWEEN 2 AND CASE a.n WHEN 1 THEN 300 ELSE 4 END
WHERE a.n %% 10 = 1;
INSERT INTO bsky.private_data ("actorDid", namespace, key, payload, "indexedAt", "updatedAt")
SELECT did, 'app.bsky.notification.defs#preferences', 'self', '{"chat":{"include":"all","push":true},'
    || (
      SELECT string_agg('"' || reason || '":{"include":"all","list":true,"push":true}', ',')
      FROM unnest(array['follow', 'like', 'likeViaRepost', 'mention', 'quote', 'reply', 'repost', 'repostViaRepost',
        'starterpackJoined', 'subscribedPost', 'unverified', 'verified']) reason
    ) || '}', reads.iso(%(begin)s), reads.iso(%(begin)s)
FROM reads.account
WHERE n %% 3 = 0;

-- :counters
-- Those of accounts are the prefill's: prefill.sql, `profile_counters`.
TRUNCATE bsky.post_agg, bsky.profile_agg;
INSERT INTO bsky.post_agg (uri, "likeCount", "replyCount", "repostCount", "quoteCount", "bookmarkCount")
SELECT uri, sum(likes), sum(replies), sum(reposts), sum(quotes), sum(bookmarks)
FROM (
  SELECT subject AS uri, count(*) AS likes, 0 AS replies, 0 AS reposts, 0 AS quotes, 0 AS bookmarks
  FROM bsky."like" GROUP BY subject
  UNION ALL
  SELECT "replyParent", 0, count(*), 0, 0, 0 FROM bsky.post WHERE "replyParent" IS NOT NULL GROUP BY "replyParent"
  UNION ALL
  SELECT subject, 0, 0, count(*), 0, 0 FROM bsky.repost GROUP BY subject
  UNION ALL
  SELECT subject, 0, 0, 0, count(*), 0 FROM bsky.quote GROUP BY subject
  UNION ALL
  SELECT "subjectUri", 0, 0, 0, 0, count(*) FROM bsky.bookmark GROUP BY "subjectUri"
) counted
GROUP BY uri
ORDER BY md5(uri);
