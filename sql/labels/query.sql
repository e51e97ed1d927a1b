-- Labels as people and other services ask for them: of subjects, sources and values (store/label_query.py).
--
-- Guarantees: reads only. Returns, of each (src, uri, cid, val), the label or negation that decides what bsky.label
-- says, as it was signed. A label that a negation of another CID has ended is not among them, but that negation is. A
-- page looks at %(examined)s rows at most, whatever was asked for, and reads them by an index in the order of its
-- cursor; of several sources it reads as many of each. For each of these rows it reads 100 others at most.
--
-- Every statement returns one row at least: `examined` and `last_...` say how many rows were looked at, and the last of
-- them; the columns after these are null where the page is empty.
--
-- Placeholders (store/label_query.py fills them): {of_row}, {wanted}, {unexpired}, {rows} and {events} stand for parts
-- of this file, {condition} for what a label event has to be, {after} and {direction} for the direction of reading.

-- :of_row
-- The event that decides a row `l` of bsky.label: the newest of its key, as sql/apply/label.sql finds it, or the newest
-- negation of any CID.
SELECT v.*
FROM (
  (
    SELECT v.*
    FROM (
      SELECT v.*
      FROM pipeline.label_event v
      WHERE NOT l.neg AND v.uri = l.uri AND v.src = l.src AND v.val = l.val AND v.cid = l.cid
      ORDER BY v.cts_at DESC, v.neg DESC, v.exp_at DESC
      LIMIT 100
    ) v
    ORDER BY v.cts_at DESC, coalesce(v.seq, -1) DESC, v.neg DESC, v.exp_at DESC
    LIMIT 1
  )
  UNION ALL
  (
    SELECT v.*
    FROM (
      SELECT *
      FROM (
        SELECT v.*
        FROM pipeline.label_event v
        WHERE l.neg AND v.neg AND v.uri = l.uri AND v.src = l.src AND v.val = l.val
        ORDER BY v.cts_at DESC, coalesce(v.seq, -1) DESC
        FETCH FIRST 1 ROW WITH TIES
      ) ties
      LIMIT 100
    ) v
    ORDER BY v.cts_at DESC, coalesce(v.seq, -1) DESC, v.exp_at DESC, v.cid
    LIMIT 1
  )
) v
WHERE v.cid = l.cid

-- :wanted
-- What a key has to be.
(%(sources)s::text[] IS NULL OR src = ANY (%(sources)s::text[]))
  AND (%(vals)s::text[] IS NULL OR val = ANY (%(vals)s::text[]))

-- :unexpired
-- What a row `l` of bsky.label has to be.
(%(with_expired)s OR l.exp IS NULL OR l.exp > to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))

-- :rows
-- The next keys of a range `r` whose row is not negated.
SELECT l.uri, l.src, l.val, l.cid
FROM bsky.label l
WHERE (l.uri, l.src, l.val, l.cid) > (r.uri, r.src, r.val, r.cid) AND (l.uri, l.src) < (r.end_uri, r.end_src)
  AND NOT l.neg
ORDER BY l.uri, l.src, l.val, l.cid
LIMIT %(examined)s

-- :rows_with_negated
-- The next keys of a range `r`, each as often as there are events of it.
SELECT l.uri, l.src, l.val, l.cid
FROM pipeline.label_event l
WHERE (l.uri, l.src, l.val, l.cid) > (r.uri, r.src, r.val, r.cid) AND (l.uri, l.src) < (r.end_uri, r.end_src)
ORDER BY l.uri, l.src, l.val, l.cid
LIMIT %(examined)s

