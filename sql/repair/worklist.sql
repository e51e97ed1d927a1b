-- What a rerun looks at: the records of %(collections)s that were applied from %(since)s up to, not including, %(until)s
-- (null: without bound), and what the same accounts have in derived tables without a record.
--
-- Guarantees: every record of the span is in the list once, repository by repository. Those whose records were applied last
-- come first: the live stream is most likely to write to them again, and so meets the rerun there only once. Rows without a
-- record are searched for among the newest %(orphans)s of an account and table (null: all), so that one busy account can't
-- hold up the rerun.

-- :clear
TRUNCATE rerun, subject_post, subject_profile;

-- :records
INSERT INTO rerun (n, uri, did)
SELECT row_number() OVER (ORDER BY newest DESC, did, uri), uri, did
FROM (
  SELECT uri, did, max("appliedAt") OVER (PARTITION BY did) AS newest
  FROM bsky.record
  WHERE (%(since)s::timestamptz IS NULL OR "appliedAt" >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR "appliedAt" < %(until)s)
    AND split_part(uri, '/', 4) = ANY (%(collections)s)
) listed;

-- :orphans_by_creator
-- For a table with an index by account. Placeholders: {table}, its columns {uri} and {creator}, {order}, {condition}.
INSERT INTO orphan (uri, did)
SELECT x.uri, d.did
FROM (SELECT DISTINCT did FROM rerun) d
CROSS JOIN LATERAL (
  SELECT l.{uri} AS uri
  FROM bsky.{table} l
  WHERE l.{creator} = d.did AND {condition}
  ORDER BY {order}
  LIMIT %(orphans)s
) x
WHERE split_part(x.uri, '/', 4) = ANY (%(collections)s)
  AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = x.uri);

-- :orphans_by_uri
-- For a table with an index by URI alone. (In a database that does not sort by byte the span is empty.)
INSERT INTO orphan (uri, did)
SELECT DISTINCT x.uri, d.did
FROM (SELECT DISTINCT did FROM rerun) d
CROSS JOIN unnest(%(collections)s::text[]) c (nsid)
CROSS JOIN LATERAL (
  SELECT l.{uri} AS uri
  FROM bsky.{table} l
  WHERE l.{key} >= 'at://' || d.did || '/' || c.nsid || '/' AND l.{key} < 'at://' || d.did || '/' || c.nsid || '0'
    AND {condition}
  ORDER BY l.{key} DESC
  LIMIT %(orphans)s
) x
WHERE split_part(x.uri, '/', 3) = d.did
  AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = x.uri);

-- :merge
WITH known AS (
  DELETE FROM rerun RETURNING n, uri, did
), listed AS (
  SELECT uri, did, min(n) AS n
  FROM (SELECT n, uri, did FROM known UNION ALL SELECT NULL, uri, did FROM orphan) found
  GROUP BY uri, did
), placed AS (
  SELECT uri, did, min(n) OVER (PARTITION BY did) AS place FROM listed
)
INSERT INTO rerun (n, uri, did)
SELECT row_number() OVER (ORDER BY place, did, uri), uri, did FROM placed;

-- :chunk
SELECT uri, did FROM rerun WHERE n > %(after)s AND n <= %(until)s ORDER BY n;
