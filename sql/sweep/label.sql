-- Deletes labels of bsky.label that expired before %(before)s.
--
-- Guarantees: nothing that is in effect changes: no reader shows an expired label. Its label event stays, so what was
-- said before it decides nothing when it comes again; a later label of the same value makes a row again. Only labels
-- whose end was announced (label_feed.expired_to). With the label lock, which the caller takes. At most %(limit)s rows
-- at a time. (A rebuild of the labeler adds the rows again, and the next sweep deletes them.)

-- :due
-- Counts the labels that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (
  SELECT
  FROM bsky.label
  WHERE exp IS NOT NULL AND NOT neg
    AND exp < to_char(%(before)s::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
  LIMIT %(cap)s
) due;

-- :sweep
-- Deletes labels. Returns how many, and whether there may be more (an empty text; null: no).
-- - chosen: the labels; gone: the same.
-- - counted: pipeline.labeler.in_effect, which counts the rows that are not negated.
WITH chosen AS MATERIALIZED (
  SELECT ctid AS place
  FROM bsky.label
  WHERE exp IS NOT NULL AND NOT neg
    AND exp < to_char(
      least(%(before)s::timestamptz, (SELECT expired_to FROM pipeline.label_feed)) AT TIME ZONE 'UTC',
      'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
    )
  ORDER BY exp
  LIMIT %(limit)s
), gone AS (
  DELETE FROM bsky.label l
  WHERE l.ctid = ANY (ARRAY(SELECT place FROM chosen))
  RETURNING l.src
), counted AS (
  UPDATE pipeline.labeler l SET in_effect = l.in_effect - g.number
  FROM (SELECT src, count(*) AS number FROM gone GROUP BY src) g
  WHERE l.did = g.src
)
SELECT count(*), CASE WHEN count(*) >= %(limit)s THEN '' END FROM gone;
