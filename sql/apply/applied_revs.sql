-- The span of revs of each repository that are known to be applied without a break (repo.sql).
--
-- Guarantees: a commit of the repository whose rev lies in the span has been applied and may be skipped unread. A
-- repository with an open gap of something refused has no span here: the refused part may arrive whole this time.
SELECT did, chain_from, rev
FROM pipeline.repo r
WHERE did = ANY (%(dids)s) AND chain_from IS NOT NULL
  AND NOT EXISTS (
    SELECT FROM pipeline.gap g
    WHERE g.did = r.did AND g.resolved_at IS NULL AND g.kind IN ('commit', 'record', 'repository')
    OFFSET 0
  );
