-- Deletes past label events that decide nothing any more: the next %(limit)s rows of pipeline.label_event after
-- label_feed.swept_to that were applied before %(before)s, and older rows that these have overtaken.
--
-- Guarantees: bsky.label stays as it is and would be derived to the same rows again, whatever comes later. Kept are the
-- greatest event of each (src, uri, cid, val), and the greatest negation of each (src, uri, val) (sql/apply/label.sql
-- has the order), so what was deleted and is delivered again is less, and decides nothing. Kept is also a negation that
-- took effect, until another one that did follows it in the feed: readers may still have what it ended. A reader whose
-- cursor lies before an event that took effect and is deleted finds that out in pipeline.label_swept. Bounded: run it
-- until it has looked at nothing. With the label lock, which the caller takes.
--
-- Of older rows only those are looked at that may have been kept until now: the rows of the same (src, uri, cid, val),
-- and the greatest negation so far of the same (src, uri, val). So each event is looked at about twice in its life.

-- :due
-- Counts the rows that are looked at, up to %(cap)s. Fewer are deleted.
SELECT count(*)
FROM (
  SELECT
  FROM pipeline.label_event
  WHERE id > (SELECT swept_to FROM pipeline.label_feed) AND received_at < %(before)s
  LIMIT %(cap)s
) due;

-- :sweep
-- Returns how many rows were deleted, and whether there may be more (an empty text; null: no row was looked at).
-- - next_rows: the next rows of all.
-- - page: those of them before the first one that is not old.
-- - candidate: what may be deleted: the page, and older rows that it may have overtaken.
-- - described: the same with their places in the order.
-- - last_said: the candidates' last negation of each (src, uri, val) that took effect.
-- - doomed: those that are not the greatest event of their key, l, and, if they are negations, less than the greatest
--   one, n. Of events that differ in their exp alone, the 100 latest are looked at, as in sql/apply/label.sql.
--   Of negations that took effect those that another one follows: n, or one of last_said.
-- - gone: rows that are deleted.
-- - noted: what readers of the feed will miss of them; not of excluded accounts, whose names are not stored anew.
-- - moved: label_feed with its new swept_to.
WITH next_rows AS MATERIALIZED (
  SELECT e.id, e.src, e.uri, e.val, e.cid, e.neg, e.received_at
  FROM pipeline.label_event e
  WHERE e.id > (SELECT swept_to FROM pipeline.label_feed)
  ORDER BY e.id
  LIMIT %(limit)s
), page AS MATERIALIZED (
  SELECT n.*
  FROM next_rows n
  WHERE n.id < coalesce((SELECT min(id) FROM next_rows WHERE received_at >= %(before)s), 9223372036854775807)
), candidate AS MATERIALIZED (
  SELECT id FROM page
  UNION
  SELECT o.id
  FROM (SELECT DISTINCT uri, src, val, cid FROM page) k
  CROSS JOIN LATERAL (
    SELECT e.id
    FROM pipeline.label_event e
    WHERE e.uri = k.uri AND e.src = k.src AND e.val = k.val AND e.cid = k.cid
      AND e.id <= (SELECT swept_to FROM pipeline.label_feed)
    OFFSET 0
  ) o
  UNION
  SELECT o.id
  FROM (SELECT DISTINCT uri, src, val FROM page WHERE neg) t
  CROSS JOIN LATERAL (
    SELECT e.id
    FROM pipeline.label_event e
    WHERE e.uri = t.uri AND e.src = t.src AND e.val = t.val AND e.neg
      AND e.id <= (SELECT swept_to FROM pipeline.label_feed)
    ORDER BY e.cts_at DESC, coalesce(e.seq, -1) DESC
    LIMIT 1
  ) o
), described AS MATERIALIZED (
  SELECT e.id, e.src, e.uri, e.val, e.cid, e.neg, e.cts_at, coalesce(e.seq, -1) AS seq,
    e.neg AND e.took_effect AS has_ended
  FROM pipeline.label_event e
  WHERE e.id = ANY (ARRAY(SELECT id FROM candidate))
), last_said AS MATERIALIZED (
  SELECT src, uri, val, max(id) AS id FROM described WHERE has_ended GROUP BY src, uri, val
), doomed AS MATERIALIZED (
  SELECT d.id
  FROM described d
  CROSS JOIN LATERAL (
    SELECT e.id
    FROM (
      SELECT id, cts_at, seq, neg, exp_at
      FROM pipeline.label_event
      WHERE uri = d.uri AND src = d.src AND val = d.val AND cid = d.cid
      ORDER BY cts_at DESC, neg DESC, exp_at DESC
      LIMIT 100
    ) e
    ORDER BY e.cts_at DESC, coalesce(e.seq, -1) DESC, e.neg DESC, e.exp_at DESC
    LIMIT 1
  ) l
  LEFT JOIN LATERAL (
    SELECT e.id, e.cts_at, coalesce(e.seq, -1) AS seq, e.took_effect
    FROM pipeline.label_event e
    WHERE e.uri = d.uri AND e.src = d.src AND e.val = d.val AND e.neg
    ORDER BY e.cts_at DESC, coalesce(e.seq, -1) DESC
    LIMIT 1
  ) n ON d.neg
  WHERE d.id <> l.id
    AND (NOT d.neg OR (d.cts_at, d.seq) < (n.cts_at, n.seq))
    AND (NOT d.has_ended OR n.took_effect AND n.id > d.id OR d.id NOT IN (SELECT id FROM last_said))
), gone AS (
  DELETE FROM pipeline.label_event e
  WHERE e.id = ANY (ARRAY(SELECT id FROM doomed))
  RETURNING e.id, e.src, e.took_effect
), noted AS (
  INSERT INTO pipeline.label_swept AS s (src, swept_to)
  SELECT g.src, max(g.id)
  FROM gone g
  WHERE g.took_effect AND NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = g.src AND r.excluded)
  GROUP BY g.src
  ORDER BY g.src
  ON CONFLICT (src) DO UPDATE SET swept_to = greatest(s.swept_to, excluded.swept_to)
), moved AS (
  UPDATE pipeline.label_feed SET swept_to = p.id FROM (SELECT max(id) AS id FROM page) p WHERE p.id IS NOT NULL
)
SELECT (SELECT count(*) FROM gone), CASE WHEN (SELECT count(*) FROM page) > 0 THEN '' END;
