-- Excluded accounts: those that forbid the collection of their data, and those that were deleted.
--
-- Guarantees: a batch commits nothing of an account that is excluded. Whoever excludes an account (0018_privacy.sql)
-- and a batch that brings something of it wait for one another, at the account's row of pipeline.repo, or, where the
-- batch has no commit of the account, at the advisory lock below. So what a batch finds here still holds at its commit.

-- :lock
-- Makes whoever excludes an account wait until the batch has committed. Batches do not wait for each other.
SELECT pg_advisory_xact_lock_shared(hashtext('appview-pipeline: accounts without a repository'));

-- :find
-- Returns those of %(dids)s that are excluded.
SELECT did FROM pipeline.repo WHERE did = ANY (%(dids)s) AND excluded;

-- :forget
-- Removes what the batch has stored of deletions by excluded accounts of records that were never known: there was
-- nothing to delete. (What others had written about such a record has been changed as by any deletion.)
-- - deletion: the deletions of excluded accounts.
-- - unknown: those of records of which nothing was stored, now or before.
-- - past_states: their rows in pipeline.version.
WITH deletion AS MATERIALIZED (
  SELECT s.uri, s.rev
  FROM (SELECT uri, did, rev FROM stage_delete UNION ALL SELECT uri, did, rev FROM stage_superseded) s
  JOIN known_repo k USING (did)
  WHERE k.excluded
), unknown AS MATERIALIZED (
  SELECT DISTINCT d.uri
  FROM deletion d
  WHERE NOT EXISTS (
    SELECT
    FROM pipeline.version v
    WHERE v.uri = d.uri AND v.rev <> ALL (ARRAY(SELECT o.rev FROM deletion o WHERE o.uri = d.uri))
    OFFSET 0
  )
), past_states AS (
  DELETE FROM pipeline.version WHERE uri = ANY (ARRAY(SELECT uri FROM unknown))
)
DELETE FROM pipeline.tombstone WHERE uri = ANY (ARRAY(SELECT uri FROM unknown));

-- :gaps
-- Drops the gaps of excluded accounts: nothing of them is to be fetched.
DELETE FROM stage_gap s
USING known_repo k
WHERE k.did = s.did AND k.excluded;

-- :notifications
-- Drops notifications that excluded accounts would cause (by deleting a verification, say) and that are not stored.
DELETE FROM new_notification w
USING known_repo k
WHERE k.did = w.author AND k.excluded
  AND NOT EXISTS (
    SELECT FROM bsky.notification n
    WHERE n."recordUri" = w.record_uri AND n.did = w.did AND n.reason = w.reason
    OFFSET 0
  );
