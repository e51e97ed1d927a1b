-- One chunk of a rerun: its repositories are locked, its records read, and what differs is found and repaired by the
-- statements of sql/apply/ (store/repair_chunk.py has their order).
--
-- Guarantees: from here to the commit no other writer applies anything of the chunk's repositories. A row that is right is
-- not touched.

-- :lock
SELECT did FROM pipeline.repo WHERE did = ANY (%(dids)s) ORDER BY did FOR UPDATE;

-- :read
-- Where the rev is not known, the record key stands in for it.
SELECT uri, cid, did, coalesce(rev, split_part(uri, '/', 5)), json, "indexedAt"
FROM bsky.record
WHERE uri = ANY (%(uris)s)
ORDER BY uri;

-- :gone
-- Rows without a record are removed as the record's deletion would have removed them.
INSERT INTO touched (uri, collection, change, rev, at)
SELECT g.uri, split_part(g.uri, '/', 4), 'deleted', coalesce(t.rev, 'zzzzzzzzzzzzz'),
  to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
FROM unnest(%(uris)s::text[]) g (uri)
LEFT JOIN pipeline.tombstone t USING (uri);

-- :touch
INSERT INTO touched (uri, collection, change, rev, at)
SELECT DISTINCT w.uri, w.collection, 'repaired', w.rev, w.indexed_at
FROM stage_write w
JOIN differing d USING (uri)
WHERE w.collection = %(collection)s AND d.table_name = %(table)s;

-- :hold
-- Locks posts while quotes and reposts of them are restored: a writer that deletes one waits, and then finds those too.
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
INSERT INTO changed (table_name, key) SELECT table_name, uri FROM differing;

-- :note_gone
-- Rows that are about to be removed because they have no record.
INSERT INTO changed (table_name, key)
SELECT %(table)s, t.uri
FROM touched t
JOIN bsky.{table} l ON l.{uri} = t.uri
WHERE t.change = 'deleted' AND {condition};

-- :result
SELECT table_name, count(DISTINCT key)::int, (array_agg(DISTINCT key))[1:%(shown)s] FROM changed GROUP BY table_name;
