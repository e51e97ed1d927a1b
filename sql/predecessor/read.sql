-- The database of the predecessor (PublicAppView), for `appview-pipeline import-predecessor`: what moves, and how much
-- of everything else there is.
--
-- Guarantees: reads only, in one snapshot. The tables are in schema public, where the predecessor makes them.

-- :tables
-- Its tables that are there, with the rows that each has, as PostgreSQL estimates them (0: unknown or none).
SELECT c.relname, greatest(c.reltuples, 0)::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND c.relname = ANY (%(tables)s)
ORDER BY c.relname;

-- :opt_outs
-- Accounts that forbid the collection of their data.
SELECT user_did FROM public.user_settings WHERE data_collection_forbidden ORDER BY user_did;

-- :definitions
-- What its labels mean: value, description, severity, and strings by language.
SELECT value, description, severity, localized_strings FROM public.label_definitions ORDER BY value;

-- :sources
-- Who made its labels: source; values of subjects whose newest label stands; those whose newest label is a negation.
-- - newest: the newest label of each (source, subject, value), which is what counts there.
WITH newest AS (
  SELECT DISTINCT ON (src, subject, val) src, neg
  FROM public.labels
  ORDER BY src, subject, val, created_at DESC, uri DESC
)
SELECT src, count(*) FILTER (WHERE NOT neg), count(*) FILTER (WHERE neg)
FROM newest
GROUP BY src
ORDER BY src;

-- :labels
-- What the labels of sources that stand say: subject and value, each once.
-- - newest: the newest label of each (source, subject, value).
WITH newest AS (
  SELECT DISTINCT ON (src, subject, val) subject, val, neg
  FROM public.labels
  WHERE src = ANY (%(sources)s)
  ORDER BY src, subject, val, created_at DESC, uri DESC
)
SELECT DISTINCT subject, val FROM newest WHERE NOT neg ORDER BY subject, val;
