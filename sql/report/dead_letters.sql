-- Dead letters: what upstream sent and could not be indexed.
--
-- Guarantees: reads only.

-- :list
-- Dead letters, newest first, at most %(limit)s; of a kind (null: of all), with those resolved or without.
SELECT id, source, seq, did, path, kind, reason, form, rev, byte_length, octet_length(bytes), first_seen, retried_at,
  resolved_at
FROM pipeline.dead_letter
WHERE (%(kind)s::text IS NULL OR kind = %(kind)s)
  AND (%(resolved)s OR resolved_at IS NULL)
ORDER BY id DESC
LIMIT %(limit)s;

-- :kinds
-- By kind: how many are open, how many resolved, how many more were only counted, and when the first and the last came.
SELECT kind, sum(open)::bigint, sum(resolved)::bigint, sum(uncounted)::bigint, min(first), max(last)
FROM (
  SELECT kind, count(*) FILTER (WHERE resolved_at IS NULL) AS open, count(resolved_at) AS resolved, 0 AS uncounted,
    min(first_seen) AS first, max(first_seen) AS last
  FROM pipeline.dead_letter
  GROUP BY kind
  UNION ALL
  SELECT kind, 0, 0, sum(count), min(minute), max(minute) FROM pipeline.dead_letter_overflow GROUP BY kind
) counted
GROUP BY kind
ORDER BY kind;
