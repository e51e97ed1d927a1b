-- Deletes tombstones that were made before %(before)s and lie below the floor of their repository.
--
-- The floor of a repository is `export_rev`: the index holds what the repository held as of that rev, and events up to
-- it that come later change no record (late.sql). So a record that the index does not hold is gone as of the floor,
-- whether there is a tombstone or not. An export sets the floor. Here it is raised to the newest rev of a repository
-- that is complete, because the index itself is such an export.
--
-- Guarantees: the result of whatever comes later is the same with and without these tombstones. Not those of posts,
-- which decide about quotes and reposts of others (pipeline.tombstone_stays). Not of repositories
-- that are being fetched, because their export is compared by the floor of before; nor of those with dead letters or
-- unchecked commits, which may have to be applied with their old revs. Repositories that are not complete keep theirs,
-- however old: what came before their first commit may still arrive. The repositories are locked, as batches lock
-- them; those that others hold are left for the next time. Reads the table in the order of its key, %(limit)s rows
-- after %(position)s at a time.

-- :due
-- Counts the tombstones that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (
  SELECT
  FROM pipeline.tombstone t
  JOIN pipeline.repo r ON r.did = split_part(t.uri, '/', 3)
  WHERE t.deleted_at < %(before)s
    AND NOT pipeline.tombstone_stays(t.collection)
    AND r.resync_at IS NULL
    AND NOT r.excluded
    AND (t.rev <= r.export_rev OR (
      r.sync_state = 'synchronized' AND r.has_start AND NOT r.is_partial AND t.rev <= r.rev
      AND NOT EXISTS (SELECT FROM pipeline.dead_letter d WHERE d.did = r.did AND d.resolved_at IS NULL OFFSET 0)
      AND NOT EXISTS (SELECT FROM pipeline.unchecked_commit u WHERE u.did = r.did OFFSET 0)
    ))
  LIMIT %(cap)s
) due;

-- :page
-- Looks at the next rows. Returns the repositories of those that are old enough, and where to go on (null: this was the
-- end).
WITH page AS MATERIALIZED (
  SELECT uri, deleted_at, collection
  FROM pipeline.tombstone
  WHERE uri > coalesce(%(position)s::jsonb ->> 0, '')
  ORDER BY uri
  LIMIT %(limit)s
)
SELECT
  ARRAY(
    SELECT DISTINCT split_part(uri, '/', 3)
    FROM page
    WHERE deleted_at < %(before)s AND NOT pipeline.tombstone_stays(collection)
  ),
  (SELECT jsonb_build_array(max(uri))::text FROM page HAVING count(*) >= %(limit)s);

-- :lock
-- Locks those of the repositories %(dids)s that nobody else holds, and that are not being fetched.
SELECT did
FROM pipeline.repo
WHERE did = ANY (%(dids)s) AND resync_at IS NULL AND NOT excluded
ORDER BY did
FOR UPDATE SKIP LOCKED;

-- :raise
-- Raises the floors of those of the locked repositories %(dids)s that are complete.
UPDATE pipeline.repo r SET export_rev = r.rev
WHERE r.did = ANY (%(dids)s)
  AND r.sync_state = 'synchronized' AND r.has_start AND NOT r.is_partial
  AND r.rev > coalesce(r.export_rev, '')
  AND NOT EXISTS (SELECT FROM pipeline.dead_letter d WHERE d.did = r.did AND d.resolved_at IS NULL OFFSET 0)
  AND NOT EXISTS (SELECT FROM pipeline.unchecked_commit u WHERE u.did = r.did OFFSET 0);

-- :sweep
-- Deletes tombstones of the locked repositories %(dids)s, of the rows after %(position)s up to, and including,
-- %(last)s (null: all). Returns how many.
WITH gone AS (
  DELETE FROM pipeline.tombstone t
  USING pipeline.repo r
  WHERE t.uri > coalesce(%(position)s::jsonb ->> 0, '')
    AND (%(last)s::text IS NULL OR t.uri <= %(last)s::jsonb ->> 0)
    AND t.deleted_at < %(before)s
    AND NOT pipeline.tombstone_stays(t.collection)
    AND r.did = split_part(t.uri, '/', 3)
    AND r.did = ANY (%(dids)s)
    AND t.rev <= r.export_rev
  RETURNING t.uri
)
SELECT count(*) FROM gone;
