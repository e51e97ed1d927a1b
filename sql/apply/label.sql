-- Labels: what labelers have said (pipeline.label_event), and what follows from it (bsky.label).
--
-- Of two label events of one (src, uri, val) the greater one has the later moment of cts; among those of one moment the
-- higher seq (none: lower than any), then a negation before a label, then the later exp (none: later than any). Of
-- events of one moment that differ in their exp alone, the 100 latest are looked at.
--
-- Guarantees: bsky.label has one row for each (src, uri, cid, val) of which there is an event. `cts` is that of the
-- greatest event of this key. `neg` is true where a negation of (src, uri, val), of whatever cid, is at least as great;
-- else `exp` is that of this event. So the rows are a function of the set of events, whatever their order, batches and
-- repetitions were. They are found by look-ups for the keys that a batch touches: what a batch costs depends on what it
-- brings and ends, and not on how much is stored of a subject or labeler. (But a negation reads what is in effect of
-- its (src, uri, val), also where all of it is newer.)
-- One transaction at a time writes label events (`lock`). So ids rise in the order of commits, and no statement here
-- meets a row that changes meanwhile. An event that takes effect, and no other, is broadcast: whoever applies these in
-- order of id, a negation to every cid, has at the end what is in effect.
-- Nothing is stored of a labeler that is excluded: whoever excludes one waits for the lock of excluded.sql, or removes
-- its labels afterwards under the label lock.

-- :stage
-- Label events of the batch, each once, in order of arrival.
CREATE TEMPORARY TABLE stage_label (
  number int NOT NULL,
  src text NOT NULL,
  uri text NOT NULL,
  cid text NOT NULL,                     -- empty: any version
  val text NOT NULL,
  neg boolean NOT NULL,
  cts text NOT NULL,
  cts_micros bigint NOT NULL,            -- its moment, microseconds since 1970
  exp text,
  exp_micros bigint,
  seq bigint,
  sig bytea,
  signed bytea
) ON COMMIT DELETE ROWS;

-- Events that are new, and (`is_new` false) those that have another place in the order than before, or a signature for
-- the first time.
CREATE TEMPORARY TABLE label_touched (
  id bigint NOT NULL,
  src text NOT NULL,
  uri text NOT NULL,
  val text NOT NULL,
  cid text NOT NULL,
  neg boolean NOT NULL,
  is_new boolean NOT NULL,
  is_unsaid boolean NOT NULL             -- not new; it took no effect so far, or had no signature
) ON COMMIT DELETE ROWS;

-- What has become of the rows of bsky.label that the batch touches or ends.
CREATE TEMPORARY TABLE label_outcome (
  src text NOT NULL,
  uri text NOT NULL,
  val text NOT NULL,
  cid text NOT NULL,
  was_in_effect boolean NOT NULL,        -- it was there, and not negated
  neg boolean NOT NULL,
  change text NOT NULL,                  -- added, corrected, ended (by the negation of another cid) or none
  last_id bigint,                        -- the greatest event of the key; null: ended, not looked up
  negation_id bigint                     -- the greatest negation of (src, uri, val); null: there is none
) ON COMMIT DELETE ROWS;

-- Events of the batch that take effect.
CREATE TEMPORARY TABLE label_effect (
  id bigint NOT NULL,
  src text NOT NULL,
  uri text NOT NULL,
  val text NOT NULL,
  neg boolean NOT NULL,
  is_new boolean NOT NULL
) ON COMMIT DELETE ROWS;

-- :lock
-- The label lock: waits for it; the commit releases it.
SELECT pg_advisory_xact_lock(hashtext('appview-pipeline: labels'));

