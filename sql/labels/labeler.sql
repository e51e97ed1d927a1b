-- pipeline.labeler: the labelers that are read, where each stands, and what is missing of their streams.
--
-- Guarantees: a cursor belongs to an endpoint. It moves forward with a batch (sql/apply/label.sql), by compare-and-set,
-- and goes back to 0 here: with another endpoint, or when the stream is to be read anew. Nothing is stored of labelers
-- whose account is excluded. Rows are locked in the order of their DIDs.

-- :popular
-- The accounts with a labeler record of which the index knows, at most %(limit)s, those first whose record has the most
-- likes; excluded accounts and those that are not active left out.
SELECT l.creator
FROM bsky.labeler l
LEFT JOIN LATERAL (SELECT a."likeCount" AS likes FROM bsky.post_agg a WHERE a.uri = l.uri OFFSET 0) a ON true
WHERE NOT EXISTS (
  SELECT FROM pipeline.repo r
  WHERE r.did = l.creator AND (r.excluded OR NOT (r.active OR r.status_doubtful))
  OFFSET 0
)
ORDER BY a.likes DESC NULLS LAST, l.creator
LIMIT %(limit)s;

-- :want
-- Has the labelers %(dids)s read, but for those whose account is excluded, and no others. Returns those that are read.
-- - wanted: the labelers.
-- - dropped: those that were read before and are not any more.
-- - added: those that are read now.
WITH wanted AS MATERIALIZED (
  SELECT DISTINCT d.did
  FROM unnest(%(dids)s::text[]) d (did)
  WHERE NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = d.did AND r.excluded OFFSET 0)
), dropped AS (
  UPDATE pipeline.labeler l SET is_wanted = false, state = 'new', reason = NULL, state_at = now()
  WHERE l.is_wanted AND NOT EXISTS (SELECT FROM wanted w WHERE w.did = l.did)
), added AS (
  INSERT INTO pipeline.labeler AS l (did)
  SELECT did FROM wanted ORDER BY did
  ON CONFLICT (did) DO UPDATE SET is_wanted = true WHERE NOT l.is_wanted
)
SELECT did FROM wanted ORDER BY did;

-- :all
-- Every labeler that is read or was read, in the order of their DIDs.
SELECT did, is_wanted, endpoint, cursor, state, reason, state_at, caught_up_at, reread_at
FROM pipeline.labeler
ORDER BY did;

-- :identities
-- What is known of the accounts %(dids)s that have a row: the state of their DID (null: no answer yet), the endpoint of
-- their label service, its key, why there is no document or no newer one, when it was resolved, and since when a newer
-- answer is asked for (null: none is).
SELECT did, state, labeler, labeler_key, error, extract(epoch FROM resolved_at)::float8,
  CASE WHEN queue IS NOT NULL AND queue <> 'refresh' THEN extract(epoch FROM coalesce(asked_at, wanted_at))::float8 END
FROM pipeline.identity
WHERE did = ANY (%(dids)s::text[]);

-- :open
-- Notes the endpoint %(endpoint)s of a labeler, and returns the cursor to resume after. Another endpoint than the one
-- that is known begins with 0: its sequence numbers are others.
UPDATE pipeline.labeler SET
  endpoint = %(endpoint)s,
  cursor = CASE WHEN endpoint IS NULL OR endpoint = %(endpoint)s THEN cursor ELSE 0 END,
  caught_up_at = CASE WHEN endpoint IS NULL OR endpoint = %(endpoint)s THEN caught_up_at END
WHERE did = %(did)s
RETURNING cursor;

-- :lock
-- Locks the labelers %(dids)s.
SELECT did FROM pipeline.labeler WHERE did = ANY (%(dids)s::text[]) ORDER BY did FOR UPDATE;

-- :states
-- Writes the states of labelers. One has caught up where all that came is applied (`is_caught_up`) and its cursor is
-- where that was seen, or further; then its gaps close that were found before its stream was begun anew.
-- Gaps that are locked stay for the next time: by somebody who excludes the account, say, who waits for batches of
-- labels, while these wait for the labelers.
-- - found: the states.
-- - noted: the labelers, and whether each has caught up.
WITH found AS MATERIALIZED (
  SELECT *
  FROM unnest(
    %(dids)s::text[], %(states)s::text[], %(reasons)s::text[], %(caught_up)s::boolean[], %(cursors)s::bigint[]
  ) f (did, state, reason, is_caught_up, cursor)
), noted AS (
  UPDATE pipeline.labeler l SET
    state = f.state,
    reason = f.reason,
    state_at = CASE WHEN l.state = f.state THEN l.state_at ELSE now() END,
    caught_up_at = CASE WHEN f.is_caught_up AND l.cursor >= f.cursor THEN now() ELSE l.caught_up_at END
  FROM found f
  WHERE l.did = f.did
  RETURNING l.did, l.reread_at, f.is_caught_up AND l.cursor >= f.cursor AS is_caught_up
)
UPDATE pipeline.gap g SET resolved_at = now()
WHERE g.id = ANY (ARRAY(
  SELECT p.id
  FROM noted n
  CROSS JOIN LATERAL (
    SELECT p.id
    FROM pipeline.gap p
    WHERE p.did = n.did AND p.kind = 'labels' AND p.resolved_at IS NULL AND p.detected_at <= n.reread_at
    OFFSET 0
    FOR UPDATE SKIP LOCKED
  ) p
  WHERE n.is_caught_up
));

-- :gap
-- Notes that labels of %(did)s after the sequence number %(after)s may be missing, which its server does not keep any
-- more. A labeler has one such gap at a time; found again, it is the same row.
INSERT INTO pipeline.gap AS g (kind, did, from_text)
SELECT 'labels', did, %(after)s
FROM pipeline.labeler
WHERE did = %(did)s
  AND NOT EXISTS (
    SELECT FROM pipeline.gap o WHERE o.did = %(did)s AND o.kind = 'labels' AND o.resolved_at IS NULL OFFSET 0
  )
  AND NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = %(did)s AND r.excluded OFFSET 0)
ON CONFLICT ON CONSTRAINT gap_once DO UPDATE SET resolved_at = NULL, detected_at = now();

-- :reread_gaps
-- Begins the streams anew from 0 of labelers that are read and have an open gap of which nothing was reread since,
-- except where that was done less than %(seconds)s seconds ago. Returns them.
UPDATE pipeline.labeler l SET cursor = 0, caught_up_at = NULL, reread_at = now()
WHERE l.is_wanted
  AND (l.reread_at IS NULL OR l.reread_at < now() - make_interval(secs => %(seconds)s))
  AND EXISTS (
    SELECT FROM pipeline.gap g
    WHERE g.did = l.did AND g.kind = 'labels' AND g.resolved_at IS NULL
      AND (l.reread_at IS NULL OR g.detected_at > l.reread_at)
    OFFSET 0
  )
RETURNING did;

-- :reread
-- Begins the stream of %(did)s anew from 0.
UPDATE pipeline.labeler SET cursor = 0, caught_up_at = NULL, reread_at = now() WHERE did = %(did)s;
