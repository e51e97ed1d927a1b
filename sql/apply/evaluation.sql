-- Evaluating replies: which are valid, and which of them a thread gate turns away.
--
-- A reply is evaluated as of its own rev:
-- - its root is invalid when the parent (a record of any collection) did not exist, or is invalid itself, or the two
--   name different roots;
-- - it violates the thread gate when its author is not the root's, and the gate lists who may reply but admits them by
--   no rule.
--
-- Guarantees: an evaluation is a function of the events up to the reply's own rev, not of their order of arrival.
-- Replies that an event affects (affected.sql) are evaluated again, with everything that depends on them. All of this
-- runs under the cross-repository lock (lock.sql).

-- :stage
-- Replies that are evaluated, and the result.
CREATE TEMPORARY TABLE evaluation (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  creator text NOT NULL,
  root text NOT NULL,
  parent text NOT NULL,
  live boolean NOT NULL,                 -- a row of bsky.post; else one of pipeline.version
  is_new boolean NOT NULL,
  was_invalid boolean,
  was_violating boolean,
  parent_rev text COLLATE "C",           -- of the parent's state as of rev; null: it did not exist
  invalid boolean,
  violating boolean NOT NULL DEFAULT false
) ON COMMIT DELETE ROWS;

-- By which state of its thread gate each reply is evaluated.
CREATE TEMPORARY TABLE gated (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  creator text NOT NULL,
  root text NOT NULL,
  gate_uri text NOT NULL,
  gate_rev text COLLATE "C" NOT NULL,
  is_current boolean NOT NULL
) ON COMMIT DELETE ROWS;

-- The rules of each of those states, read once for all replies.
CREATE TEMPORARY TABLE gate_rule (
  gate_uri text NOT NULL,
  gate_rev text COLLATE "C" NOT NULL,
  kind text,                             -- null: the gate admits nobody
  list text
) ON COMMIT DELETE ROWS;

-- Relationships (as version.relationship) that rules ask for, and as of which rev.
CREATE TEMPORARY TABLE relationship_asked (
  relationship text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  holds boolean
) ON COMMIT DELETE ROWS;

-- :collect_new
-- Lists the replies of the batch, and past states that have never been evaluated.
INSERT INTO evaluation (uri, rev, creator, root, parent, live, is_new)
SELECT uri, rev, creator, reply_root, reply_parent, true, true
FROM stage_post
WHERE reply_parent IS NOT NULL
UNION ALL
SELECT v.uri, v.rev, split_part(v.uri, '/', 3), v.root, v.parent, false, true
FROM new_version n
CROSS JOIN LATERAL (
  SELECT * FROM pipeline.version v WHERE v.uri = n.uri AND v.rev = n.rev OFFSET 0
) v
WHERE v.parent IS NOT NULL AND v.invalid IS NULL;

-- :collect_affected
-- Lists the affected replies with their former result.
-- - c: affected posts that are not listed yet.
-- - p: the reply itself, live or past.
INSERT INTO evaluation (uri, rev, creator, root, parent, live, is_new, was_invalid, was_violating)
SELECT c.uri, c.rev, split_part(c.uri, '/', 3), p.root, p.parent, c.live, false, p.invalid, p.violating
FROM (
  SELECT DISTINCT uri, rev, live
  FROM affected c
  WHERE NOT EXISTS (SELECT FROM evaluation e WHERE e.uri = c.uri AND e.rev = c.rev)
) c
CROSS JOIN LATERAL (
  SELECT "replyRoot" AS root, "replyParent" AS parent, "invalidReplyRoot" AS invalid, "violatesThreadGate" AS violating
  FROM bsky.post
  WHERE c.live AND uri = c.uri AND "replyParent" IS NOT NULL
  UNION ALL
  SELECT root, parent, invalid, NULL
  FROM pipeline.version
  WHERE NOT c.live AND uri = c.uri AND rev = c.rev AND parent IS NOT NULL
  OFFSET 0
) p;

