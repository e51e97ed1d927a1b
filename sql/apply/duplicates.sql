-- Natural keys: several records of one account may say the same (two likes of one post); one of them counts.
--
-- Guarantees, for every order of arrival and deletion: of the records with one natural key the first by rev, then
-- record key, is in the collection's table; all others are in bsky.duplicate_record, pointing at it. When the first is
-- deleted, the next is promoted; when an older one arrives late, the newer one is demoted. There is one notification,
-- and it moves along.
--
-- In this file {table} is the collection's table, {stage} its staging table, {key_1}, {key_2} the natural key's columns
-- in the table and {stage_key_1}, {stage_key_2} in the staging table; {collection} is the collection's name. No
-- statement runs for a batch of plain creations without duplicates.

-- :free_keys
-- Notes the natural keys of records that are about to be removed.
INSERT INTO freed_key (uri, key_1, key_2, rev)
SELECT l.uri, l.{key_1}, l.{key_2}, t.rev
FROM touched t
CROSS JOIN LATERAL (SELECT * FROM bsky.{table} l WHERE l.uri = t.uri OFFSET 0) l
WHERE t.change <> 'stale' AND NOT t.removed;

-- :mark
-- Marks the records that `remove` has taken out, so that it does not run for them again.
UPDATE touched SET removed = true WHERE collection = {collection} AND change <> 'stale';

-- :unlist
-- Removes duplicates that were edited or deleted themselves.
DELETE FROM bsky.duplicate_record d
USING touched t
WHERE d.uri = t.uri AND t.collection = {collection} AND t.change <> 'stale';

-- :candidates
-- Takes the duplicates of a removed record off the list and returns them; they are staged like newly arrived records,
-- and compete for the freed key.
-- - candidate: these duplicates.
-- - stored: their records.
-- - noted: those of them that notify nobody.
WITH candidate AS (
  DELETE FROM bsky.duplicate_record d
  USING touched t
  WHERE d."duplicateOf" = t.uri AND t.collection = {collection} AND t.change IN ('updated', 'recreated', 'deleted')
  RETURNING d.uri
), stored AS MATERIALIZED (
  SELECT r.uri, r.cid, r.did, r.rev, r.json, r."indexedAt", r.quiet
  FROM candidate
  JOIN bsky.record r USING (uri)
  WHERE NOT EXISTS (SELECT FROM {stage} s WHERE s.uri = r.uri)
), noted AS (
  INSERT INTO quiet_record (uri)
  SELECT uri FROM stored WHERE quiet
)
SELECT uri, cid, did, rev, json, "indexedAt" FROM stored;

-- :demote
-- Demotes records that a staged one precedes; `remove` and `add` of the collection then exchange the two. Returns how
-- many.
-- - preceded: records that count, and that an older staged record precedes.
-- - demoted: the same, noted in `touched`.
WITH preceded AS (
  SELECT DISTINCT l.uri, r.rev, r."indexedAt"
  FROM (SELECT s.* FROM {stage} s WHERE NOT EXISTS (SELECT FROM added a WHERE a.uri = s.uri) OFFSET 0) s
  CROSS JOIN LATERAL (
    SELECT l.uri
    FROM bsky.{table} l
    WHERE l.{key_1} = s.{stage_key_1} AND l.{key_2} = s.{stage_key_2} AND l.uri <> s.uri
    OFFSET 0
  ) l
  CROSS JOIN LATERAL (SELECT * FROM bsky.record r WHERE r.uri = l.uri OFFSET 0) r
  WHERE (s.rev, s.uri COLLATE "C") < (r.rev, r.uri COLLATE "C")
), demoted AS (
  INSERT INTO touched (uri, collection, change, rev, at)
  SELECT uri, {collection}, 'demoted', rev, "indexedAt" FROM preceded
  RETURNING uri
)
SELECT count(*) FROM demoted;

-- :list
-- Lists as duplicates all records that do not count: staged records, demoted ones, and the demoted ones' duplicates.
-- - not_counting: those three, in this order, with their natural keys.
WITH not_counting AS (
  SELECT s.uri, s.cid, s.{stage_key_1} AS key_1, s.{stage_key_2} AS key_2, s.indexed_at
  FROM {stage} s
  WHERE NOT EXISTS (SELECT FROM added a WHERE a.uri = s.uri)
  UNION ALL
  SELECT r.uri, r.cid, v.key_1, v.key_2, r."indexedAt"
  FROM touched t
  JOIN freed_key v USING (uri)
  JOIN bsky.record r USING (uri)
  WHERE t.collection = {collection} AND t.change = 'demoted'
  UNION ALL
  SELECT d.uri, d.cid, v.key_1, v.key_2, d."indexedAt"
  FROM touched t
  JOIN freed_key v USING (uri)
  JOIN bsky.duplicate_record d ON d."duplicateOf" = v.uri
  WHERE t.collection = {collection} AND t.change = 'demoted'
)
INSERT INTO bsky.duplicate_record AS d (uri, cid, "duplicateOf", "indexedAt")
SELECT DISTINCT ON (o.uri) o.uri, o.cid, l.uri, o.indexed_at
FROM not_counting o
CROSS JOIN LATERAL (SELECT l.uri FROM bsky.{table} l WHERE l.{key_1} = o.key_1 AND l.{key_2} = o.key_2 OFFSET 0) l
WHERE l.uri <> o.uri
ORDER BY o.uri
ON CONFLICT (uri) DO UPDATE SET cid = excluded.cid, "duplicateOf" = excluded."duplicateOf";

-- :promote
-- Notes which record took the place of which. A record made after the other was deleted is no duplicate of it: it
-- notifies again.
INSERT INTO promotion (old_uri, new_uri, new_cid)
SELECT v.uri, l.uri, l.cid
FROM freed_key v
CROSS JOIN LATERAL (SELECT * FROM bsky.{table} l WHERE l.{key_1} = v.key_1 AND l.{key_2} = v.key_2 OFFSET 0) l
CROSS JOIN LATERAL (SELECT r.rev FROM bsky.record r WHERE r.uri = l.uri OFFSET 0) r
WHERE l.uri <> v.uri AND r.rev < v.rev;

-- :clear_keys
-- Ends the work on this collection: freed keys are noted for one collection at a time.
DELETE FROM freed_key;
