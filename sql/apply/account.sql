-- #account events: whether an account is active, and if not, why.
--
-- Guarantees: the newest event by its own time wins. An active account has no "upstreamStatus", whatever status came
-- with it. The account's row is there also when none of its commits was seen.

-- :apply
INSERT INTO pipeline.repo AS r (did, active, status, account_at)
SELECT did, active, status, at
FROM stage_account
ORDER BY did
ON CONFLICT (did) DO UPDATE SET active = excluded.active, status = excluded.status, account_at = excluded.account_at
WHERE r.account_at IS NULL OR r.account_at < excluded.account_at;

-- :actors
INSERT INTO bsky.actor AS a (did, "indexedAt", "upstreamStatus")
SELECT s.did, s.indexed_at, CASE WHEN NOT s.active THEN s.status END
FROM stage_account s
JOIN pipeline.repo r USING (did)
WHERE r.account_at = s.at
ORDER BY s.did
ON CONFLICT (did) DO UPDATE SET "upstreamStatus" = excluded."upstreamStatus";