-- :events
-- Adds the events that are new. Of those that are known it raises seq, and keeps the signature that came last, with the
-- spelling of the times that it is over.
-- - moment: staged events with their moments.
-- - known: the same with what is stored of each.
-- - added: new events.
-- - renewed: known ones of which something has changed; `moved`: their place in the order.
WITH moment AS MATERIALIZED (
  SELECT s.*,
    to_timestamp(s.cts_micros / 1000000) + (s.cts_micros % 1000000) * interval '1 microsecond' AS cts_at,
    to_timestamp(s.exp_micros / 1000000) + (s.exp_micros % 1000000) * interval '1 microsecond' AS exp_at
  FROM stage_label s
), known AS MATERIALIZED (
  SELECT s.*, e.id, e.place, e.id IS NOT NULL AND coalesce(s.seq > coalesce(e.seq, -1), false) AS moved,
    e.id IS NOT NULL AND s.sig IS NOT NULL AND (s.sig, s.signed) IS DISTINCT FROM (e.sig, e.signed) AS signed_anew,
    e.id IS NOT NULL AND s.sig IS NOT NULL AND e.sig IS NULL AS signed_first
  FROM moment s
  LEFT JOIN LATERAL (
    SELECT ctid AS place, id, seq, sig, signed
    FROM pipeline.label_event
    WHERE uri = s.uri AND src = s.src AND val = s.val AND cid = s.cid AND cts_at = s.cts_at AND neg = s.neg
      AND exp_at = s.exp_at
    UNION ALL
    SELECT ctid AS place, id, seq, sig, signed
    FROM pipeline.label_event
    WHERE uri = s.uri AND src = s.src AND val = s.val AND cid = s.cid AND cts_at = s.cts_at AND neg = s.neg
      AND exp_at IS NULL AND s.exp_at IS NULL
    OFFSET 0
  ) e ON true
), added AS (
  INSERT INTO pipeline.label_event (src, uri, cid, val, neg, cts, cts_at, exp, exp_at, seq, sig, signed)
  SELECT src, uri, cid, val, neg, cts, cts_at, exp, exp_at, seq, sig, signed
  FROM known
  WHERE id IS NULL
  ORDER BY number
  RETURNING id, src, uri, val, cid, neg
), renewed AS (
  UPDATE pipeline.label_event e SET
    seq = CASE WHEN k.moved THEN k.seq ELSE e.seq END,
    cts = CASE WHEN k.signed_anew THEN k.cts ELSE e.cts END,
    exp = CASE WHEN k.signed_anew THEN k.exp ELSE e.exp END,
    sig = CASE WHEN k.signed_anew THEN k.sig ELSE e.sig END,
    signed = CASE WHEN k.signed_anew THEN k.signed ELSE e.signed END
  FROM known k
  WHERE e.ctid = k.place AND (k.moved OR k.signed_anew)
  RETURNING e.id, e.src, e.uri, e.val, e.cid, e.neg, k.moved, k.signed_first,
    k.signed_first OR NOT e.took_effect AS is_unsaid
)
INSERT INTO label_touched
SELECT id, src, uri, val, cid, neg, true, false FROM added
UNION ALL
SELECT id, src, uri, val, cid, neg, false, is_unsaid FROM renewed WHERE moved OR signed_first;