-- :by_subject
-- Labels of subjects in ranges, in order of (uri, src, val, cid): after (uri, src, val, cid) of a range and before its
-- (end_uri, end_src). The ranges do not overlap, and begin where the cursor is.
-- - examined: the next keys of all ranges.
-- - page: those whose labels were asked for.
-- - reached: how many keys were looked at; last: the last of them.
WITH examined AS (
  SELECT l.uri, l.src, l.val, l.cid
  FROM unnest(
    %(uri)s::text[], %(src)s::text[], %(val)s::text[], %(cid)s::text[], %(end_uri)s::text[], %(end_src)s::text[]
  ) r (uri, src, val, cid, end_uri, end_src)
  CROSS JOIN LATERAL (
{rows}
  ) l
  ORDER BY l.uri, l.src, l.val, l.cid
  LIMIT %(examined)s
), page AS (
  SELECT v.*
  FROM (
    SELECT DISTINCT ON (uri, src, val, cid) * FROM examined WHERE {wanted} ORDER BY uri, src, val, cid
  ) k
  CROSS JOIN LATERAL (
    SELECT l.*
    FROM bsky.label l
    WHERE l.src = k.src AND l.uri = k.uri AND l.cid = k.cid AND l.val = k.val
    OFFSET 0
  ) l
  CROSS JOIN LATERAL (
{of_row}
  ) v
  WHERE {unexpired}
  ORDER BY k.uri, k.src, k.val, k.cid
  LIMIT %(limit)s
), reached AS (
  SELECT count(*) AS examined FROM examined
), last AS (
  SELECT uri, src, val, cid FROM examined ORDER BY uri DESC, src DESC, val DESC, cid DESC LIMIT 1
)
SELECT r.examined, t.uri, t.src, t.val, t.cid,
  p.id, p.src, p.uri, p.cid, p.val, p.neg, p.cts, p.exp, p.sig, p.signed, p.received_at
FROM reached r
LEFT JOIN last t ON true
LEFT JOIN page p ON true
ORDER BY p.uri, p.src, p.val, p.cid;

-- :events
-- The next label events.
SELECT v.*
FROM pipeline.label_event v
WHERE v.id {after} %(id)s {condition}
ORDER BY v.id {direction}
LIMIT %(examined)s

-- :events_of_sources
-- The next label events of labelers. (Compared by id alone, the planner might also read those of all others, by the
-- primary key.)
SELECT v.*
FROM unnest(%(sources)s::text[]) s (src)
CROSS JOIN LATERAL (
  SELECT v.*
  FROM pipeline.label_event v
  WHERE v.src = s.src AND (v.src, v.id) {after} (s.src, %(id)s) {condition}
  ORDER BY v.id {direction}
  LIMIT %(examined)s
) v
ORDER BY v.id {direction}
LIMIT %(examined)s

-- :by_id
-- Labels in order of the ids of their events, after the one of the cursor.
-- - examined: the next events.
-- - page: those that decide the row of their key, and were asked for. None does that has a later one of its key, which
--   leaves out most of what a labeler says and takes back again and again.
-- - reached: how many events were looked at, and the last of them.
WITH examined AS (
{events}
), page AS (
  SELECT e.*
  FROM (
    SELECT *
    FROM examined x
    WHERE {wanted} AND NOT EXISTS (
      SELECT
      FROM pipeline.label_event o
      WHERE o.uri = x.uri AND o.src = x.src AND o.val = x.val AND o.cid = x.cid AND o.cts_at > x.cts_at
      OFFSET 0
    )
    ORDER BY id {direction}
  ) e
  CROSS JOIN LATERAL (
    SELECT *
    FROM bsky.label l
    WHERE l.src = e.src AND l.uri = e.uri AND l.cid = e.cid AND l.val = e.val AND l.neg = e.neg
    OFFSET 0
  ) l
  CROSS JOIN LATERAL (
{of_row}
  ) v
  WHERE v.id = e.id AND {unexpired}
  ORDER BY e.id {direction}
  LIMIT %(limit)s
), reached AS (
  SELECT count(*) AS examined, CASE WHEN '{direction}' = 'ASC' THEN max(id) ELSE min(id) END AS id FROM examined
)
SELECT r.examined, r.id,
  p.id, p.src, p.uri, p.cid, p.val, p.neg, p.cts, p.exp, p.sig, p.signed, p.received_at
FROM reached r
LEFT JOIN page p ON true
ORDER BY p.id {direction};