-- :evaluate_roots
-- Decides whether the root of each reply is valid, parents first, level by level. Replies that no level reaches (posts
-- of one commit that answer each other) stay invalid.
-- - other_parent: replies whose parent is no post, and which state of the parent there was.
-- - state_of_other: these states, read once; what they themselves reply to, if anything.
-- - parented: every reply with the state of its parent as of its own rev, if there was one.
-- - kept_for_others: replies that name other records; later events of those find them by pipeline.reply_to_other.
-- - evaluated: the result; first for replies whose parent is not evaluated here, then for replies to these.
WITH RECURSIVE other_parent AS MATERIALIZED (
  SELECT e.uri, e.rev, e.parent, p.rev AS parent_rev, p.is_current
  FROM evaluation e
  CROSS JOIN LATERAL pipeline.state_as_of(e.parent, e.rev) p
  WHERE split_part(e.parent, '/', 4) <> '{nsid.post}'
), state_of_other AS MATERIALIZED (
  SELECT o.parent, o.parent_rev, r.record #>> '{reply,root,uri}' AS root,
    CASE WHEN r.record -> 'reply' NOT IN ('null', 'false', '0', '""') THEN r.record ->> 'reply' END AS reply
  FROM (SELECT DISTINCT parent, parent_rev, is_current FROM other_parent) o
  CROSS JOIN LATERAL pipeline.record_at(o.parent, o.parent_rev, o.is_current) r
), parented AS MATERIALIZED (
  SELECT e.uri, e.rev, e.root, e.parent, p.rev AS parent_rev, p.root AS parent_root, p.parent AS parent_parent,
    p.invalid AS parent_invalid
  FROM evaluation e
  LEFT JOIN LATERAL pipeline.post_as_of(e.parent, e.rev) p ON true
  WHERE split_part(e.parent, '/', 4) = '{nsid.post}'
  UNION ALL
  SELECT e.uri, e.rev, e.root, e.parent, o.parent_rev, s.root, s.reply, NULL
  FROM evaluation e
  LEFT JOIN other_parent o USING (uri, rev)
  LEFT JOIN state_of_other s ON s.parent = o.parent AND s.parent_rev = o.parent_rev
  WHERE split_part(e.parent, '/', 4) <> '{nsid.post}'
), kept_for_others AS (
  INSERT INTO pipeline.reply_to_other (subject, uri, rev)
  SELECT DISTINCT s.subject, e.uri, e.rev
  FROM evaluation e
  CROSS JOIN LATERAL (VALUES (e.parent), (e.root)) s (subject)
  WHERE split_part(s.subject, '/', 4) <> '{nsid.post}'
  ORDER BY s.subject, e.uri, e.rev
  ON CONFLICT DO NOTHING
), evaluated (uri, rev, invalid) AS (
  SELECT c.uri, c.rev,
    c.parent_rev IS NULL
    OR c.parent_invalid IS TRUE
    OR CASE
      WHEN c.parent = c.root THEN c.parent_parent IS NOT NULL
      ELSE c.parent_root IS DISTINCT FROM c.root
    END
  FROM parented c
  WHERE NOT EXISTS (SELECT FROM evaluation e WHERE e.uri = c.parent AND e.rev = c.parent_rev)
  UNION ALL
  SELECT c.uri, c.rev,
    p.invalid
    OR CASE
      WHEN c.parent = c.root THEN c.parent_parent IS NOT NULL
      ELSE c.parent_root IS DISTINCT FROM c.root
    END
  FROM evaluated p
  JOIN parented c ON c.parent = p.uri AND c.parent_rev = p.rev
)
UPDATE evaluation t SET parent_rev = c.parent_rev, invalid = coalesce(v.invalid, true)
FROM parented c
LEFT JOIN evaluated v USING (uri, rev)
WHERE t.uri = c.uri AND t.rev = c.rev;

