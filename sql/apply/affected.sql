-- Affected posts: the replies that came before an event on which their evaluation, or whom they notify, depends.
--
-- Guarantees: whatever arrives late (a parent, root, gate, follow or list item, or the deletion of one), `affected`
-- lists every reply not older than the event whose evaluation or recipients it may change.
--
-- Only posts whose rev is not older than an event's can be affected by it. An event is looked at once a post, from the
-- oldest of its revs on, so that several edits of a post do not multiply its replies. `OFFSET 0` keeps the planner from
-- turning a look-up into a scan of a large table: it cannot guess how few rows are looked up.

-- :stage
-- Every event of a post in this batch. `moves`: the post exists where it did not before, or the other way round, or it
-- has another place in a thread. An edit that leaves a post in its place changes nothing further down.
CREATE TEMPORARY TABLE post_event (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  moves boolean NOT NULL DEFAULT true
) ON COMMIT DELETE ROWS;

-- Posts that were there before the events that affect them.
CREATE TEMPORARY TABLE affected (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  live boolean NOT NULL                  -- a row of bsky.post; else one of pipeline.version
) ON COMMIT DELETE ROWS;

-- :events
-- Lists the batch's events of posts. A state that an update replaces was there before and is no event; a state that
-- nobody has seen is one, and so is a deletion.
-- - e: staged posts, and past states and deletions that the batch adds to `pipeline.version`.
-- - before: the state of the post before the event.
INSERT INTO post_event (uri, rev, moves)
SELECT e.uri, e.rev,
  e.is_creation
  OR (before.deleted IS FALSE) = e.deleted
  OR (NOT e.deleted AND (before.root, before.parent) IS DISTINCT FROM (e.root, e.parent))
FROM (
  SELECT s.uri, s.rev, false AS deleted, s.reply_root AS root, s.reply_parent AS parent, t.uri IS NULL AS is_creation
  FROM stage_post s
  LEFT JOIN touched t ON t.uri = s.uri AND t.change = 'updated'
  UNION ALL
  SELECT v.uri, v.rev, v.deleted, v.root, v.parent, false
  FROM new_version n
  CROSS JOIN LATERAL (
    SELECT v.uri, v.rev, v.deleted, v.root, v.parent
    FROM pipeline.version v
    WHERE v.uri = n.uri AND v.rev = n.rev
    OFFSET 0
  ) v
  WHERE n.collection = '{nsid.post}' AND (n.unseen OR n.deleted)
) e
LEFT JOIN LATERAL (
  SELECT v.deleted, v.root, v.parent
  FROM pipeline.version v
  WHERE NOT e.is_creation AND v.uri = e.uri AND v.rev < e.rev
  ORDER BY v.rev DESC
  LIMIT 1
) before ON true;

-- :events_of_others
-- Lists events of other records that earlier replies name as their parent or root. Such replies are rare. In a stream
-- in order none is newer than the batch, and then nothing is looked up.
INSERT INTO post_event (uri, rev)
SELECT e.uri, e.rev
FROM (
  SELECT uri, rev FROM stage_write WHERE collection <> '{nsid.post}'
  UNION
  SELECT uri, rev FROM new_version WHERE collection <> '{nsid.post}'
) e
CROSS JOIN LATERAL (
  SELECT FROM pipeline.reply_to_other o WHERE o.subject = e.uri AND o.rev >= e.rev LIMIT 1
) named
WHERE EXISTS (
    SELECT
    FROM pipeline.reply_to_other o
    WHERE o.rev >= (SELECT coalesce(min(oldest_rev), '') FROM stage_repo)
  );

