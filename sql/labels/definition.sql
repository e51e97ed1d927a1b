-- What labels mean (pipeline.label_definition), as labelers say it in their records and as the operator has set it.
--
-- Guarantees: what was set here goes before the record, value by value and as a whole. No statement here changes what
-- comes from records (sql/apply/labeler.sql).

-- :list
-- Returns the definitions of %(sources)s and %(vals)s (null: of all), each value of a source once.
SELECT DISTINCT ON (d.src, d.val)
  d.src, d.val, d.severity, d.blurs, d.default_setting, d.adult_only, d.locales, d.is_local, d.updated_at
FROM pipeline.label_definition d
WHERE (%(sources)s::text[] IS NULL OR d.src = ANY (%(sources)s::text[]))
  AND (%(vals)s::text[] IS NULL OR d.val = ANY (%(vals)s::text[]))
ORDER BY d.src, d.val, d.is_local DESC;

-- :set
-- Sets the definition of a value, in the place of one that was set before.
INSERT INTO pipeline.label_definition
  (src, val, is_local, severity, blurs, default_setting, adult_only, locales, updated_at)
VALUES
  (%(src)s, %(val)s, true, %(severity)s, %(blurs)s, %(default_setting)s, %(adult_only)s, %(locales)s::jsonb, now())
ON CONFLICT (src, val, is_local) DO UPDATE SET
  severity = excluded.severity,
  blurs = excluded.blurs,
  default_setting = excluded.default_setting,
  adult_only = excluded.adult_only,
  locales = excluded.locales,
  updated_at = excluded.updated_at;

-- :remove
-- Removes what was set here of a value; what the labeler's record says of it counts again.
DELETE FROM pipeline.label_definition WHERE src = %(src)s AND val = %(val)s AND is_local;