-- :gates
-- Finds the state of the thread gate as of each reply's rev. A gate does not apply to the author of the root.
INSERT INTO gated (uri, rev, creator, root, gate_uri, gate_rev, is_current)
SELECT e.uri, e.rev, e.creator, e.root, u.gate_uri, g.rev, g.is_current
FROM evaluation e
CROSS JOIN LATERAL (
  SELECT pipeline.thread_gate_of(e.root) AS gate_uri
) u
CROSS JOIN LATERAL pipeline.state_as_of(u.gate_uri, e.rev) g
WHERE (e.live OR e.is_new) AND split_part(e.root, '/', 3) <> e.creator;

-- :rules
-- Reads the rules of these gates. A gate that does not list who may reply turns nobody away, and has no rows here.
INSERT INTO gate_rule (gate_uri, gate_rev, kind, list)
SELECT g.gate_uri, g.gate_rev, r.rule ->> '$type', r.rule ->> 'list'
FROM (SELECT DISTINCT gate_uri, gate_rev, is_current FROM gated) g
CROSS JOIN LATERAL (
  SELECT a.record -> 'allow' AS allow FROM pipeline.record_at(g.gate_uri, g.gate_rev, g.is_current) a OFFSET 0
) a
LEFT JOIN LATERAL jsonb_array_elements(CASE WHEN jsonb_typeof(a.allow) = 'array' THEN a.allow END) r (rule) ON true
WHERE jsonb_typeof(a.allow) = 'array';

-- :ask_relationships
-- Lists the relationships that rules ask for.
-- - asked: each with the reply that depends on it.
-- - depends: the same, kept in pipeline.dependency, by which a late follow or list item finds the reply.
WITH asked AS MATERIALIZED (
  SELECT DISTINCT a.relationship, g.uri, g.rev
  FROM gated g
  JOIN gate_rule r USING (gate_uri, gate_rev)
  CROSS JOIN LATERAL
    pipeline.relationship_of_rule(r.kind, r.list, split_part(g.root, '/', 3), g.creator) a (relationship)
  WHERE a.relationship IS NOT NULL
), depends AS (
  INSERT INTO pipeline.dependency (relationship, uri)
  SELECT DISTINCT relationship, uri FROM asked ORDER BY relationship, uri
  ON CONFLICT DO NOTHING
)
INSERT INTO relationship_asked (relationship, rev)
SELECT DISTINCT relationship, rev FROM asked;

-- :find_relationships
-- Decides whether each relationship existed as of each rev: up to that rev, it included, more records had begun to
-- state it than had ceased to. A record ceases to state it with its next event. The history of a relationship is read
-- once, however many revs are asked for.
-- - asked: relationships without an answer.
-- - stated: every state of a record that stated one: from which rev, and until which.
-- - moment: where the number of such records changes, and the revs that are asked for.
-- - counted: the answer at each of these revs.
WITH asked AS MATERIALIZED (
  SELECT DISTINCT relationship FROM relationship_asked WHERE holds IS NULL
), stated AS MATERIALIZED (
  SELECT a.relationship, r.rev, NULL AS until
  FROM asked a
  CROSS JOIN LATERAL (
    SELECT w.uri
    FROM bsky.follow w
    WHERE a.relationship LIKE 'did:%'
      AND w.creator = split_part(a.relationship, ' ', 1)
      AND w."subjectDid" = split_part(a.relationship, ' ', 2)
    UNION ALL
    SELECT i.uri
    FROM bsky.list_item i
    WHERE a.relationship LIKE 'at:%'
      AND i."listUri" = split_part(a.relationship, ' ', 1)
      AND i."subjectDid" = split_part(a.relationship, ' ', 2)
    OFFSET 0
  ) w
  CROSS JOIN LATERAL (SELECT r.rev FROM bsky.record r WHERE r.uri = w.uri AND r.rev IS NOT NULL OFFSET 0) r
  UNION ALL
  SELECT a.relationship, v.rev, least(
    (SELECT n.rev FROM pipeline.version n WHERE n.uri = v.uri AND n.rev > v.rev ORDER BY n.rev LIMIT 1),
    (SELECT r.rev FROM bsky.record r WHERE r.uri = v.uri AND r.rev > v.rev))
  FROM asked a
  CROSS JOIN LATERAL (SELECT v.uri, v.rev FROM pipeline.version v WHERE v.relationship = a.relationship OFFSET 0) v
), moment (relationship, rev, change) AS (
  SELECT relationship, rev, 1 FROM stated
  UNION ALL
  SELECT relationship, until, -1 FROM stated WHERE until IS NOT NULL
  UNION ALL
  SELECT relationship, rev, 0 FROM relationship_asked WHERE holds IS NULL
), counted AS (
  SELECT DISTINCT relationship, rev,
    sum(change) OVER (PARTITION BY relationship ORDER BY rev RANGE UNBOUNDED PRECEDING) > 0 AS holds
  FROM moment
)
UPDATE relationship_asked a SET holds = c.holds
FROM counted c
WHERE a.relationship = c.relationship AND a.rev = c.rev AND a.holds IS NULL;

