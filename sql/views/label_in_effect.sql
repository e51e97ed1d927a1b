-- pipeline.label_in_effect, and pipeline.labels_on: the labels that are in effect now. For people and their tools; the
-- migration that made them has run this file.
--
-- Guarantees: a label of a labeler is in effect when it is not negated (sql/apply/label.sql) and has not expired. A
-- record's self-labels are in effect as long as it has them; they count as the reference counts them, as labels by its
-- author of the record's creation time. Of a subject the labels are found by look-ups: those of labelers in
-- label_in_effect_idx alone, those of records in record_self_labels_idx, which holds the few records with self-labels.
-- One row that can't be read never makes the others unreadable.

-- :views
-- The view, and the function that asks it.
CREATE VIEW pipeline.label_in_effect AS
SELECT uri::text AS uri, uri::text AS did, src::text AS src, cid::text AS cid, val::text AS val, cts::text AS cts,
  exp::text AS exp, 'account' AS kind
FROM bsky.label
WHERE uri LIKE 'did:%' AND NOT neg
  AND (exp IS NULL OR exp > to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
UNION ALL
SELECT uri::text, split_part(uri, '/', 3), src::text, cid::text, val::text, cts::text, exp::text, 'record'
FROM bsky.label
WHERE uri NOT LIKE 'did:%' AND NOT neg
  AND (exp IS NULL OR exp > to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
UNION ALL
SELECT r.uri::text, r.did::text, r.did::text, r.cid::text, v.val, pipeline.created_at(o.record ->> 'createdAt'), NULL,
  'self'
FROM bsky.record r
CROSS JOIN LATERAL (SELECT r.json::jsonb AS record OFFSET 0) o
CROSS JOIN LATERAL (
  SELECT DISTINCT e.value ->> 'val' AS val
  FROM jsonb_array_elements(
    CASE
      WHEN o.record #>> '{labels,$type}' = 'com.atproto.label.defs#selfLabels'
        AND jsonb_typeof(o.record #> '{labels,values}') = 'array'
      THEN o.record #> '{labels,values}'
    END
  ) e
) v
WHERE strpos(r.json, 'com.atproto.label.defs#selfLabels') > 0 AND v.val <> '';
COMMENT ON VIEW pipeline.label_in_effect IS
    'Labels in effect now: of labelers, on accounts and on records, and those that records give themselves.';
COMMENT ON COLUMN pipeline.label_in_effect.uri IS 'What is labeled: the DID of an account, or the AT URI of a record.';
COMMENT ON COLUMN pipeline.label_in_effect.did IS 'The account that is labeled, or whose record is.';
COMMENT ON COLUMN pipeline.label_in_effect.src IS
    'DID of the labeler; of a record that labels itself, its author''s.';
COMMENT ON COLUMN pipeline.label_in_effect.cid IS 'Version of the record that is meant; empty: any.';
COMMENT ON COLUMN pipeline.label_in_effect.val IS 'The label''s value.';
COMMENT ON COLUMN pipeline.label_in_effect.cts IS 'When it was made, as ISO 8601 in UTC with milliseconds.';
COMMENT ON COLUMN pipeline.label_in_effect.exp IS 'When it ends, as ISO 8601 in UTC with milliseconds; null: never.';
COMMENT ON COLUMN pipeline.label_in_effect.kind IS
    'account: a labeler has labeled the account; record: a labeler has labeled the record; self: the record has '
    'labeled itself.';

CREATE FUNCTION pipeline.labels_on(subject text) RETURNS SETOF pipeline.label_in_effect LANGUAGE sql STABLE AS $$
    SELECT l.*
    FROM (SELECT CASE WHEN subject LIKE 'at://%' THEN split_part(subject, '/', 3) ELSE subject END AS did) a
    CROSS JOIN LATERAL (
      SELECT *
      FROM pipeline.label_in_effect
      WHERE uri = ANY (ARRAY[subject, a.did, pipeline.profile_of(a.did)])
      OFFSET 0
    ) l
$$;
COMMENT ON FUNCTION pipeline.labels_on IS
    'Labels in effect that apply to an account (DID) or a record (AT URI): its own, those of its account, and those of '
    'the account''s profile record.';
