-- Records of an adopted database, and rows without one.
--
-- Guarantees: reads only, but for `rewrite`, which changes how a record is written and not what it says.

-- :next
-- The next %(limit)s records after %(after)s up to %(until)s (null: to the end), in the order of URIs: URI, CID, DID,
-- rev, JSON, indexedAt.
SELECT uri, cid, did, rev, json, "indexedAt"
FROM bsky.record
WHERE uri > %(after)s AND (%(until)s::text IS NULL OR uri <= %(until)s)
ORDER BY uri
LIMIT %(limit)s;

-- :rewrite
-- Writes the record %(uri)s as %(json)s, from which what readers can't read is taken out.
UPDATE bsky.record SET json = %(json)s WHERE uri = %(uri)s;

-- :forget_subjects
-- Forgets whose counters would have to be recounted: all are.
TRUNCATE subject_post, subject_profile;

-- :rows_next
-- Returns the key up to which the next %(limit)s rows of {table} after %(after)s reach; null: to the end.
SELECT {key} FROM bsky.{table} WHERE {key} > %(after)s ORDER BY {key} OFFSET %(limit)s LIMIT 1;

-- :rows_without_record
-- Returns the URIs of the rows of {table} after %(after)s up to %(until)s (null: to the end) that have no record.
SELECT DISTINCT l.{uri}
FROM bsky.{table} l
WHERE l.{key} > %(after)s AND (%(until)s::text IS NULL OR l.{key} <= %(until)s)
  AND {condition}
  AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = l.{uri})
ORDER BY 1;