-- :evaluate_gates
-- Marks the replies that their gate turns away.
-- - rooted: gated replies whose gate admits accounts that the root mentions, and the state of the root.
-- - mentioned: the accounts that these roots mention.
-- - admitted: replies whose author is mentioned, or has a relationship that a rule asks for.
-- - refused: all other replies whose gate has rules.
WITH rooted AS MATERIALIZED (
  SELECT g.uri, g.rev, g.creator, g.root, p.rev AS root_rev, p.mentions
  FROM gated g
  CROSS JOIN LATERAL pipeline.post_as_of(g.root, g.rev) p
  WHERE (g.gate_uri, g.gate_rev) IN (
    SELECT gate_uri, gate_rev FROM gate_rule WHERE kind = '{nsid.threadgate}#mentionRule')
), mentioned AS MATERIALIZED (
  SELECT DISTINCT r.root, r.root_rev, m.did
  FROM (SELECT DISTINCT root, root_rev, mentions FROM rooted) r
  CROSS JOIN LATERAL jsonb_array_elements_text(
    coalesce(r.mentions, (
      SELECT jsonb_path_query_array(
        o.json::jsonb, '$.facets[*].features[*] ? (@."$type" == "app.bsky.richtext.facet#mention").did')
      FROM bsky.record o
      WHERE o.uri = r.root
    ))) m (did)
), admitted AS (
  SELECT r.uri, r.rev
  FROM rooted r
  JOIN mentioned m ON m.root = r.root AND m.root_rev = r.root_rev AND m.did = r.creator
  UNION
  SELECT g.uri, g.rev
  FROM gated g
  JOIN gate_rule r USING (gate_uri, gate_rev)
  JOIN relationship_asked a
    ON a.relationship = pipeline.relationship_of_rule(r.kind, r.list, split_part(g.root, '/', 3), g.creator)
    AND a.rev = g.rev
    AND a.holds
), refused AS (
  SELECT g.uri, g.rev FROM gated g JOIN gate_rule r USING (gate_uri, gate_rev)
  EXCEPT
  SELECT uri, rev FROM admitted
)
UPDATE evaluation t SET violating = true
FROM refused r
WHERE t.uri = r.uri AND t.rev = r.rev;

-- :flag
-- Sets the flags of posts, and counts a reply with its parent, or no longer. As in the reference both flags are set, or
-- neither.
-- - flagged: live replies whose flags change.
-- - remembered: past states whose result changes.
WITH flagged AS (
  UPDATE bsky.post p SET
    "invalidReplyRoot" = CASE WHEN e.invalid OR e.violating THEN e.invalid END,
    "violatesThreadGate" = CASE WHEN e.invalid OR e.violating THEN e.violating END
  FROM evaluation e
  WHERE e.live AND p.uri = e.uri
    AND p.uri = ANY (ARRAY(
      SELECT uri FROM evaluation
      WHERE live AND (is_new IS FALSE OR invalid OR violating)
    ))
    AND (
      p."invalidReplyRoot" IS DISTINCT FROM CASE WHEN e.invalid OR e.violating THEN e.invalid END
      OR p."violatesThreadGate" IS DISTINCT FROM CASE WHEN e.invalid OR e.violating THEN e.violating END
    )
), remembered AS (
  UPDATE pipeline.version v SET invalid = e.invalid
  FROM evaluation e
  WHERE NOT e.live AND v.uri = e.uri AND v.rev = e.rev AND v.invalid IS DISTINCT FROM e.invalid
    AND v.uri = ANY (ARRAY(SELECT uri FROM evaluation WHERE NOT live))
)
INSERT INTO delta_post (uri, replies)
SELECT parent,
  CASE WHEN violating THEN 0 ELSE 1 END - CASE WHEN is_new OR was_violating IS TRUE THEN 0 ELSE 1 END
