-- Accounts whose identity is to be resolved: those that commit for the first time, and those whose events ask for it.
-- Resolution happens outside of the stream (sql/identity/): the write path only leaves a row in its queue.
--
-- Guarantees: an account that is queued stays queued, and one that events ask for goes before one that is new. So the
-- queue is the same however events are grouped or ordered. Events of an account that fails again and again only make it
-- a retry: servers that hang can't hold up everybody else by sending events. An #identity event that is delivered again
-- asks for nothing, and a new account that has been resolved already, because its #identity event came first, is not
-- resolved again. An excluded account (excluded.sql) is queued only where its hosting status is wanted, and something
-- of it is stored (it may have been deleted) or it was removed because it was deleted (it may be there again).

-- :queue
-- Queues accounts. Those whose last attempts, more than %(tries)s, all failed are retries.
-- - wanted: what the batch asks for, one row an account.
WITH wanted AS (
  SELECT did, true AS asked, at, status_wanted
  FROM stage_identity s
  WHERE NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = s.did AND r.excluded OFFSET 0)
    OR (s.status_wanted AND EXISTS (SELECT FROM bsky.actor a WHERE a.did = s.did OFFSET 0))
    OR (
      s.status_wanted
      AND EXISTS (SELECT FROM pipeline.removal m WHERE m.did = s.did AND m.reason = 'deleted' OFFSET 0)
      AND NOT EXISTS (
        SELECT FROM pipeline.actor_setting p WHERE p.did = s.did AND p.data_collection_forbidden OFFSET 0
      )
    )
  UNION ALL
  SELECT did, false, NULL, false
  FROM (SELECT did FROM stage_repo UNION ALL SELECT did FROM stage_export) s
  WHERE NOT EXISTS (SELECT FROM known_repo k WHERE k.did = s.did AND (k.rev IS NOT NULL OR k.excluded))
)
INSERT INTO pipeline.identity AS i (did, queue, wanted_at, asked_at, event_at, status_wanted)
SELECT did, CASE WHEN bool_or(asked) THEN 'event' ELSE 'new' END, now(), now(), max(at), bool_or(status_wanted)
FROM wanted
GROUP BY did
ORDER BY did
ON CONFLICT (did) DO UPDATE SET
  queue = CASE WHEN i.attempts > %(tries)s THEN 'retry' ELSE excluded.queue END,
  -- Whoever is asked for again and again keeps its place in the queue.
  wanted_at = least(CASE WHEN i.queue <> 'refresh' THEN i.wanted_at END, excluded.wanted_at),
  asked_at = excluded.asked_at,
  event_at = greatest(i.event_at, excluded.event_at),
  status_wanted = i.status_wanted OR excluded.status_wanted
WHERE CASE excluded.queue
  WHEN 'event' THEN excluded.status_wanted OR i.event_at IS DISTINCT FROM excluded.event_at
  -- New here, but known from a PLC export, say: the handle has not been checked.
  ELSE coalesce(i.queue, 'refresh') = 'refresh' AND (i.state = 'found' AND i.source <> 'import') IS NOT TRUE
END;
