-- What an adoption would put right, by kind. Each statement counts in a table, or in a sample of it, how many rows
-- there are, and how many have the fault: (rows, faults).
--
-- Guarantees: reads only.
--
-- Placeholders: {schema} is the schema of the tables, {sample} takes a part of the first table's pages, or is empty.

-- :repeated_notifications
-- Notifications that repeat an earlier one.
SELECT count(*), count(*) FILTER (WHERE EXISTS (
  SELECT FROM {schema}.notification o
  WHERE o."recordUri" = n."recordUri" AND o.did = n.did AND o.reason = n.reason AND o.id < n.id
))
FROM {schema}.notification n {sample};

-- :notifications_without_record
-- Notifications of records that are gone, but for those that stay.
SELECT count(*), count(*) FILTER (
  WHERE n.reason NOT IN ('verified', 'unverified', 'starterpack-joined', 'contact-match', 'subscribed-post')
    AND NOT EXISTS (SELECT FROM {schema}.record r WHERE r.uri = n."recordUri")
)
FROM {schema}.notification n {sample};

-- :orphaned_duplicates
-- Duplicates of records that are gone.
SELECT count(*), count(*) FILTER (
  WHERE NOT EXISTS (SELECT FROM {schema}.record r WHERE r.uri = d."duplicateOf")
    OR NOT EXISTS (SELECT FROM {schema}.record r WHERE r.uri = d.uri)
)
FROM {schema}.duplicate_record d {sample};

-- :feed_items_without_record
-- Feed items of records that are gone, or that are duplicates.
SELECT count(*), count(*) FILTER (
  WHERE NOT EXISTS (SELECT FROM {schema}.record r WHERE r.uri = f.uri)
    OR (f.type = 'repost' AND NOT EXISTS (SELECT FROM {schema}.repost p WHERE p.uri = f.uri))
)
FROM {schema}.feed_item f {sample};

-- :quotes_without_record
-- Quotes by posts that are gone.
SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (SELECT FROM {schema}.record r WHERE r.uri = q.uri))
FROM {schema}.quote q {sample};

-- :starter_packs_without_record
-- Starter packs that are gone.
SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (SELECT FROM {schema}.record r WHERE r.uri = s.uri))
FROM {schema}.starter_pack s {sample};

-- :verifications_without_record
-- Verifications that are gone.
SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (SELECT FROM {schema}.record r WHERE r.uri = v.uri))
FROM {schema}.verification v {sample};

-- :posts_out_of_order
-- Replies that came before their parents, which are there now.
SELECT count(*), count(*) FILTER (
  WHERE p."invalidReplyRoot" AND EXISTS (SELECT FROM {schema}.record r WHERE r.uri = p."replyParent")
)
FROM {schema}.post p {sample};

-- :post_counters_that_differ
-- Counters of posts that are not a recount.
SELECT count(*), count(*) FILTER (WHERE (a."likeCount", a."replyCount", a."repostCount", a."quoteCount") <> (
  (SELECT count(*) FROM {schema}."like" x WHERE x.subject = a.uri),
  (SELECT count(*) FROM {schema}.post x WHERE x."replyParent" = a.uri AND x."violatesThreadGate" IS NOT TRUE),
  (SELECT count(*) FROM {schema}.repost x WHERE x.subject = a.uri),
  (SELECT count(*) FROM {schema}.quote x WHERE x.subject = a.uri)
))
FROM {schema}.post_agg a {sample};

-- :account_counters_that_differ
-- Counters of accounts that are not a recount.
SELECT count(*), count(*) FILTER (WHERE (a."followersCount", a."followsCount", a."postsCount") <> (
  (SELECT count(*) FROM {schema}.follow x WHERE x."subjectDid" = a.did),
  (SELECT count(*) FROM {schema}.follow x WHERE x.creator = a.did),
  (SELECT count(*) FROM {schema}.post x WHERE x.creator = a.did)
))
FROM {schema}.profile_agg a {sample};

-- :deleted_accounts
-- Accounts that the reference has deleted, of which rows may be left.
SELECT count(*), count(*) FILTER (
  WHERE NOT EXISTS (SELECT FROM {schema}.actor a WHERE a.did = s.did)
    AND NOT EXISTS (
      SELECT FROM {schema}.record r WHERE r.uri >= 'at://' || s.did || '/' AND r.uri < 'at://' || s.did || '0'
    )
)
FROM {schema}.actor_sync s {sample};

-- :records_with_nul
-- Records with U+0000 in their text, which readers may stumble over.
SELECT count(*), count(*) FILTER (WHERE strpos(r.json, '\u0000') > 0)
FROM {schema}.record r {sample};

-- :records_indexed_late
-- Records that were indexed more than a day after their key: edited ones, or read from repositories (--from-keys).
SELECT count(*), count(*) FILTER (
  WHERE split_part(r.uri, '/', 5) ~ '^[2-7a-j][2-7a-z]{12}$'
    AND r."indexedAt" > to_char(to_timestamp((
      SELECT sum(
        (strpos('234567abcdefghijklmnopqrstuvwxyz', substr(split_part(r.uri, '/', 5), n, 1)) - 1)::bigint
          << (5 * (11 - n))) / 1000000.0
      FROM generate_series(1, 11) n
    ) + 86400) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
)
FROM {schema}.record r {sample};
