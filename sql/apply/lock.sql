-- The cross-repository lock: one batch at a time reads or writes rows of other repositories.
--
-- Guarantees: evaluations, counters, notifications and the feed items of deleted posts depend on rows that several
-- repositories bring. Every batch with records writes the rows of its own repositories first, then takes this lock and
-- holds it until its commit. So of two writers the second one sees what the first has written, and neither misses the
-- other.

-- :cross_repository
-- Waits for the lock; the commit releases it. (Earlier releases take it by the same key: writers of two releases may
-- run at once.)
SELECT pg_advisory_xact_lock(hashtext('appview-pipeline: judging'));
