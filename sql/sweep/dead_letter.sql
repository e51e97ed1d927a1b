-- Deletes at most %(limit)s dead letters first seen before %(before)s, oldest first, and as many counts of the overflow
-- and of days.
--
-- Guarantees: nothing of the index depends on them. Bounded: run it until it deletes nothing.

-- :letters
-- Deletes dead letters, with their bytes.
DELETE FROM pipeline.dead_letter
WHERE id IN (SELECT id FROM pipeline.dead_letter WHERE first_seen < %(before)s ORDER BY first_seen LIMIT %(limit)s);

-- :overflow
-- Deletes counts of dead letters that were not stored.
DELETE FROM pipeline.dead_letter_overflow
WHERE (kind, minute) IN (
  SELECT kind, minute FROM pipeline.dead_letter_overflow WHERE minute < %(before)s ORDER BY minute LIMIT %(limit)s);

-- :days
-- Deletes what was stored by day.
DELETE FROM pipeline.dead_letter_day
WHERE (kind, day) IN (
  SELECT kind, day
  FROM pipeline.dead_letter_day
  WHERE day < %(before)s::timestamptz::date
  ORDER BY day
  LIMIT %(limit)s
);
