-- pipeline.sweep: how far each sweep has come.
--
-- Guarantees: a step's row moves in the step's own transaction, so a sweep that is killed goes on behind what it has
-- deleted.

-- :read
-- Returns all sweeps: name, position, when nothing more was left, rows deleted.
SELECT name, position, ended_at, rows_deleted FROM pipeline.sweep;

-- :begin
-- Notes that a run begins to work on the sweep %(name)s.
INSERT INTO pipeline.sweep (name, began_at, last_run_at) VALUES (%(name)s, now(), now())
ON CONFLICT (name) DO UPDATE SET
  -- One that never comes to an end keeps the time at which it began.
  began_at = CASE WHEN pipeline.sweep.ended_at >= pipeline.sweep.began_at THEN now() ELSE pipeline.sweep.began_at END,
  last_run_at = now(),
  last_rows = 0,
  error = NULL;

-- :note
-- Notes a step that deleted %(rows)s rows; %(position)s: where the next one goes on (null: nothing is left).
UPDATE pipeline.sweep SET
  position = %(position)s,
  ended_at = CASE WHEN %(position)s::text IS NULL THEN now() ELSE ended_at END,
  rows_deleted = rows_deleted + %(rows)s,
  last_rows = last_rows + %(rows)s,
  last_run_at = now()
WHERE name = %(name)s;

-- :failed
-- Notes why a run stopped.
UPDATE pipeline.sweep SET error = %(error)s, last_run_at = now() WHERE name = %(name)s;
