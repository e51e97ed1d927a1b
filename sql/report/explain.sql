-- What is known of one record or one account, for `appview-pipeline explain`.
--
-- Guarantees: reads only. Each statement looks the record %(uri)s or the account %(did)s up by an index, and returns at
-- most %(limit)s rows where there may be many.

-- :record
-- The record, as it is stored.
SELECT r.cid, r.rev, r."indexedAt", r."appliedAt", r.quiet IS TRUE, r."takedownRef", r.json
FROM bsky.record r
WHERE r.uri = %(uri)s;

-- :versions
-- Its past states and deletions that are kept because others are evaluated by them, or because they notified; the
-- newest first.
SELECT v.rev, v.deleted
FROM pipeline.version v
WHERE v.uri = %(uri)s
ORDER BY v.rev DESC
LIMIT %(limit)s;

-- :tombstone
-- Its deletion, where it is deleted.
SELECT t.rev, t.deleted_at, t.seq FROM pipeline.tombstone t WHERE t.uri = %(uri)s;

-- :record_takedown
-- Whether it was taken down here when it was deleted.
SELECT t.ref FROM pipeline.record_takedown t WHERE t.uri = %(uri)s;

-- :derived
-- Its rows in one derived table. The key of such a row lies in the account's own repository.
SELECT to_json(l)
FROM bsky.{table} l
WHERE l.{key} >= 'at://' || %(did)s || '/' AND l.{key} < 'at://' || %(did)s || '0' AND l.{uri} = %(uri)s
LIMIT %(limit)s;

-- :duplicate_of
-- The record of which it is a duplicate.
SELECT d."duplicateOf" FROM bsky.duplicate_record d WHERE d.uri = %(uri)s;

-- :duplicates
-- Its own duplicates.
SELECT d.uri FROM bsky.duplicate_record d WHERE d."duplicateOf" = %(uri)s ORDER BY d.uri LIMIT %(limit)s;

-- :notified
-- The notifications that it has caused, by recipient.
SELECT n.did, n.reason, n."reasonSubject", n."sortAt"
FROM bsky.notification n
WHERE n."recordUri" = %(uri)s
ORDER BY n.did, n.reason
LIMIT %(limit)s;

-- :muted
-- The notifications that muted threads held back.
SELECT m.did, m.reason FROM pipeline.muted_notification m WHERE m.record_uri = %(uri)s ORDER BY m.did, m.reason
LIMIT %(limit)s;

-- :removed
-- Those of the accounts %(dids)s that were removed, or are being removed.
SELECT m.did FROM pipeline.removal m WHERE m.did = ANY (%(dids)s);

-- :waits_for
-- The records that it waits for, because they are missing.
SELECT p.kind, p.missing, p.since, p.attempts, p.error, p.not_before, p.expires_at
FROM pipeline.pending p
WHERE p.uri = %(uri)s
ORDER BY p.kind, p.missing
LIMIT %(limit)s;

-- :waited_for
-- The records that wait for it, because it is missing.
SELECT p.uri, p.kind, p.since, p.attempts, p.error, p.not_before, p.expires_at
FROM pipeline.pending p
WHERE p.missing = %(uri)s
ORDER BY p.since, p.uri
LIMIT %(limit)s;

-- :dead_letters
-- Dead letters about the path %(path)s of the account, or about whole commits of it; the newest first.
SELECT d.id, d.path, d.kind, d.reason, d.rev, d.first_seen, d.retried_at, d.resolved_at
FROM pipeline.dead_letter d
WHERE d.did = %(did)s AND (d.path = %(path)s OR d.path IS NULL)
ORDER BY d.id DESC
LIMIT %(limit)s;

-- :dead_letters_by_kind
-- Open dead letters of the account, by kind.
SELECT d.kind, count(*), max(d.reason)
FROM pipeline.dead_letter d
WHERE d.did = %(did)s AND d.resolved_at IS NULL
GROUP BY d.kind
ORDER BY d.kind;