-- :affected_below
-- Finds the replies below posts. The evaluation of a reply depends on the state of its parent as of its own rev, that
-- one on its own parent's, and so on to any depth. Whom a reply notifies depends on the place of the four posts above
-- it as of its own rev.
-- - event: the posts of the events; `since`: from which rev on replies are affected; `moved`: the same for their
--   recipients.
-- - first: the replies to these posts; where a post moves, older ones too.
-- - below: of every affected state, the replies between its rev and the rev of the next state. UNION keeps each once.
-- - second, third, fourth: where a post moves, for four levels, follow older replies too: they are unaffected, but
--   later replies below them notify these ancestors.
WITH RECURSIVE event AS MATERIALIZED (
  SELECT uri, min(rev) AS since, min(rev) FILTER (WHERE moves) AS moved
  FROM post_event
  GROUP BY uri
), first AS MATERIALIZED (
  SELECT c.uri, c.rev, c.live, e.since, e.moved
  FROM event e
  CROSS JOIN LATERAL pipeline.replies_between(
    e.uri, CASE WHEN e.moved IS NULL THEN e.since ELSE '' END, E'\x7f') c
), below (uri, rev, live) AS (
  SELECT uri, rev, live FROM first WHERE rev >= since
  UNION
  SELECT c.uri, c.rev, c.live
  FROM below b
  CROSS JOIN LATERAL pipeline.next_rev(b.uri, b.rev) next
  CROSS JOIN LATERAL pipeline.replies_between(b.uri, b.rev, next.rev) c
), second AS MATERIALIZED (
  SELECT c.uri, c.rev, c.live, b.moved
  FROM (SELECT uri, min(moved) AS moved FROM first WHERE moved IS NOT NULL GROUP BY uri) b
  CROSS JOIN LATERAL pipeline.replies_between(b.uri, '', E'\x7f') c
), third AS MATERIALIZED (
  SELECT c.uri, c.rev, c.live, b.moved
  FROM (SELECT uri, min(moved) AS moved FROM second GROUP BY uri) b
  CROSS JOIN LATERAL pipeline.replies_between(b.uri, '', E'\x7f') c
), fourth AS MATERIALIZED (
  SELECT c.uri, c.rev, c.live
  FROM (SELECT uri, min(moved) AS moved FROM third GROUP BY uri) b
  CROSS JOIN LATERAL pipeline.replies_between(b.uri, b.moved, E'\x7f') c
)
INSERT INTO affected (uri, rev, live)
SELECT uri, rev, live FROM below
UNION
SELECT uri, rev, live FROM second WHERE rev >= moved
UNION
SELECT uri, rev, live FROM third WHERE rev >= moved
UNION
SELECT uri, rev, live FROM fourth;

-- :affected_in_thread
-- Finds the replies in the threads of the batch's gates, and of its posts, whose mentions a gate may ask for.
-- - event: the posts of these gates, and the posts. A gate decides by its record key, whatever post it names (`gates`
--   in evaluation.sql looks for it there): so its post is found by its key here.
-- - c: the replies in the thread, from the rev of the event on.
WITH event (post_uri, rev) AS (
  SELECT post_uri, min(rev)
  FROM (
    SELECT 'at://' || g.creator || '/{nsid.post}/' || split_part(g.uri, '/', 5) AS post_uri, w.rev
    FROM stage_threadgate g
    JOIN stage_write w USING (uri)
    UNION ALL
    SELECT 'at://' || did || '/{nsid.post}/' || split_part(uri, '/', 5), rev
    FROM new_version
    WHERE collection = '{nsid.threadgate}'
    UNION ALL
    SELECT uri, rev FROM post_event
  ) g
  GROUP BY post_uri
)
INSERT INTO affected (uri, rev, live)
SELECT c.uri, c.rev, true
FROM event e
CROSS JOIN LATERAL (
  SELECT p.uri, p.rev FROM bsky.post p WHERE p."replyRoot" = e.post_uri AND p.rev >= e.rev OFFSET 0
) c;

-- :affected_by_relationships
-- Finds the replies whose gate asks for a follow or list item that the batch brings or ends.
-- - event: these relationships.
-- - c: the replies that depend on one, from the rev of the event on.
WITH event (relationship, rev) AS (
  SELECT relationship, min(rev)
  FROM (
    SELECT s.relationship, s.rev
    FROM (
      {staged_relationships_of_gates}
    ) s
    UNION ALL
    SELECT v.relationship, v.rev
    FROM new_version n
    CROSS JOIN LATERAL (
      SELECT v.relationship, v.rev FROM pipeline.version v WHERE v.uri = n.uri AND v.rev = n.rev OFFSET 0
    ) v
    WHERE v.relationship IS NOT NULL
  ) r
  GROUP BY relationship
)
INSERT INTO affected (uri, rev, live)
SELECT c.uri, c.rev, true
FROM event e
CROSS JOIN LATERAL (
  SELECT p.uri, p.rev
  FROM pipeline.dependency d
  JOIN bsky.post p USING (uri)
  WHERE d.relationship = e.relationship AND p.rev >= e.rev
  OFFSET 0
) c;
