-- The label feed: rows of pipeline.label_event that took effect, in the order of their ids.
--
-- Guarantees: reads only. Ids rise in the order in which transactions commit (sql/apply/label.sql), so a reader who
-- goes on after the id up to which a page was read misses nothing, and reads nothing twice. A page looks at no more
-- than %(limit)s rows of each labeler, however few of them it returns.

-- :bounds
-- Returns the newest id, the highest id that was ever given to a row, and the highest id of the labelers %(sources)s
-- (null: all) that was removed by age.
SELECT
  coalesce((SELECT max(id) FROM pipeline.label_event), 0),
  coalesce(pg_sequence_last_value('pipeline.label_event_id_seq'), 0),
  coalesce(
    (SELECT max(swept_to) FROM pipeline.label_swept WHERE %(sources)s::text[] IS NULL OR src = ANY (%(sources)s)), 0
  );

-- :page
-- Returns up to which id the rows after %(after)s, up to %(until)s (null: all), were read, with each of these rows that
-- took effect, in order; a row of nulls where there is none. Unsigned ones only where %(unsigned)s.
-- - page: the rows looked at.
WITH page AS MATERIALIZED (
  SELECT *
  FROM pipeline.label_event
  WHERE id > %(after)s AND id <= coalesce(%(until)s, 9223372036854775807)
  ORDER BY id
  LIMIT %(limit)s
)
SELECT r.id, p.id, p.src, p.uri, p.cid, p.val, p.neg, p.cts, p.exp, p.sig, p.signed,
  (extract(epoch FROM p.cts_at) * 1000000)::bigint, (extract(epoch FROM p.exp_at) * 1000000)::bigint
FROM (
  SELECT greatest(
    CASE WHEN (SELECT count(*) FROM page) < %(limit)s THEN %(until)s::bigint END, (SELECT max(id) FROM page), %(after)s
  ) AS id
) r
LEFT JOIN page p ON p.took_effect AND (%(unsigned)s OR p.sig IS NOT NULL)
ORDER BY p.id;

-- :page_of_sources
-- The same of the labelers %(sources)s only. Where they have no more rows, what others have is read past.
-- - page: the rows looked at.
WITH page AS MATERIALIZED (
  SELECT e.*
  FROM unnest(%(sources)s::text[]) s (src)
  CROSS JOIN LATERAL (
    SELECT *
    FROM pipeline.label_event
    WHERE src = s.src AND id > %(after)s AND id <= coalesce(%(until)s, 9223372036854775807)
    ORDER BY id
    LIMIT %(limit)s
  ) e
  ORDER BY e.id
  LIMIT %(limit)s
)
SELECT r.id, p.id, p.src, p.uri, p.cid, p.val, p.neg, p.cts, p.exp, p.sig, p.signed,
  (extract(epoch FROM p.cts_at) * 1000000)::bigint, (extract(epoch FROM p.exp_at) * 1000000)::bigint
FROM (
  SELECT greatest(
    CASE
      WHEN (SELECT count(*) FROM page) < %(limit)s
        THEN coalesce(%(until)s, (SELECT max(id) FROM pipeline.label_event))
      ELSE (SELECT max(id) FROM page)
    END,
    %(after)s
  ) AS id
) r
LEFT JOIN page p ON p.took_effect AND (%(unsigned)s OR p.sig IS NOT NULL)
ORDER BY p.id;
