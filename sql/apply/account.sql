-- #account events: whether an account is active, and if not, why.
--
-- Guarantees: the newest event by its own time wins. An active account has no "upstreamStatus", whatever status came
-- with it. An inactive account has a status that readers know: any other status, or none, counts as `deactivated`,
-- which hides the account until it is active again (`pipeline.upstream_status`). `pipeline.repo` keeps the status as
-- sent, also for an account that is not indexed yet (repo.sql).

-- :apply
-- Stores the newest status of each account, as sent.
INSERT INTO pipeline.repo AS r (did, active, status, account_at)
SELECT did, active, status, at
FROM stage_account
ORDER BY did
ON CONFLICT (did) DO UPDATE SET active = excluded.active, status = excluded.status, account_at = excluded.account_at
WHERE r.account_at IS NULL OR r.account_at < excluded.account_at;

-- :actors
-- Copies the status to accounts that are indexed already. (A new account gets it in repo.sql.)
UPDATE bsky.actor a SET "upstreamStatus" = pipeline.upstream_status(r.active, r.status)
FROM stage_account s
CROSS JOIN LATERAL (SELECT r.active, r.status FROM pipeline.repo r WHERE r.did = s.did OFFSET 0) r
WHERE a.did = s.did
  AND a.did = ANY (ARRAY(SELECT did FROM stage_account))
  AND a."upstreamStatus" IS DISTINCT FROM pipeline.upstream_status(r.active, r.status);
