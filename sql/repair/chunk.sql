-- One chunk of a rerun: locks its repositories, reads its records, and notes what was repaired. The statements of
-- sql/apply/ do the repairs (store/repair_chunk.py gives the order).
--
-- Guarantees: between `lock` and the commit no other writer applies anything of the chunk's repositories. A row that is
-- right is not touched.

-- :lock
-- Locks the chunk's repositories, in order of did, as the write path does.
SELECT did FROM pipeline.repo WHERE did = ANY (%(dids)s) ORDER BY did FOR UPDATE;

-- :read
-- Reads the chunk's records. Where the rev is not known, the record key stands in for it.
SELECT uri, cid, did, coalesce(rev, split_part(uri, '/', 5)), json, "indexedAt"
FROM bsky.record
WHERE uri = ANY (%(uris)s)
ORDER BY uri;

-- :gone
-- Marks URIs without a record as deleted, so that their rows are removed as the deletion would have removed them.
INSERT INTO touched (uri, collection, change, rev, at)
SELECT g.uri, split_part(g.uri, '/', 4), 'deleted', coalesce(t.rev, 'zzzzzzzzzzzzz'),
  to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
FROM unnest(%(uris)s::text[]) g (uri)
LEFT JOIN pipeline.tombstone t USING (uri);

-- :touch
-- Marks records of one collection whose rows differ, so that their rows are removed and added again.
INSERT INTO touched (uri, collection, change, rev, at)
SELECT DISTINCT w.uri, w.collection, 'repaired', w.rev, w.indexed_at
FROM stage_write w
JOIN differing d USING (uri)
WHERE w.collection = %(collection)s AND d.table_name = %(table)s;

-- :hold
-- Locks the posts that restored records repost or quote. A writer that deletes one of them waits, and then finds the
-- restored rows too.
SELECT r.uri
FROM bsky.record r
WHERE r.uri IN (
  SELECT subject FROM stage_repost
  UNION
  SELECT embed_uri FROM stage_post_record WHERE is_quote
)
ORDER BY r.uri
FOR KEY SHARE OF r;

-- :note
-- Notes what differed as changed.
INSERT INTO changed (table_name, key) SELECT table_name, uri FROM differing;

-- :note_gone
-- Notes rows whose record is gone as changed, before they are removed.
INSERT INTO changed (table_name, key)
SELECT %(table)s, t.uri
FROM touched t
JOIN bsky.{table} l ON l.{uri} = t.uri
WHERE t.change = 'deleted' AND {condition};

-- :result
-- Returns, by table, how many rows were changed, and at most %(shown)s of their keys.
SELECT table_name, count(DISTINCT key)::int, (array_agg(DISTINCT key))[1:%(shown)s] FROM changed GROUP BY table_name;
