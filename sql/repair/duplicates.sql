-- Natural keys in a rerun: which records are duplicates, and of which record. Placeholders as in
-- sql/apply/duplicates.sql.
--
-- Guarantees: what is right is as sql/apply/duplicates.sql says: the first record by rev, then record key, is in the
-- collection's table, all others are in duplicate_record and point at it.

-- :rightful
-- Drops staged records from `differing` that have no row because they are duplicates, and are listed as such.
DELETE FROM differing x
USING {stage} s, bsky.duplicate_record d, bsky.{table} l, bsky.record r
WHERE x.table_name = %(table)s
  AND s.uri = x.uri
  AND d.uri = s.uri
  AND d.cid = s.cid
  AND d."indexedAt" = s.indexed_at
  AND l.uri = d."duplicateOf"
  AND l.{key_1} = s.{stage_key_1}
  AND l.{key_2} = s.{stage_key_2}
  AND r.uri = l.uri
  AND (coalesce(r.rev, split_part(r.uri, '/', 5)), r.uri COLLATE "C") < (s.rev, s.uri COLLATE "C")
  AND NOT EXISTS (SELECT FROM bsky.{table} own WHERE own.uri = s.uri);

-- :wrongful
-- Notes staged records that have a row although they are listed as a duplicate, or although a duplicate precedes them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, %(table)s
FROM {stage} s
JOIN bsky.{table} l USING (uri)
WHERE EXISTS (SELECT FROM bsky.duplicate_record d WHERE d.uri = s.uri)
  OR EXISTS (
    SELECT
    FROM bsky.duplicate_record d
    JOIN bsky.record r USING (uri)
    WHERE d."duplicateOf" = s.uri
      AND (coalesce(r.rev, split_part(r.uri, '/', 5)), r.uri COLLATE "C") < (s.rev, s.uri COLLATE "C")
  );

-- :candidates
-- Returns the records that compete with those that differ; they are staged together. These are: the record that a
-- differing one is listed as a duplicate of, if that has no row; its other duplicates; and duplicates that precede the
-- differing record.
-- - head: the first of the three.
WITH head AS (
  SELECT DISTINCT d."duplicateOf" AS uri
  FROM differing x
  JOIN bsky.duplicate_record d USING (uri)
  WHERE x.table_name = %(table)s AND NOT EXISTS (SELECT FROM bsky.{table} l WHERE l.uri = d."duplicateOf")
)
SELECT r.uri, r.cid, r.did, coalesce(r.rev, split_part(r.uri, '/', 5)), r.json, r."indexedAt"
FROM (
  SELECT uri FROM head
  UNION
  SELECT d.uri FROM head JOIN bsky.duplicate_record d ON d."duplicateOf" = head.uri
  UNION
  SELECT d.uri
  FROM differing x
  JOIN {stage} s USING (uri)
  JOIN bsky.duplicate_record d ON d."duplicateOf" = x.uri
  JOIN bsky.record p ON p.uri = d.uri
  WHERE x.table_name = %(table)s
    AND (coalesce(p.rev, split_part(p.uri, '/', 5)), p.uri COLLATE "C") < (s.rev, s.uri COLLATE "C")
) related
JOIN bsky.record r USING (uri)
ORDER BY r.uri;

-- :follow_head
-- Points duplicates of a record that has become a duplicate itself at the record that counts.
UPDATE bsky.duplicate_record d SET "duplicateOf" = head."duplicateOf"
FROM differing x
JOIN bsky.duplicate_record head USING (uri)
WHERE x.table_name = %(table)s AND d."duplicateOf" = head.uri;

-- :report
-- Names duplicate_record as the table that was repaired, where the record is a duplicate.
UPDATE differing x SET table_name = 'duplicate_record'
WHERE x.table_name = %(table)s
  AND EXISTS (SELECT FROM bsky.duplicate_record d WHERE d.uri = x.uri);
