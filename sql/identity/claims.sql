-- Accounts that a process took from their queues and gives back unresolved.
--
-- Guarantees: an account that is in no queue any more, or may be taken already, stays as it is. Rows are locked in the
-- order of their key.

-- :release
-- Gives the accounts %(dids)s back.
WITH given_back AS MATERIALIZED (
  SELECT did
  FROM pipeline.identity
  WHERE did = ANY (%(dids)s) AND queue IS NOT NULL AND wanted_at > now()
  ORDER BY did COLLATE "C"
  FOR UPDATE
)
UPDATE pipeline.identity i
SET wanted_at = least(coalesce(i.asked_at, now()), now())
FROM given_back g
WHERE i.did = g.did;

-- :release_queues
-- Gives at most %(limit)s accounts of the queues %(queues)s back that a process took which is gone.
WITH given_back AS MATERIALIZED (
  SELECT did
  FROM pipeline.identity
  WHERE queue = ANY (%(queues)s) AND wanted_at > now()
  ORDER BY did COLLATE "C"
  LIMIT %(limit)s
  FOR UPDATE
)
UPDATE pipeline.identity i
SET wanted_at = least(coalesce(i.asked_at, now()), now())
FROM given_back g
WHERE i.did = g.did;
