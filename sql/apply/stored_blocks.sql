-- Stored records by their content, for operations whose record block was not sent because it had been sent before.
--
-- Guarantees: a record is identified by its CID, so it is the right one wherever in the repository it is found.
-- Bounded: of a collection of a repository the newest %(limit)s records are looked at, and the operations' own URIs.
-- Reads only.
SELECT w.did, w.collection, r.cid, r.json
FROM unnest(%(dids)s::text[], %(collections)s::text[]) AS w (did, collection)
CROSS JOIN LATERAL (
  SELECT newest.cid, newest.json
  FROM (
    SELECT cid, json
    FROM bsky.record
    WHERE uri >= 'at://' || w.did || '/' || w.collection || '/' AND uri < 'at://' || w.did || '/' || w.collection || '0'
    ORDER BY uri DESC
    LIMIT %(limit)s
  ) newest
  WHERE newest.cid = ANY (%(cids)s)
) r
UNION ALL
SELECT r.did, split_part(r.uri, '/', 4), r.cid, r.json
FROM bsky.record r
WHERE r.uri = ANY (%(uris)s) AND r.cid = ANY (%(cids)s);
