-- Notifications: the reference writes one again whenever an event is applied again.
--
-- Guarantees: of several of one recipient, record and reason the first one stays, with its id and time.

-- :next
-- Returns the record URI up to which the next %(limit)s notifications after %(after)s reach; null: to the end.
SELECT "recordUri" FROM bsky.notification WHERE "recordUri" > %(after)s ORDER BY "recordUri" OFFSET %(limit)s LIMIT 1;

-- :remove
-- Removes the repeated notifications of records after %(after)s up to %(until)s (null: to the end).
DELETE FROM bsky.notification n
USING bsky.notification o
WHERE n."recordUri" > %(after)s AND (%(until)s::text IS NULL OR n."recordUri" <= %(until)s)
  AND o."recordUri" = n."recordUri" AND o.did = n.did AND o.reason = n.reason AND o.id < n.id;

-- :pass_on
-- Likes, reposts and follows that were promoted: gives them the notifications of records after %(after)s up to
-- %(until)s that are gone, and takes those away that they have got since.
-- - gone: notifications without a record, and the record that counts today.
-- - heir: those whose record that counts notifies, each once.
-- - own: the notifications that these have.
WITH gone AS MATERIALIZED (
  SELECT n.id, n.did, n.reason, coalesce(l.uri, p.uri, f.uri) AS uri
  FROM bsky.notification n
  LEFT JOIN bsky."like" l ON n.reason = 'like' AND l.subject = n."reasonSubject" AND l.creator = n.author
  LEFT JOIN bsky.repost p ON n.reason = 'repost' AND p.subject = n."reasonSubject" AND p.creator = n.author
  LEFT JOIN bsky.follow f ON n.reason = 'follow' AND f."subjectDid" = n.did AND f.creator = n.author
  WHERE n."recordUri" > %(after)s AND (%(until)s::text IS NULL OR n."recordUri" <= %(until)s)
    AND n.reason IN ('like', 'repost', 'follow')
    AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = n."recordUri")
), heir AS MATERIALIZED (
  SELECT DISTINCT ON (g.uri, g.did, g.reason) g.id, g.uri, g.did, g.reason, r.cid
  FROM gone g
  JOIN bsky.record r ON r.uri = g.uri
  ORDER BY g.uri, g.did, g.reason, g.id
), own AS (
  DELETE FROM bsky.notification n
  USING heir h
  WHERE n."recordUri" = h.uri AND n.did = h.did AND n.reason = h.reason
  RETURNING n.id
)
SELECT h.id, h.uri, h.cid FROM heir h WHERE (SELECT count(*) FROM own) >= 0;

-- :pass
-- Gives the notifications %(ids)s to the records %(uris)s with %(cids)s. (A statement of its own: until `pass_on` has
-- ended, what it deletes is in the way of the unique index.)
UPDATE bsky.notification n SET "recordUri" = h.uri, "recordCid" = h.cid
FROM unnest(%(ids)s::bigint[], %(uris)s::text[], %(cids)s::text[]) AS h (id, uri, cid)
WHERE n.id = h.id;