-- :derive
-- Brings bsky.label in line with the events, for the keys in label_touched and those that their negations end.
-- - triple: each (src, uri, val) that is touched, with its greatest negation; `negated`: that one is touched.
-- - wanted: each touched key with the row that it has to have.
-- - compared: the same with the row that it has.
-- - ended: rows of other keys that a negation ends. Those of the negation's own millisecond are compared by event.
-- - added, corrected: rows of touched keys that were missing or wrong.
WITH triple AS MATERIALIZED (
  SELECT t.src, t.uri, t.val, n.id = ANY (t.negations) AS negated, n.id, n.cts_at, n.seq,
    to_char(n.cts_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS cts
  FROM (
    SELECT src, uri, val, array_agg(id) FILTER (WHERE neg) AS negations FROM label_touched GROUP BY src, uri, val
  ) t
  LEFT JOIN LATERAL (
    SELECT e.id, e.cts_at, coalesce(e.seq, -1) AS seq
    FROM pipeline.label_event e
    WHERE e.uri = t.uri AND e.src = t.src AND e.val = t.val AND e.neg
    ORDER BY e.cts_at DESC, coalesce(e.seq, -1) DESC
    LIMIT 1
  ) n ON true
), wanted AS MATERIALIZED (
  SELECT k.src, k.uri, k.cid, k.val, l.id AS last_id, t.id AS negation_id, v.neg,
    to_char(l.cts_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS cts,
    CASE WHEN NOT v.neg THEN to_char(l.exp_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') END AS exp
  FROM (SELECT DISTINCT src, uri, val, cid FROM label_touched) k
  JOIN triple t USING (src, uri, val)
  CROSS JOIN LATERAL (
    SELECT e.id, e.cts_at, coalesce(e.seq, -1) AS seq, e.neg, e.exp_at
    FROM (
      SELECT id, cts_at, seq, neg, exp_at
      FROM pipeline.label_event
      WHERE uri = k.uri AND src = k.src AND val = k.val AND cid = k.cid
      ORDER BY cts_at DESC, neg DESC, exp_at DESC
      LIMIT 100
    ) e
    ORDER BY e.cts_at DESC, coalesce(e.seq, -1) DESC, e.neg DESC, e.exp_at DESC
    LIMIT 1
  ) l
  CROSS JOIN LATERAL (SELECT l.neg OR coalesce((t.cts_at, t.seq) >= (l.cts_at, l.seq), false) AS neg) v
), compared AS MATERIALIZED (
  SELECT w.*, o.place, coalesce(NOT o.neg, false) AS was_in_effect,
    o.place IS NOT NULL AND (o.neg, o.cts, o.exp) IS DISTINCT FROM (w.neg, w.cts, w.exp) AS differs
  FROM wanted w
  LEFT JOIN LATERAL (
    SELECT ctid AS place, neg, cts, exp
    FROM bsky.label
    WHERE src = w.src AND uri = w.uri AND cid = w.cid AND val = w.val
    OFFSET 0
  ) o ON true
), ended AS (
  UPDATE bsky.label d SET neg = true, exp = NULL
  FROM (
    SELECT l.place, t.id
    FROM triple t
    CROSS JOIN LATERAL (
      SELECT ctid AS place, cid, cts
      FROM bsky.label
      WHERE uri = t.uri AND src = t.src AND val = t.val AND cts <= t.cts AND NOT neg
      OFFSET 0
    ) l
    WHERE t.negated
      AND (t.src, t.uri, t.val, l.cid) NOT IN (SELECT src, uri, val, cid FROM label_touched)
      AND (l.cts < t.cts OR NOT EXISTS (
        SELECT
        FROM pipeline.label_event e
        WHERE e.uri = t.uri AND e.src = t.src AND e.val = t.val AND e.cid = l.cid AND e.cts_at >= t.cts_at
          AND (e.cts_at, coalesce(e.seq, -1)) > (t.cts_at, t.seq)
        OFFSET 0
      ))
  ) f
  WHERE d.ctid = f.place
  RETURNING d.src, d.uri, d.val, d.cid, f.id
), added AS (
  INSERT INTO bsky.label (src, uri, cid, val, neg, cts, exp)
  SELECT src, uri, cid, val, neg, cts, exp FROM compared WHERE place IS NULL
), corrected AS (
  UPDATE bsky.label d SET neg = c.neg, cts = c.cts, exp = c.exp
  FROM compared c
  WHERE d.ctid = c.place AND c.differs
)
INSERT INTO label_outcome
SELECT src, uri, val, cid, was_in_effect, neg,
  CASE WHEN place IS NULL THEN 'added' WHEN differs THEN 'corrected' ELSE 'none' END, last_id, negation_id
FROM compared
UNION ALL
SELECT src, uri, val, cid, true, true, 'ended', NULL, id FROM ended;

-- :effects
-- Finds the events that take effect: labels that are in effect now; negations that have ended something; and those that
-- are the greatest of their key where nothing of their (src, uri, val) is in effect. One that was known takes effect
-- where its new place in the order has changed its row, and where readers can't have had it (is_unsaid).
-- - ended: (src, uri, val) of which something was in effect and is no longer.
-- - silent: those with a negation of which nothing is in effect.
-- Both are asked by IN, which hashes them, and not joined: the planner takes them for small.
WITH ended AS MATERIALIZED (
  SELECT DISTINCT src, uri, val FROM label_outcome WHERE was_in_effect AND neg
), silent AS MATERIALIZED (
  SELECT t.src, t.uri, t.val
  FROM (SELECT DISTINCT src, uri, val FROM label_touched WHERE neg) t
  WHERE NOT EXISTS (
    SELECT FROM bsky.label l WHERE l.uri = t.uri AND l.src = t.src AND l.val = t.val AND NOT l.neg OFFSET 0
  )
)
INSERT INTO label_effect
SELECT t.id, t.src, t.uri, t.val, t.neg, t.is_new
FROM label_touched t
JOIN label_outcome o USING (src, uri, val, cid)
WHERE CASE
    WHEN NOT t.neg THEN t.id = o.last_id AND NOT o.neg AND (t.is_new OR t.is_unsaid OR o.change <> 'none')
    WHEN t.id = o.negation_id AND (t.src, t.uri, t.val) IN (SELECT src, uri, val FROM ended) THEN true
    ELSE (t.is_new OR t.is_unsaid) AND t.id = o.last_id
      AND (t.src, t.uri, t.val) IN (SELECT src, uri, val FROM silent)
  END;

-- :without_effect
-- Marks the new events that take no effect. Returns how many known events take effect, and how many negations do.
-- - idle: the new events without effect.
-- - marked: their rows.
WITH idle AS MATERIALIZED (
  SELECT id FROM label_touched WHERE is_new
  EXCEPT
  SELECT id FROM label_effect
), marked AS (
  UPDATE pipeline.label_event SET took_effect = false WHERE id = ANY (ARRAY(SELECT id FROM idle))
)
SELECT count(*) FILTER (WHERE NOT is_new), count(*) FILTER (WHERE neg)
FROM label_effect;

-- :known_again
-- Gives a new id to known events that take effect now, so that they are broadcast again, and notes it in label_effect.
-- - moved: these events.
WITH moved AS (
  UPDATE pipeline.label_event e SET id = nextval('pipeline.label_event_id_seq'), took_effect = true
  FROM (
    SELECT f.id, p.place
    FROM label_effect f
    CROSS JOIN LATERAL (SELECT ctid AS place FROM pipeline.label_event WHERE id = f.id OFFSET 0) p
    WHERE NOT f.is_new
  ) k
  WHERE e.ctid = k.place
  RETURNING k.id AS old_id, e.id
)
UPDATE label_effect f SET id = m.id FROM moved m WHERE f.id = m.old_id;

-- :survivors_again
-- Gives a new id to labels that stay in effect although a negation of another cid, which came after them, ends others:
-- they are broadcast again after it, since whoever applies events in order of id has just ended them. (It takes a
-- negation that is older than a label that came before it. At most 1,000 labels a batch.)
-- - survivor: the rows of bsky.label that stay in effect.
-- - moved: their events.
WITH survivor AS MATERIALIZED (
  SELECT l.id, l.place
  FROM (SELECT src, uri, val, max(id) AS id FROM label_effect WHERE neg GROUP BY src, uri, val) f
  CROSS JOIN LATERAL (
    SELECT cid FROM bsky.label WHERE uri = f.uri AND src = f.src AND val = f.val AND NOT neg OFFSET 0
  ) s
  CROSS JOIN LATERAL (
    SELECT e.id, e.place
    FROM (
      SELECT ctid AS place, id, cts_at, seq, neg, exp_at
      FROM pipeline.label_event
      WHERE uri = f.uri AND src = f.src AND val = f.val AND cid = s.cid
      ORDER BY cts_at DESC, neg DESC, exp_at DESC
      LIMIT 100
    ) e
    ORDER BY e.cts_at DESC, coalesce(e.seq, -1) DESC, e.neg DESC, e.exp_at DESC
    LIMIT 1
  ) l
  WHERE l.id < f.id
  LIMIT 1000
), moved AS (
  UPDATE pipeline.label_event e SET id = nextval('pipeline.label_event_id_seq'), took_effect = true
  FROM survivor s
  WHERE e.ctid = s.place
  RETURNING s.id AS old_id, e.id, e.src, e.uri, e.val
), renamed AS (
  DELETE FROM label_effect WHERE id = ANY (ARRAY(SELECT old_id FROM moved))
)
INSERT INTO label_effect
SELECT id, src, uri, val, false, false FROM moved;

-- :sources
-- Returns for each source how many events were new, how many took effect, and by how many the rows of bsky.label that
-- are not negated have become more.
SELECT src, sum(added)::bigint, sum(changed)::bigint, sum(more)::bigint
FROM (
  SELECT src, 1 AS added, 0 AS changed, 0 AS more FROM label_touched WHERE is_new
  UNION ALL
  SELECT src, 0, 1, 0 FROM label_effect
  UNION ALL
  SELECT src, 0, 0, (NOT neg)::int - was_in_effect::int FROM label_outcome
) c
GROUP BY src
ORDER BY src;

-- :announced
-- Returns the lowest and the highest id of the events that took effect, their number, up to 300 of their subjects, and
-- whether these are all.
SELECT min(id), max(id), count(*),
  ARRAY(SELECT uri FROM label_effect GROUP BY uri ORDER BY min(id) LIMIT 300),
  count(DISTINCT uri) <= 300
FROM label_effect;

-- :notify
-- Notifies the listeners once this is committed.
SELECT pg_notify(%(channel)s, %(payload)s);

-- :make_labelers
-- Adds the sources of labels that have no row: labelers whose streams were never read, and our own.
INSERT INTO pipeline.labeler (did, is_wanted)
SELECT did, false FROM unnest(%(dids)s::text[]) did ORDER BY did
ON CONFLICT (did) DO NOTHING;

-- :lock_labelers
-- Locks the rows of labelers. Returns their endpoints and cursors.
SELECT did, endpoint, cursor FROM pipeline.labeler WHERE did = ANY (%(dids)s) ORDER BY did FOR UPDATE;

-- :count
-- Counts for each source what has become of its events, whatever way they came.
UPDATE pipeline.labeler l SET
  changed = l.changed + c.changed,
  repeated = l.repeated + c.repeated,
  in_effect = l.in_effect + c.more
FROM unnest(%(dids)s::text[], %(changed)s::bigint[], %(repeated)s::bigint[], %(more)s::bigint[])
  AS c (did, changed, repeated, more)
WHERE l.did = c.did;

-- :advance
-- Moves cursors of streams that are where the batch began (lock_labelers has compared them), and counts what came.
UPDATE pipeline.labeler l SET
  cursor = p.after,
  caught_up_at = CASE WHEN p.caught_up THEN now() ELSE l.caught_up_at END,
  last_frame_at = CASE WHEN p.frames > 0 THEN now() ELSE l.last_frame_at END,
  last_cts = greatest(l.last_cts, to_timestamp(p.newest_cts / 1000000.0)),
  frames = l.frames + p.frames,
  labels = l.labels + p.labels,
  rejected = l.rejected + p.rejected,
  rejected_by_kind = CASE WHEN p.rejected = 0 THEN l.rejected_by_kind ELSE l.rejected_by_kind || (
    SELECT jsonb_object_agg(k.key, k.value::bigint + coalesce((l.rejected_by_kind ->> k.key)::bigint, 0))
    FROM jsonb_each_text(p.by_kind::jsonb) k
  ) END
FROM unnest(
    %(dids)s::text[], %(after)s::bigint[], %(caught_up)s::boolean[], %(newest_cts)s::bigint[], %(frames)s::bigint[],
    %(labels)s::bigint[], %(rejected)s::bigint[], %(by_kind)s::text[]
  ) AS p (did, after, caught_up, newest_cts, frames, labels, rejected, by_kind)
WHERE l.did = p.did;

-- :page_of_events
-- For a rebuild: notes the keys of the next %(limit)s label events of %(src)s after the id %(after)s. Returns the
-- highest id; null: there are no more.
-- - page: these events.
-- - noted: their keys.
WITH page AS MATERIALIZED (
  SELECT id, src, uri, val, cid
  FROM pipeline.label_event
  WHERE src = %(src)s AND id > %(after)s
  ORDER BY id
  LIMIT %(limit)s
), noted AS (
  INSERT INTO label_touched
  SELECT max(id), src, uri, val, cid, false, false, false FROM page GROUP BY src, uri, val, cid
)
SELECT max(id) FROM page;

-- :page_of_rows
-- For a rebuild: removes those of the next %(limit)s rows of bsky.label of %(src)s, after the key of %(uri)s, %(cid)s
-- and %(val)s, of which there is no event. Returns the last key, and how many rows there were, were removed, and were
-- removed without being negated. No row: there are no more.
-- - page: these rows.
-- - removed: those without an event.
WITH page AS MATERIALIZED (
  SELECT ctid AS place, uri, cid, val
  FROM bsky.label
  WHERE src = %(src)s AND (uri, cid, val) > (%(uri)s, %(cid)s, %(val)s)
  ORDER BY uri, cid, val
  LIMIT %(limit)s
), removed AS (
  DELETE FROM bsky.label d
  USING page p
  WHERE d.ctid = p.place AND NOT EXISTS (
    SELECT
    FROM pipeline.label_event e
    WHERE e.uri = p.uri AND e.src = %(src)s AND e.val = p.val AND e.cid = p.cid
    OFFSET 0
  )
  RETURNING d.uri, d.neg
)
SELECT p.uri, p.cid, p.val, (SELECT count(*) FROM page), (SELECT count(*) FROM removed),
  (SELECT count(*) FROM removed WHERE NOT neg), ARRAY(SELECT uri FROM removed LIMIT 300)
FROM page p
ORDER BY p.uri DESC, p.cid DESC, p.val DESC
LIMIT 1;

-- :repaired
-- For a rebuild: returns how many rows were added and corrected, and up to 300 of their subjects.
SELECT count(*) FILTER (WHERE change = 'added'), count(*) FILTER (WHERE change = 'corrected'),
  ARRAY(SELECT DISTINCT uri FROM label_outcome WHERE change <> 'none' LIMIT 300)
FROM label_outcome;

-- :drift
-- For a rebuild: returns by how many pipeline.labeler.in_effect of %(src)s is too low, as of one moment.
SELECT (SELECT count(*) FROM bsky.label WHERE src = %(src)s AND NOT neg)
  - coalesce((SELECT in_effect FROM pipeline.labeler WHERE did = %(src)s), 0);

-- :correct_count
-- For a rebuild or a removal: corrects it.
UPDATE pipeline.labeler SET in_effect = in_effect + %(drift)s WHERE did = %(src)s;

-- :remove_events
-- For a removal: removes the label events of up to %(limit)s subjects and values of %(src)s, all of each together, and
-- the rows of bsky.label that follow from them: should the removal be taken back, what is left is still right. (Only
-- where they have more than %(most)s events is the last one divided.) Returns how many events and rows were removed,
-- how many of the rows were not negated, and up to 300 subjects of these.
-- - pair: the subjects and values.
-- - gone: their events.
-- - rows: their rows.
WITH pair AS MATERIALIZED (
  SELECT DISTINCT uri, val
  FROM (SELECT uri, val FROM pipeline.label_event WHERE src = %(src)s ORDER BY id LIMIT %(limit)s) e
), gone AS (
  DELETE FROM pipeline.label_event
  WHERE id = ANY (ARRAY(
    SELECT e.id
    FROM pair p
    CROSS JOIN LATERAL (
      SELECT id FROM pipeline.label_event WHERE uri = p.uri AND src = %(src)s AND val = p.val LIMIT %(most)s
    ) e
    LIMIT %(most)s
  ))
  RETURNING uri, cid, val
), rows AS (
  DELETE FROM bsky.label l
  USING (
    SELECT o.place
    FROM (SELECT DISTINCT uri, cid, val FROM gone) g
    CROSS JOIN LATERAL (
      SELECT ctid AS place
      FROM bsky.label
      WHERE src = %(src)s AND uri = g.uri AND cid = g.cid AND val = g.val
      OFFSET 0
    ) o
  ) x
  WHERE l.ctid = x.place
  RETURNING l.uri, l.neg
)
SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM rows), (SELECT count(*) FROM rows WHERE NOT neg),
  ARRAY(SELECT DISTINCT uri FROM rows WHERE NOT neg LIMIT 300);

-- :remove_rows
-- For a removal: the same of up to %(limit)s rows of bsky.label of %(src)s of which there is no event, when
-- `remove_events` finds nothing more.
-- Also removes what the sweep has noted of it.
-- - gone: these rows.
WITH gone AS (
  DELETE FROM bsky.label l
  USING (SELECT ctid AS place FROM bsky.label WHERE src = %(src)s LIMIT %(limit)s) x
  WHERE l.ctid = x.place
  RETURNING l.uri, l.neg
), swept AS (
  DELETE FROM pipeline.label_swept WHERE src = %(src)s
)
SELECT count(*), count(*) FILTER (WHERE NOT neg), ARRAY(SELECT DISTINCT uri FROM gone WHERE NOT neg LIMIT 300)
FROM gone;

-- :expired_to
-- Locks the row of the feed. Returns up to which moment labels that expired were announced, and the moment now.
SELECT expired_to, greatest(clock_timestamp(), expired_to) FROM pipeline.label_feed FOR UPDATE;

-- :expired
-- Returns how many labels have expired after %(from)s, up to %(to)s, the subjects of the 300 that did so first, and
-- whether these are all. However many they are, only so many subjects are held at once.
-- - first: these labels.
WITH first AS MATERIALIZED (
  SELECT uri
  FROM bsky.label
  WHERE exp > to_char(%(from)s AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    AND exp <= to_char(%(to)s AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    AND NOT neg
  ORDER BY exp
  LIMIT 300
)
SELECT count(*), ARRAY(SELECT DISTINCT uri FROM first ORDER BY uri), count(*) <= 300
FROM bsky.label
WHERE exp > to_char(%(from)s AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
  AND exp <= to_char(%(to)s AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
  AND NOT neg;

-- :move_expired_to
-- Notes that labels that expired up to %(to)s were announced.
UPDATE pipeline.label_feed SET expired_to = %(to)s;
