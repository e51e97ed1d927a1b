-- What is known of labels that are about to be made here: whether they are in effect already, and which time is later
-- than all that was said before (store/local_labels.py).
--
-- Guarantees: reads only. With the label lock, what is found holds until the commit.

-- :labels
-- Of each (uri, val, cid) of %(src)s, numbered: the moment of its newest event, and of the newest negation of whatever
-- CID, in microseconds since 1970; whether it is in effect, and until when.
SELECT k.n, (extract(epoch FROM own.cts_at) * 1000000)::bigint,
  (extract(epoch FROM negation.cts_at) * 1000000)::bigint, l.uri IS NOT NULL, l.exp
FROM unnest(%(uris)s::text[], %(vals)s::text[], %(cids)s::text[]) WITH ORDINALITY k (uri, val, cid, n)
LEFT JOIN LATERAL (
  SELECT v.cts_at
  FROM pipeline.label_event v
  WHERE v.uri = k.uri AND v.src = %(src)s AND v.val = k.val AND v.cid = k.cid
  ORDER BY v.cts_at DESC
  LIMIT 1
) own ON true
LEFT JOIN LATERAL (
  SELECT v.cts_at
  FROM pipeline.label_event v
  WHERE v.uri = k.uri AND v.src = %(src)s AND v.val = k.val AND v.neg
  ORDER BY v.cts_at DESC
  LIMIT 1
) negation ON true
LEFT JOIN LATERAL (
  SELECT l.uri, l.exp
  FROM bsky.label l
  WHERE l.uri = k.uri AND l.src = %(src)s AND l.val = k.val AND l.cid = k.cid AND NOT l.neg
    AND (l.exp IS NULL OR l.exp > %(now)s)
  LIMIT 1
) l ON true
ORDER BY k.n;

-- :values
-- Of each (uri, val) of %(src)s, numbered: the moment of its newest event, of whatever CID; the CIDs of its labels that
-- are in effect, %(versions)s at most.
SELECT k.n,
  (
    SELECT (extract(epoch FROM max(v.cts_at)) * 1000000)::bigint
    FROM pipeline.label_event v
    WHERE v.uri = k.uri AND v.src = %(src)s AND v.val = k.val
  ),
  ARRAY(
    SELECT l.cid::text
    FROM bsky.label l
    WHERE l.uri = k.uri AND l.src = %(src)s AND l.val = k.val AND NOT l.neg AND (l.exp IS NULL OR l.exp > %(now)s)
    ORDER BY l.cid
    LIMIT %(versions)s
  )
FROM unnest(%(uris)s::text[], %(vals)s::text[]) WITH ORDINALITY k (uri, val, n)
ORDER BY k.n;
