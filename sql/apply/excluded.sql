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

-- :deletes
-- Drops the staged deletions of excluded accounts whose record is not stored: there is nothing to delete, and their
-- tombstones would be new.
DELETE FROM stage_delete s
USING known_repo k
WHERE k.did = s.did AND k.excluded AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = s.uri OFFSET 0);

-- :superseded
-- Drops what the batch itself supersedes of excluded accounts.
DELETE FROM stage_superseded s
USING known_repo k
WHERE k.did = s.did AND k.excluded;

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
