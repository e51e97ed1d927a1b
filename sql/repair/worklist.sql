-- What a rerun looks at: the records of %(collections)s that were applied from %(since)s up to, not including,
-- %(until)s (null: without bound), and the rows of the same accounts in derived tables that have no record.
--
-- Guarantees: every record of the span is in the list once, repository by repository, the most recently applied first:
-- the live stream most likely writes to these again, so the rerun and the stream meet there only once. Of rows without
-- a record, only the newest %(orphans)s an account and table are looked for (null: all), so that one large account
-- can't hold up the rerun.

-- :clear
-- Empties the list.
TRUNCATE rerun, subject_post, subject_profile;

-- :records
-- Lists the records of the span.
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
-- Finds rows without a record in a table that can be searched by account: {table}, its columns {uri} and {creator},
-- {order}, {condition}.
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
-- Finds rows without a record in a table that can be searched only by URI.
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
-- Adds these rows to the list, next to the records of their repository.
-- - known: the list so far, taken out.
-- - listed: both, each URI once.
-- - placed: the same, with the place of their repository.
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
-- Returns the entries of the list from %(after)s (exclusive) to %(until)s.
SELECT uri, did FROM rerun WHERE n > %(after)s AND n <= %(until)s ORDER BY n;
