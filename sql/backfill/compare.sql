-- What the index holds of a repository, to be compared with its export.
--
-- Guarantees: reads only, a limited number of rows at a time, in the order of URIs as bytes (store/postgres.py refuses
-- databases that sort otherwise), through the primary keys. A URI may come twice, from both tables.

-- :states
-- Returns up to %(limit)s records and tombstones of the repository from %(first)s on, and before %(end)s: (uri, cid,
-- rev). A tombstone has no CID. Each table gives as many, so that a page costs the same wherever it is.
SELECT uri, cid, rev
FROM (
  (SELECT uri, cid, rev FROM bsky.record WHERE uri >= %(first)s AND uri < %(end)s ORDER BY uri LIMIT %(limit)s)
  UNION ALL
  (
    SELECT uri, NULL, rev
    FROM pipeline.tombstone
    WHERE uri >= %(first)s AND uri < %(end)s
    ORDER BY uri
    LIMIT %(limit)s
  )
) s
ORDER BY uri
LIMIT %(limit)s;

-- :states_with_json
-- The same, with the JSON of the records.
SELECT uri, cid, rev, json
FROM (
  (SELECT uri, cid, rev, json FROM bsky.record WHERE uri >= %(first)s AND uri < %(end)s ORDER BY uri LIMIT %(limit)s)
  UNION ALL
  (
    SELECT uri, NULL, rev, NULL
    FROM pipeline.tombstone
    WHERE uri >= %(first)s AND uri < %(end)s
    ORDER BY uri
    LIMIT %(limit)s
  )
) s
ORDER BY uri
LIMIT %(limit)s;
