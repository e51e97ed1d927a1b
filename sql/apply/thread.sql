-- Threads: which replies are valid, whom a thread gate turns away, which quotes a post gate forbids.
--
-- A reply is judged by what existed at its own rev:
-- - its root is invalid when the parent (a record of any collection) was not there, or was invalid itself, or the two
--   disagree on the root;
-- - it violates the thread gate when its author is not the root's, the gate lists who may reply, and he is none of them.
-- A quote violates the post gate of what it quotes when that forbids quoting and the two authors differ.
--
-- Guarantees: a judgement is a function of the events up to the post's own rev, not of their order of arrival. Whatever
-- comes late (parent, root, gate, follow, list item, or the deletion of one) leads to the posts that it concerns, and
-- they are judged again, with all that hangs on them. Of two writers one judges after the other has committed (`lock`),
-- so that neither can miss what the other brings.

-- :stage
-- Every event of a post in this batch. `moves`: it is there where it was not, or the other way round, or it hangs elsewhere
-- in a thread than its state before; what an edit leaves where it is changes nothing further down.
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

CREATE TEMPORARY TABLE judgement (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  creator text NOT NULL,
  root text NOT NULL,
  parent text NOT NULL,
  live boolean NOT NULL,                 -- a row of bsky.post; else one of pipeline.version
  is_new boolean NOT NULL,
  was_invalid boolean,
  was_violating boolean,
  parent_rev text COLLATE "C",           -- of the parent as it was; null: it was not there
  invalid boolean,
  violating boolean NOT NULL DEFAULT false
) ON COMMIT DELETE ROWS;