FROM evaluation
WHERE live AND violating IS DISTINCT FROM (is_new OR was_violating IS TRUE);

-- :pend
-- Keeps replies in pipeline.pending whose parent is missing: until it arrives the evaluation is not final. Removes
-- those whose parent has arrived. The parent is fetched (pending.sql says which records are); where it is not, the row
-- expires at once.
-- - missed: replies whose parent was never seen, in order within each account.
-- - allowed: the same, with the number of records that their account may still have fetched (as in pending.sql).
-- - wanted: the same, and whether the parent is fetched.
-- - added: their rows.
WITH missed AS MATERIALIZED (
  SELECT e.uri, e.creator, e.parent, row_number() OVER (PARTITION BY e.creator ORDER BY e.uri) AS number
  FROM evaluation e
  WHERE e.live AND e.parent_rev IS NULL
    AND (SELECT true FROM bsky.record r WHERE r.uri = e.parent) IS NULL
    AND (SELECT true FROM pipeline.version v WHERE v.uri = e.parent LIMIT 1) IS NULL
), allowed AS MATERIALIZED (
  SELECT m.uri, m.parent, m.number, min(l.number) OVER (PARTITION BY m.creator) AS fetches_left
  FROM missed m
  CROSS JOIN LATERAL pipeline.fetches_left(CASE WHEN m.number = 1 THEN m.creator END) l
), wanted AS MATERIALIZED (
  SELECT m.uri, m.parent, f.uri IS NOT NULL AS is_fetched
  FROM allowed m
  LEFT JOIN LATERAL pipeline.fetchable(m.parent) f
    ON m.number <= m.fetches_left
    AND split_part(m.parent, '/', 4) IN ({collections})
    AND m.uri NOT IN (SELECT uri FROM quiet_record)
), added AS (
  INSERT INTO pipeline.pending (uri, kind, missing, not_before, expires_at)
  SELECT uri, 'reply', parent, CASE WHEN is_fetched THEN now() END,
    CASE WHEN is_fetched THEN now() + interval '24 hours' ELSE now() END
  FROM wanted
  ORDER BY uri
  ON CONFLICT DO NOTHING
)
DELETE FROM pipeline.pending d
USING evaluation e
WHERE d.uri = e.uri AND d.uri = ANY (ARRAY(SELECT uri FROM evaluation)) AND d.kind = 'reply'
  AND (NOT e.live OR e.parent_rev IS NOT NULL OR d.missing <> e.parent);

-- :fetch_parents
-- Runs for records that were fetched one by one, and are quiet: the parents of replies among them are fetched in turn,
-- up to the root of the thread. Without those, the reply that began this could not be evaluated.
UPDATE pipeline.pending d SET not_before = now(), expires_at = now() + interval '24 hours'
FROM evaluation e
CROSS JOIN LATERAL pipeline.fetches_left(e.creator) l
CROSS JOIN LATERAL pipeline.fetchable(e.parent) f
WHERE d.uri = e.uri AND d.uri = ANY (ARRAY(SELECT uri FROM quiet_record)) AND d.kind = 'reply' AND d.missing = e.parent
  AND d.not_before IS NULL AND d.error IS NULL
  AND l.number > 0
  AND split_part(e.parent, '/', 4) IN ({collections});
