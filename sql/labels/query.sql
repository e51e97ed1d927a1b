-- Labels as people and other services ask for them: of subjects, sources and values (store/label_query.py).
--
-- Guarantees: reads only. Returns, of each (src, uri, cid, val), the label or negation that decides what bsky.label
-- says, as it was signed. A label that a negation of another CID has ended is not among them, but that negation is. A
-- page looks at %(examined)s rows at most, whatever was asked for, and reads them by an index in the order of its
-- cursor.
--
-- Every statement returns one row at least: `examined` and `last_...` say how many rows were looked at, and the last of
-- them; the columns after these are null where the page is empty.
--
-- Placeholders (store/label_query.py fills them): {of_row} and {events} stand for parts of this file, {condition} for
-- what a label event or row has to be, {after} and {direction} for the direction of reading.

-- :of_row
-- The event that decides a row `l` of bsky.label: the newest of its key, or the newest negation of any CID.
SELECT v.*
FROM (
  (
    SELECT v.*
    FROM pipeline.label_event v
    WHERE NOT l.neg AND NOT v.neg AND v.uri = l.uri AND v.src = l.src AND v.val = l.val AND v.cid = l.cid
    ORDER BY v.cts_at DESC, coalesce(v.seq, -1) DESC, v.exp_at DESC NULLS FIRST
    LIMIT 1
  )
  UNION ALL
  (
    SELECT v.*
    FROM pipeline.label_event v
    WHERE l.neg AND v.neg AND v.uri = l.uri AND v.src = l.src AND v.val = l.val
    ORDER BY v.cts_at DESC, coalesce(v.seq, -1) DESC, v.exp_at DESC NULLS FIRST, v.cid
    LIMIT 1
  )
) v
WHERE v.cid = l.cid

-- :wanted
-- What a row `l` of bsky.label has to be.
(%(sources)s::text[] IS NULL OR l.src = ANY (%(sources)s::text[]))
AND (%(vals)s::text[] IS NULL OR l.val = ANY (%(vals)s::text[]))
AND (
  %(with_expired)s OR l.exp IS NULL OR l.exp > to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
)

-- :by_subject
-- Labels of subjects in ranges, from (low_uri, low_src) up to, not including, (high_uri, high_src); the ranges do not
-- overlap. In order of (uri, src, val, cid), after the one of the cursor.
-- - examined: the next rows of all ranges.
-- - page: those that were asked for.
-- - reached: how many rows were looked at; last: the last of them.
WITH examined AS (
  SELECT l.uri, l.src, l.val, l.cid, l.neg, l.exp
  FROM unnest(%(low_uris)s::text[], %(low_srcs)s::text[], %(high_uris)s::text[], %(high_srcs)s::text[])
    r (low_uri, low_src, high_uri, high_src)
  CROSS JOIN LATERAL (
    SELECT l.uri, l.src, l.val, l.cid, l.neg, l.exp
    FROM bsky.label l
    WHERE (l.uri, l.src) >= (r.low_uri, r.low_src) AND (l.uri, l.src) < (r.high_uri, r.high_src)
      AND (l.uri, l.src, l.val, l.cid) > (%(uri)s, %(src)s, %(val)s, %(cid)s) {condition}
    ORDER BY l.uri, l.src, l.val, l.cid
    LIMIT %(examined)s
  ) l
  ORDER BY l.uri, l.src, l.val, l.cid
  LIMIT %(examined)s
), page AS (
  SELECT v.*
  FROM examined l
  CROSS JOIN LATERAL ({of_row}) v
  WHERE {wanted}
  ORDER BY l.uri, l.src, l.val, l.cid
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
-- The next label events of labelers.
SELECT v.*
FROM unnest(%(sources)s::text[]) s (src)
CROSS JOIN LATERAL (
  SELECT v.*
  FROM pipeline.label_event v
  WHERE v.src = s.src AND v.id {after} %(id)s {condition}
  ORDER BY v.id {direction}
  LIMIT %(examined)s
) v
ORDER BY v.id {direction}
LIMIT %(examined)s

-- :by_id
-- Labels in order of the ids of their events, after the one of the cursor.
-- - examined: the next events.
-- - page: those that decide the row of their key, and were asked for.
-- - reached: how many events were looked at, and the last of them.
WITH examined AS ({events}
), page AS (
  SELECT e.*
  FROM examined e
  JOIN bsky.label l ON l.src = e.src AND l.uri = e.uri AND l.cid = e.cid AND l.val = e.val AND l.neg = e.neg
  CROSS JOIN LATERAL ({of_row}) v
  WHERE v.id = e.id AND {wanted}
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