-- Which state of its thread gate a reply is judged by, and the rules of each of those states, read once for all replies.
CREATE TEMPORARY TABLE gated (
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  creator text NOT NULL,
  root text NOT NULL,
  gate_uri text NOT NULL,
  gate_rev text COLLATE "C" NOT NULL,
  is_current boolean NOT NULL
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE gate_rule (
  gate_uri text NOT NULL,
  gate_rev text COLLATE "C" NOT NULL,
  kind text,                             -- null: the gate admits nobody
  list text
) ON COMMIT DELETE ROWS;

-- Follows and list items (as version.fact) that are asked about, and as of which rev.
CREATE TEMPORARY TABLE fact_asked (
  fact text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  holds boolean
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE quote_judgement (
  uri text NOT NULL,
  violating boolean NOT NULL
) ON COMMIT DELETE ROWS;

-- :lock
-- Taken by every batch with records, after it has written what its own repositories bring and before it looks at, or writes
-- to, what other repositories bring: judgements, counters, notifications, feed items of deleted posts. Until its commit.
SELECT pg_advisory_xact_lock(hashtext('appview-pipeline: judging'));

-- :events
-- A state that an update replaces was there before and is no event; one that nobody has seen, and a deletion, is.
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
-- Events of other records that earlier replies name as their parent or root. Such replies are rare, and a stream in order
-- has none that is newer than what it brings: then nothing is looked up.
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

-- :collect_new
INSERT INTO judgement (uri, rev, creator, root, parent, live, is_new)
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

-- Replies that came before what this batch brings. Only posts whose rev is not older than an event's can be affected by it.
-- An event is looked at once a post, from the oldest of its revs on: several edits of a post don't multiply its replies.
-- (`OFFSET 0` keeps the planner from turning a look-up into a scan of a large table: it can't guess how few rows ask.)

-- :affected_below
-- A reply depends on the state of its parent as of its own rev, that one on its own parent's, and so on to any depth
-- (`below`): of every state found, the replies between its rev and the next state's. UNION keeps each once.
-- Whom a reply notifies depends on where the four posts above it were as of its own rev. So where a post moves, replies
-- as new as that are looked for four levels down also past older ones (`second` to `fourth`): those are unaffected, but
-- later replies below them notify these ancestors.
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
-- In the threads of the batch's gates, and of its posts, whose mentions a gate may ask for. A gate decides by its record key,
-- whatever record of that key it says to be its post: so it is looked for (`gates`), and so its posts are found here.
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

-- :affected_by_facts
-- By its follows and list items, its own and those that end with it.
WITH event (fact, rev) AS (
  SELECT fact, min(rev)
  FROM (
    SELECT s.relationship AS fact, s.rev
    FROM (
      {staged_relationships_of_gates}
    ) s
    UNION ALL
    SELECT v.fact, v.rev
    FROM new_version n
    CROSS JOIN LATERAL (
      SELECT v.fact, v.rev FROM pipeline.version v WHERE v.uri = n.uri AND v.rev = n.rev OFFSET 0
    ) v
    WHERE v.fact IS NOT NULL
  ) f
  GROUP BY fact
)
INSERT INTO affected (uri, rev, live)
SELECT c.uri, c.rev, true
FROM event e
CROSS JOIN LATERAL (
  SELECT p.uri, p.rev
  FROM pipeline.dependency d
  JOIN bsky.post p USING (uri)
  WHERE d.fact = e.fact AND p.rev >= e.rev
  OFFSET 0
) c;

-- :collect_affected
INSERT INTO judgement (uri, rev, creator, root, parent, live, is_new, was_invalid, was_violating)
SELECT c.uri, c.rev, split_part(c.uri, '/', 3), p.root, p.parent, c.live, false, p.invalid, p.violating
FROM (
  SELECT DISTINCT uri, rev, live
  FROM affected c
  WHERE NOT EXISTS (SELECT FROM judgement j WHERE j.uri = c.uri AND j.rev = c.rev)
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

-- :judge_roots
-- Parents first, level by level. What no level reaches (posts of one commit that answer each other) stays invalid.
WITH RECURSIVE other AS MATERIALIZED (
  SELECT j.uri, j.rev, j.parent, p.rev AS parent_rev, p.is_current
  FROM judgement j
  CROSS JOIN LATERAL pipeline.state_as_of(j.parent, j.rev) p
  WHERE split_part(j.parent, '/', 4) <> '{nsid.post}'
), state_of_other AS MATERIALIZED (
  SELECT o.parent, o.parent_rev, r.record #>> '{reply,root,uri}' AS root,
    CASE WHEN r.record -> 'reply' NOT IN ('null', 'false', '0', '""') THEN r.record ->> 'reply' END AS reply
  FROM (SELECT DISTINCT parent, parent_rev, is_current FROM other) o
  CROSS JOIN LATERAL pipeline.record_at(o.parent, o.parent_rev, o.is_current) r
), parented AS MATERIALIZED (
  SELECT j.uri, j.rev, j.root, j.parent, p.rev AS parent_rev, p.root AS parent_root, p.parent AS parent_parent,
    p.invalid AS parent_invalid
  FROM judgement j
  LEFT JOIN LATERAL pipeline.post_as_of(j.parent, j.rev) p ON true
  WHERE split_part(j.parent, '/', 4) = '{nsid.post}'
  UNION ALL
  SELECT j.uri, j.rev, j.root, j.parent, o.parent_rev, s.root, s.reply, NULL
  FROM judgement j
  LEFT JOIN other o USING (uri, rev)
  LEFT JOIN state_of_other s ON s.parent = o.parent AND s.parent_rev = o.parent_rev
  WHERE split_part(j.parent, '/', 4) <> '{nsid.post}'
), of_others AS (
  INSERT INTO pipeline.reply_to_other (subject, uri, rev)
  SELECT DISTINCT s.subject, j.uri, j.rev
  FROM judgement j
  CROSS JOIN LATERAL (VALUES (j.parent), (j.root)) s (subject)
  WHERE split_part(s.subject, '/', 4) <> '{nsid.post}'
  ORDER BY s.subject, j.uri, j.rev
  ON CONFLICT DO NOTHING
), judged (uri, rev, invalid) AS (
  SELECT c.uri, c.rev,
    c.parent_rev IS NULL
    OR c.parent_invalid IS TRUE
    OR CASE
      WHEN c.parent = c.root THEN c.parent_parent IS NOT NULL
      ELSE c.parent_root IS DISTINCT FROM c.root
    END
  FROM parented c
  WHERE NOT EXISTS (SELECT FROM judgement j WHERE j.uri = c.parent AND j.rev = c.parent_rev)
  UNION ALL
  SELECT c.uri, c.rev,
    j.invalid
    OR CASE
      WHEN c.parent = c.root THEN c.parent_parent IS NOT NULL
      ELSE c.parent_root IS DISTINCT FROM c.root
    END
  FROM judged j
  JOIN parented c ON c.parent = j.uri AND c.parent_rev = j.rev
)
UPDATE judgement t SET parent_rev = c.parent_rev, invalid = coalesce(j.invalid, true)
FROM parented c
LEFT JOIN judged j USING (uri, rev)
WHERE t.uri = c.uri AND t.rev = c.rev;

-- :gates
INSERT INTO gated (uri, rev, creator, root, gate_uri, gate_rev, is_current)
SELECT j.uri, j.rev, j.creator, j.root, u.gate_uri, g.rev, g.is_current
FROM judgement j
CROSS JOIN LATERAL (
  SELECT pipeline.thread_gate_of(j.root) AS gate_uri
) u
CROSS JOIN LATERAL pipeline.state_as_of(u.gate_uri, j.rev) g
WHERE (j.live OR j.is_new) AND split_part(j.root, '/', 3) <> j.creator;

-- :rules
-- A gate that does not list who may reply turns nobody away, and has no rows here.
INSERT INTO gate_rule (gate_uri, gate_rev, kind, list)
SELECT g.gate_uri, g.gate_rev, r.rule ->> '$type', r.rule ->> 'list'
FROM (SELECT DISTINCT gate_uri, gate_rev, is_current FROM gated) g
CROSS JOIN LATERAL (
  SELECT a.record -> 'allow' AS allow FROM pipeline.record_at(g.gate_uri, g.gate_rev, g.is_current) a OFFSET 0
) a
LEFT JOIN LATERAL jsonb_array_elements(CASE WHEN jsonb_typeof(a.allow) = 'array' THEN a.allow END) r (rule) ON true
WHERE jsonb_typeof(a.allow) = 'array';

-- :ask_facts
-- Replies that a follow or list item decides on are found again by it, should it come late.
WITH asked AS MATERIALIZED (
  SELECT DISTINCT f.fact, g.uri, g.rev
  FROM gated g
  JOIN gate_rule r USING (gate_uri, gate_rev)
  CROSS JOIN LATERAL pipeline.fact_of_rule(r.kind, r.list, split_part(g.root, '/', 3), g.creator) f (fact)
  WHERE f.fact IS NOT NULL
), depends AS (
  INSERT INTO pipeline.dependency (fact, uri)
  SELECT DISTINCT fact, uri FROM asked ORDER BY fact, uri
  ON CONFLICT DO NOTHING
)
INSERT INTO fact_asked (fact, rev)
SELECT DISTINCT fact, rev FROM asked;

-- :facts
-- Whether each fact held: more records began to say it up to that rev, it included, than ceased to. A record ceases with its
-- next event. (One pass over a fact's history, however many revs are asked about.)
WITH fact AS MATERIALIZED (
  SELECT DISTINCT fact FROM fact_asked WHERE holds IS NULL
), said AS MATERIALIZED (
  SELECT f.fact, r.rev, NULL AS until
  FROM fact f
  CROSS JOIN LATERAL (
    SELECT w.uri
    FROM bsky.follow w
    WHERE f.fact LIKE 'did:%' AND w.creator = split_part(f.fact, ' ', 1) AND w."subjectDid" = split_part(f.fact, ' ', 2)
    UNION ALL
    SELECT i.uri
    FROM bsky.list_item i
    WHERE f.fact LIKE 'at:%' AND i."listUri" = split_part(f.fact, ' ', 1) AND i."subjectDid" = split_part(f.fact, ' ', 2)
    OFFSET 0
  ) w
  CROSS JOIN LATERAL (SELECT r.rev FROM bsky.record r WHERE r.uri = w.uri AND r.rev IS NOT NULL OFFSET 0) r
  UNION ALL
  SELECT f.fact, v.rev, least(
    (SELECT n.rev FROM pipeline.version n WHERE n.uri = v.uri AND n.rev > v.rev ORDER BY n.rev LIMIT 1),
    (SELECT r.rev FROM bsky.record r WHERE r.uri = v.uri AND r.rev > v.rev))
  FROM fact f
  CROSS JOIN LATERAL (SELECT v.uri, v.rev FROM pipeline.version v WHERE v.fact = f.fact OFFSET 0) v
), moment (fact, rev, change) AS (
  SELECT fact, rev, 1 FROM said
  UNION ALL
  SELECT fact, until, -1 FROM said WHERE until IS NOT NULL
  UNION ALL
  SELECT fact, rev, 0 FROM fact_asked WHERE holds IS NULL
), counted AS (
  SELECT DISTINCT fact, rev, sum(change) OVER (PARTITION BY fact ORDER BY rev RANGE UNBOUNDED PRECEDING) > 0 AS holds
  FROM moment
)
UPDATE fact_asked a SET holds = c.holds
FROM counted c
WHERE a.fact = c.fact AND a.rev = c.rev AND a.holds IS NULL;

-- :judge_gates
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
  JOIN fact_asked a
    ON a.fact = pipeline.fact_of_rule(r.kind, r.list, split_part(g.root, '/', 3), g.creator) AND a.rev = g.rev AND a.holds
), refused AS (
  SELECT g.uri, g.rev FROM gated g JOIN gate_rule r USING (gate_uri, gate_rev)
  EXCEPT
  SELECT uri, rev FROM admitted
)
UPDATE judgement t SET violating = true
FROM refused r
WHERE t.uri = r.uri AND t.rev = r.rev;

-- :flag
-- As the reference has it: both flags are set, or neither. Counts the reply with its parent, or no longer.
WITH flagged AS (
  UPDATE bsky.post p SET
    "invalidReplyRoot" = CASE WHEN j.invalid OR j.violating THEN j.invalid END,
    "violatesThreadGate" = CASE WHEN j.invalid OR j.violating THEN j.violating END
  FROM judgement j
  WHERE j.live AND p.uri = j.uri
    AND p.uri = ANY (ARRAY(
      SELECT uri FROM judgement
      WHERE live AND (is_new IS FALSE OR invalid OR violating)
    ))
    AND (
      p."invalidReplyRoot" IS DISTINCT FROM CASE WHEN j.invalid OR j.violating THEN j.invalid END
      OR p."violatesThreadGate" IS DISTINCT FROM CASE WHEN j.invalid OR j.violating THEN j.violating END
    )
), remembered AS (
  UPDATE pipeline.version v SET invalid = j.invalid
  FROM judgement j
  WHERE NOT j.live AND v.uri = j.uri AND v.rev = j.rev AND v.invalid IS DISTINCT FROM j.invalid
    AND v.uri = ANY (ARRAY(SELECT uri FROM judgement WHERE NOT live))
)
INSERT INTO delta_post (uri, replies)
SELECT parent,
  CASE WHEN violating THEN 0 ELSE 1 END - CASE WHEN is_new OR was_violating IS TRUE THEN 0 ELSE 1 END
FROM judgement
WHERE live AND violating IS DISTINCT FROM (is_new OR was_violating IS TRUE);

-- :pend
-- What is not there is missed: it can be fetched, and until it is there the judgement is not final.
WITH missed AS (
  INSERT INTO pipeline.pending (uri, kind, missing)
  SELECT j.uri, 'reply', j.parent
  FROM judgement j
  WHERE j.live AND j.parent_rev IS NULL
    AND (SELECT true FROM bsky.record r WHERE r.uri = j.parent) IS NULL
    AND (SELECT true FROM pipeline.version v WHERE v.uri = j.parent LIMIT 1) IS NULL
  ORDER BY j.uri
  ON CONFLICT DO NOTHING
)
DELETE FROM pipeline.pending d
USING judgement j
WHERE d.uri = j.uri AND d.uri = ANY (ARRAY(SELECT uri FROM judgement)) AND d.kind = 'reply'
  AND (NOT j.live OR j.parent_rev IS NOT NULL OR d.missing <> j.parent);

-- :judge_quotes
-- Quotes of the batch, and those that a post gate of the batch concerns: by what they embed, for bsky.quote forgets a quote
-- when the quoted post goes, which changes nothing of whether it was allowed. A gate's post is that of its record key, as above.
WITH gate_event (post_uri, rev) AS (
  SELECT post_uri, min(rev)
  FROM (
    SELECT 'at://' || g.creator || '/{nsid.post}/' || split_part(g.uri, '/', 5) AS post_uri, s.rev
    FROM stage_postgate g
    JOIN stage_write s USING (uri)
    UNION ALL
    SELECT 'at://' || did || '/{nsid.post}/' || split_part(uri, '/', 5), rev
    FROM new_version
    WHERE collection = '{nsid.postgate}'
  ) g
  GROUP BY post_uri
), quoting (uri, rev, creator, subject) AS MATERIALIZED (
  SELECT p.uri, p.rev, p.creator, e.embed_uri
  FROM stage_post_record e
  JOIN stage_post p ON p.uri = e.post_uri
  WHERE e.is_quote
  UNION
  SELECT p.uri, p.rev, p.creator, g.post_uri
  FROM gate_event g
  CROSS JOIN LATERAL (
    SELECT e."postUri" AS uri FROM bsky.post_embed_record e WHERE e."embedUri" = g.post_uri OFFSET 0
  ) e
  CROSS JOIN LATERAL (SELECT p.uri, p.rev, p.creator FROM bsky.post p WHERE p.uri = e.uri AND p.rev >= g.rev OFFSET 0) p
), gate AS MATERIALIZED (
  SELECT q.uri, u.gate_uri, g.rev AS gate_rev, g.is_current
  FROM quoting q
  CROSS JOIN LATERAL (
    SELECT 'at://' || split_part(q.subject, '/', 3) || '/{nsid.postgate}/' || split_part(q.subject, '/', 5) AS gate_uri
  ) u
  CROSS JOIN LATERAL pipeline.state_as_of(u.gate_uri, q.rev) g
  WHERE q.creator <> split_part(q.subject, '/', 3)
), forbidding AS MATERIALIZED (
  SELECT g.gate_uri, g.gate_rev
  FROM (SELECT DISTINCT gate_uri, gate_rev, is_current FROM gate) g
  CROSS JOIN LATERAL pipeline.record_at(g.gate_uri, g.gate_rev, g.is_current) r
  WHERE r.record -> 'embeddingRules' @> '[{"$type": "{nsid.postgate}#disableRule"}]'
), judged AS MATERIALIZED (
  SELECT q.uri, f.gate_uri IS NOT NULL AS violating
  FROM quoting q
  LEFT JOIN (SELECT g.uri, g.gate_uri FROM gate g JOIN forbidding USING (gate_uri, gate_rev)) f ON f.uri = q.uri
), noted AS (
  INSERT INTO quote_judgement (uri, violating)
  SELECT uri, violating FROM judged
)
UPDATE bsky.post p SET "violatesEmbeddingRules" = CASE WHEN j.violating THEN true END
FROM judged j
WHERE p.uri = j.uri
  AND p.uri = ANY (ARRAY(SELECT uri FROM judged))
  AND p."violatesEmbeddingRules" IS DISTINCT FROM CASE WHEN j.violating THEN true END;