-- :gaps
-- Open gaps of the repository, the oldest first.
SELECT g.kind, g.from_text, g.to_text, g.detected_at
FROM pipeline.gap g
WHERE g.did = %(did)s AND g.resolved_at IS NULL
ORDER BY g.detected_at, g.id
LIMIT %(limit)s;

-- :repository
-- The repository: its state, how far it is applied, whether the account is excluded and why, and its place in the queue
-- of repositories.
SELECT
  r.did IS NOT NULL, r.rev, r.chain_from, r.export_rev, r.sync_state, r.sync_reason, r.sync_at, r.is_partial IS TRUE,
  r.excluded IS TRUE, coalesce(s.data_collection_forbidden, false), m.reason, m.requested_at, m.finished_at,
  u.rev, u.since,
  CASE WHEN q.finished_at IS NULL THEN q.reason END, q.enqueued_at, q.not_before, q.attempts, q.error
FROM (VALUES (%(did)s)) v (did)
LEFT JOIN pipeline.repo r USING (did)
LEFT JOIN pipeline.actor_setting s USING (did)
LEFT JOIN pipeline.removal m USING (did)
LEFT JOIN pipeline.unchecked_commit u USING (did)
LEFT JOIN pipeline.backfill_queue q USING (did);

-- :labels
-- What labelers have said of %(subject)s: also what they took back, and what has expired.
SELECT l.src, l.val, l.cid, l.cts, l.exp, l.neg,
  NOT l.neg AND (l.exp IS NULL OR l.exp > to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
FROM bsky.label l
WHERE l.uri = %(subject)s
ORDER BY l.src, l.val, l.cid
LIMIT %(limit)s;

-- :labels_in_effect
-- The labels in effect that readers apply to %(subject)s: its own, those that it gives itself, and its account's.
SELECT l.uri, l.kind, l.src, l.val, l.cid, l.cts, l.exp
FROM pipeline.labels_on(%(subject)s) l
ORDER BY l.kind, l.src, l.val, l.uri
LIMIT %(limit)s;

-- :blocks
-- Blocks between the account and the accounts %(dids)s.
SELECT b.creator, b."subjectDid"
FROM unnest(%(dids)s::text[]) o (did)
CROSS JOIN LATERAL (
  SELECT b.creator, b."subjectDid" FROM bsky.actor_block b WHERE b.creator = %(did)s AND b."subjectDid" = o.did
  UNION ALL
  SELECT b.creator, b."subjectDid" FROM bsky.actor_block b WHERE b.creator = o.did AND b."subjectDid" = %(did)s
  OFFSET 0
) b
ORDER BY 1, 2;

-- :missing_records
-- Those of the URIs %(uris)s that are not indexed.
SELECT u.uri
FROM unnest(%(uris)s::text[]) u (uri)
WHERE (SELECT true FROM bsky.record r WHERE r.uri = u.uri) IS NULL;

-- :post_agg
-- Counters of the posts %(keys)s.
SELECT a.uri, a."likeCount", a."replyCount", a."repostCount", a."quoteCount"
FROM bsky.post_agg a
WHERE a.uri = ANY (%(keys)s);

-- :profile_agg
-- Counters of the accounts %(keys)s.
SELECT a.did, a."followersCount", a."followsCount", a."postsCount"
FROM bsky.profile_agg a
WHERE a.did = ANY (%(keys)s);

-- :not_indexed
-- What was met of a collection that is not indexed.
SELECT c.creates, c.updates, c.deletes, c.last_seen
FROM pipeline.ignored_collection c
WHERE c.collection = %(collection)s;

-- :record_counts
-- How many records of the account are indexed, by collection, counted up to %(limit)s.
SELECT split_part(uri, '/', 4), count(*)
FROM (SELECT r.uri FROM bsky.record r WHERE r.did = %(did)s LIMIT %(limit)s) counted
GROUP BY 1
ORDER BY 2 DESC, 1;

-- :actor
-- What readers see of the account.
SELECT a.handle, a."indexedAt", a."upstreamStatus", a."takedownRef" FROM bsky.actor a WHERE a.did = %(did)s;

-- :parent
-- The parent of a reply as of the reply's rev: what it says of its own root, and whether it is valid itself.
SELECT p.rev, p.root, p.invalid FROM pipeline.post_as_of(%(parent)s, %(rev)s) p;

-- :post_gate
-- The post gate of a quoted post as of the quote's rev.
SELECT g.rev FROM pipeline.state_as_of(%(gate)s, %(rev)s) g;

-- :evaluated_reply
-- Of a trial: how the reply was evaluated, and by which state of which thread gate.
SELECT e.root, e.parent, e.parent_rev, e.invalid, e.violating, g.gate_uri, g.gate_rev, g.is_current
FROM evaluation e
LEFT JOIN gated g USING (uri, rev)
WHERE e.uri = %(uri)s AND e.live;

-- :rules
-- Of a trial: the rules of that gate, the relationship that each asks for, and whether it existed.
SELECT r.kind, r.list, k.relationship, a.holds
FROM gated g
JOIN gate_rule r USING (gate_uri, gate_rev)
CROSS JOIN LATERAL pipeline.relationship_of_rule(r.kind, r.list, split_part(g.root, '/', 3), g.creator) k (relationship)
LEFT JOIN relationship_asked a ON a.relationship = k.relationship AND a.rev = g.rev
WHERE g.uri = %(uri)s
ORDER BY r.kind, r.list;

-- :evaluated_quote
-- Of a trial: whether a post gate forbids the quote, and the quoted post.
SELECT q.embed_uri, v.violating
FROM quote_evaluation v
JOIN stage_post_record q ON q.post_uri = v.uri AND q.is_quote
WHERE v.uri = %(uri)s;

-- :assume_promotion
-- Of a trial: has the statements of pair_notification.sql derive the record's notifications from its whole history, as
-- they do for a record that takes the place of another one. (A temporary table.)
INSERT INTO promotion (old_uri, new_uri, new_cid) SELECT w.uri, w.uri, w.cid FROM stage_write w;

-- :wanted_of_pairs
-- Of a trial: the notifications of the record's pair, with the record that has them and the one that notified first.
SELECT w.did, w.reason, w.reason_subject, w.record_uri, w.opener, w.quiet IS TRUE
FROM wanted_notification w
ORDER BY w.record_uri, w.did, w.reason
LIMIT %(limit)s;

-- :wanted
-- Of a trial: the notifications that follow from the record.
SELECT DISTINCT w.did, w.reason, w.reason_subject
FROM new_notification w
WHERE w.record_uri = %(uri)s
ORDER BY w.did, w.reason, w.reason_subject
LIMIT %(limit)s;

-- :moved_counters
-- Of a trial: the counters that count the record.
SELECT 'post_agg', d.uri, c.name
FROM delta_post d
CROSS JOIN LATERAL (
  VALUES ('likeCount', d.likes), ('replyCount', d.replies), ('repostCount', d.reposts), ('quoteCount', d.quotes)
) c (name, moved)
WHERE c.moved > 0
UNION
SELECT 'post_agg', q.subject, 'quoteCount' FROM bsky.quote q WHERE q.uri = %(uri)s
UNION
SELECT 'profile_agg', d.did, c.name
FROM delta_profile d
CROSS JOIN LATERAL (
  VALUES ('followersCount', d.followers), ('followsCount', d.follows), ('postsCount', d.posts)
) c (name, moved)
WHERE c.moved > 0
ORDER BY 1, 2, 3;

-- :keys_to_recount
-- Of a trial: lists the posts or accounts %(keys)s for a recount. (A temporary table.)
INSERT INTO recount (key) SELECT DISTINCT k.key FROM unnest(%(keys)s::text[]) k (key);

-- :differing
-- Of a trial: the derived tables that are not what the record says.
SELECT DISTINCT d.table_name FROM differing d WHERE d.uri = %(uri)s ORDER BY d.table_name;
