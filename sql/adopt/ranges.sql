-- The ranges of a step of an adoption: rows of pipeline.adoption_range.
--
-- Guarantees: no range ends within an account. A range moves only from where whoever moves it has found it.

-- :clear
-- Forgets the ranges of an adoption that was given up.
DELETE FROM pipeline.adoption_range WHERE NOT EXISTS (SELECT FROM pipeline.adoption WHERE finished_at IS NULL);

-- :note_work
-- Holds the lock %(key)s, together with the other processes, until the session ends.
SELECT pg_advisory_lock_shared(%(key)s);

-- :size
-- Returns how many records there are, as PostgreSQL estimates it.
SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'bsky.record'::regclass;

-- :bounds
-- Returns the URIs that divide all accounts into %(ranges)s ranges of about as many accounts. Accounts are in the order
-- of their records' URIs, which is another one where a DID is the beginning of another.
WITH account AS (
  SELECT 'at://' || did || '/' AS uri FROM pipeline.repo
)
SELECT uri
FROM (SELECT uri, row_number() OVER (ORDER BY uri) AS n, count(*) OVER () AS accounts FROM account) a
WHERE n < accounts AND n %% greatest(accounts / %(ranges)s, 1) = 0
ORDER BY uri;

-- :make
-- Makes ranges of the part %(part)s of the step %(step)s: after %(after)s, up to %(until)s (null: to the end).
INSERT INTO pipeline.adoption_range (step, part, after, until, position)
SELECT %(step)s, %(part)s, after, until, after
FROM unnest(%(after)s::text[], %(until)s::text[]) r (after, until);

-- :exist
-- Whether the step %(step)s has ranges.
SELECT EXISTS (SELECT FROM pipeline.adoption_range WHERE step = %(step)s);

-- :open
-- The ranges of the step %(step)s that have not ended: step, part, after, until, position.
SELECT step, part, after, until, position
FROM pipeline.adoption_range
WHERE step = %(step)s AND NOT ended
ORDER BY part, after;

-- :move
-- A range has come from %(position)s to %(reached)s (null: it has ended), and has done %(counts)s more.
UPDATE pipeline.adoption_range SET
  position = coalesce(%(reached)s, position),
  ended = %(reached)s::text IS NULL,
  counts = counts || (
    SELECT coalesce(jsonb_object_agg(key, coalesce((counts ->> key)::bigint, 0) + value::bigint), '{}')
    FROM jsonb_each_text(%(counts)s::jsonb)
  ),
  updated_at = now()
WHERE step = %(step)s AND part = %(part)s AND after = %(after)s AND position = %(position)s AND NOT ended;

-- :end
-- Removes the ranges of the step %(step)s. Returns what was done in them, as a JSON object.
-- - gone: the removed ranges.
-- - done: the sums.
WITH gone AS (
  DELETE FROM pipeline.adoption_range WHERE step = %(step)s RETURNING counts
), done AS (
  SELECT key, sum(value::bigint) AS rows FROM gone CROSS JOIN LATERAL jsonb_each_text(gone.counts) GROUP BY key
)
SELECT coalesce(jsonb_object_agg(key, rows), '{}') FROM done;
