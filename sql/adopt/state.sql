-- How far an adoption has come: the row of pipeline.adoption.
--
-- Guarantees: the row moves in the transaction of the rows that it stands for, so an adoption that is killed goes on
-- where it was.

-- :exists
-- Whether there is the table.
SELECT to_regclass('pipeline.adoption') IS NOT NULL;

-- :read
-- The adoption: when it began and ended, the schema's former name, its options, step, position, counts.
SELECT began_at, finished_at, from_schema, from_cursor, compares, from_keys, step, position, counts
FROM pipeline.adoption;

-- :begin
-- Begins an adoption of the schema %(schema)s with these options and the step %(step)s, unless one has begun and not
-- ended.
INSERT INTO pipeline.adoption AS a (from_schema, from_cursor, compares, from_keys, step)
VALUES (%(schema)s, %(cursor)s, %(compare)s, %(from_keys)s, %(step)s)
ON CONFLICT (id) DO UPDATE SET
  began_at = now(), finished_at = NULL, from_schema = excluded.from_schema, from_cursor = excluded.from_cursor,
  compares = excluded.compares, from_keys = excluded.from_keys, step = excluded.step, position = NULL, counts = '{}',
  updated_at = now()
WHERE a.finished_at IS NOT NULL;

-- :move
-- The step %(step)s has come to %(position)s (null: its beginning), and has done %(counts)s more.
UPDATE pipeline.adoption SET
  step = %(step)s,
  position = %(position)s,
  counts = counts || (
    SELECT coalesce(jsonb_object_agg(key, coalesce((counts ->> key)::bigint, 0) + value::bigint), '{}')
    FROM jsonb_each_text(%(counts)s::jsonb)
  ),
  updated_at = now();

-- :end
-- The adoption has ended.
UPDATE pipeline.adoption SET finished_at = now(), position = NULL, updated_at = now();

-- :forget
-- Forgets an adoption that has not ended: the database was given back to the reference's indexer.
DELETE FROM pipeline.adoption WHERE finished_at IS NULL;
