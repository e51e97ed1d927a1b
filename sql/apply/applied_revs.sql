-- The span of revs of each repository that are known to be applied without a break (repo.sql).
--
-- Guarantees: a commit of the repository whose rev lies in the span has been applied and may be passed over unread.
SELECT did, chain_from, rev
FROM pipeline.repo
WHERE did = ANY (%(dids)s) AND chain_from IS NOT NULL;
