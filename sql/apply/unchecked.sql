-- pipeline.unchecked_commit: commits that are applied though their account's key is not known yet.
--
-- Guarantees: one row a repository, its newest such commit, whatever the order of arrival. An account without a row in
-- the queue of resolution gets one. Nothing is kept of an excluded account (excluded.sql). What becomes of a row, and
-- how it is checked: sql/signatures/check.sql.

-- :stage
-- The newest such commit of each repository in the batch.
CREATE TEMPORARY TABLE stage_unchecked (
  did text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  seq bigint,
  block bytea NOT NULL
) ON COMMIT DELETE ROWS;

-- :queue
-- Queues accounts that nobody has asked for yet; most were queued with their first commit (identity.sql).
INSERT INTO pipeline.identity (did, queue, wanted_at, asked_at)
SELECT did, 'new', now(), now()
FROM stage_unchecked s
WHERE NOT EXISTS (SELECT FROM pipeline.identity i WHERE i.did = s.did OFFSET 0)
ORDER BY did
ON CONFLICT (did) DO NOTHING;

-- :keep
-- Keeps the commits. A row that is there keeps its time.
INSERT INTO pipeline.unchecked_commit AS u (did, rev, seq, block)
SELECT did, rev, seq, block
FROM stage_unchecked
ORDER BY did
ON CONFLICT (did) DO UPDATE SET rev = excluded.rev, seq = excluded.seq, block = excluded.block
WHERE u.rev < excluded.rev;
