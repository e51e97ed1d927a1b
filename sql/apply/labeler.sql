-- app.bsky.labeler.service -> bsky.labeler, and what the labeler's labels mean: pipeline.label_definition.
--
-- Guarantees: one row per account that offers labels, by its record `self` (indexing/collections/labeler.py), in its
-- newest state; with it one row for each value that this state names or defines. Definitions that were set here
-- (is_local) are not touched.

-- :stage
-- The last state of every record that the batch creates or updates, and the values that it names or defines.
CREATE TEMPORARY TABLE stage_labeler (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE stage_label_definition (
  uri text NOT NULL,
  src text NOT NULL,
  val text NOT NULL,
  position integer NOT NULL,
  severity text,
  blurs text,
  default_setting text,
  adult_only boolean NOT NULL,
  locales jsonb NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited or deleted, with their definitions.
WITH gone AS (
  SELECT uri, split_part(uri, '/', 3) AS did
  FROM touched
  WHERE change <> 'stale' AND collection = 'app.bsky.labeler.service' AND split_part(uri, '/', 5) = 'self'
), definitions AS (
  DELETE FROM pipeline.label_definition d
  WHERE d.src = ANY (ARRAY(SELECT did FROM gone)) AND NOT d.is_local
)
DELETE FROM bsky.labeler l
WHERE l.uri = ANY (ARRAY(SELECT uri FROM gone));

-- :add
-- Adds the rows of staged records.
INSERT INTO bsky.labeler (uri, cid, creator, "createdAt", "indexedAt")
SELECT uri, cid, creator, created_at, indexed_at
FROM stage_labeler
ORDER BY uri
ON CONFLICT (uri) DO NOTHING;

-- :add_definitions
-- Adds the definitions of staged records.
INSERT INTO pipeline.label_definition
  (src, val, is_local, position, severity, blurs, default_setting, adult_only, locales, updated_at)
SELECT src, val, false, position, severity, blurs, default_setting, adult_only, locales, indexed_at::timestamptz
FROM stage_label_definition
ORDER BY src, val
ON CONFLICT (src, val, is_local) DO NOTHING;

-- :differs
-- Notes staged records whose row, or whose definitions, are missing or differ; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'labeler'
FROM stage_labeler s
LEFT JOIN bsky.labeler l USING (uri)
WHERE (l.cid, l.creator, l."createdAt", l."indexedAt")
    IS DISTINCT FROM (s.cid, s.creator, s.created_at, s.indexed_at)
  OR (
    SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.val), '[]')
    FROM (
      SELECT val, position, severity, blurs, default_setting, adult_only, locales, indexed_at::timestamptz AS updated_at
      FROM stage_label_definition
      WHERE uri = s.uri
    ) d
  ) <> (
    SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.val), '[]')
    FROM (
      SELECT val, position, severity, blurs, default_setting, adult_only, locales, updated_at
      FROM pipeline.label_definition
      WHERE src = s.creator AND NOT is_local
    ) d
  );
