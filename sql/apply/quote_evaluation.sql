-- Evaluating quotes: which ones a post gate forbids.
--
-- A quote violates the post gate of the quoted post when that gate forbids quoting and the two authors differ.
--
-- Guarantees: an evaluation is a function of the events up to the quote's own rev. A post gate that arrives late, or
-- its deletion, evaluates the affected quotes again. All of this runs under the cross-repository lock (lock.sql).

-- :stage
-- Quotes that were evaluated, and the result.
CREATE TEMPORARY TABLE quote_evaluation (
  uri text NOT NULL,
  violating boolean NOT NULL
) ON COMMIT DELETE ROWS;

-- :evaluate
-- Evaluates the quotes of the batch, and those that a post gate of the batch affects.
-- - gate_event: the posts of the batch's post gates, by the gates' record keys, whatever post they name.
-- - quoting: the quotes. Affected ones are found by their embed: bsky.quote forgets a quote when the quoted post is
--   deleted, but that does not change whether it was allowed.
-- - gate: the state of the post gate as of each quote's rev. A gate does not apply to its own author.
-- - forbidding: the states that forbid quoting.
-- - evaluated: the result.
-- - noted: the same, for post_notification.sql.
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
), evaluated AS MATERIALIZED (
  SELECT q.uri, f.gate_uri IS NOT NULL AS violating
  FROM quoting q
  LEFT JOIN (SELECT g.uri, g.gate_uri FROM gate g JOIN forbidding USING (gate_uri, gate_rev)) f ON f.uri = q.uri
), noted AS (
  INSERT INTO quote_evaluation (uri, violating)
  SELECT uri, violating FROM evaluated
)
UPDATE bsky.post p SET "violatesEmbeddingRules" = CASE WHEN v.violating THEN true END
FROM evaluated v
WHERE p.uri = v.uri
  AND p.uri = ANY (ARRAY(SELECT uri FROM evaluated))
  AND p."violatesEmbeddingRules" IS DISTINCT FROM CASE WHEN v.violating THEN true END;
