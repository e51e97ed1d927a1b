-- What an account's own PDS says of it, beside what the relay says.
--
-- Guarantees: the relay's `active` decides, and so does a take-down or suspension, which any hop may decide. Where the
-- relay says that an account is deactivated or deleted, or something that we don't know, the PDS has the last word:
-- `active` shows the account, anything else hides it, and no answer after several tries hides it as well. A deletion
-- that the PDS confirms, and a DID that was given up, ask for the removal of everything by the account; an account that
-- is there after all is not removed any more, and fetched again. The steps lock rows in order of DID.

-- :lock
-- Locks the repositories of %(dids)s, as every writer does first.
SELECT did FROM pipeline.repo WHERE did = ANY (%(dids)s) ORDER BY did FOR UPDATE;

-- :save
-- Stores the answers, hides or shows the accounts, and asks for removals. %(statuses)s: null where there is no answer;
-- %(finals)s: asking again will not change that. %(tries)s: failures after which no answer is the answer.
-- - answer: what was said of each account.
-- - saved: the accounts, as they are now.
-- - shown: their rows in bsky.actor, where readers see another status now.
-- - returned: removals that are taken back.
WITH answer AS MATERIALIZED (
  SELECT a.did, a.status, a.status = 'tombstoned' AS is_tombstoned,
    a.is_final OR (SELECT i.attempts FROM pipeline.identity i WHERE i.did = a.did) >= %(tries)s AS is_final
  FROM unnest(%(dids)s::text[], %(statuses)s::text[], %(finals)s::boolean[]) a (did, status, is_final)
), saved AS (
  UPDATE pipeline.repo r SET
    pds_status = coalesce(a.status, r.pds_status),
    pds_asked_at = CASE WHEN a.status IS NOT NULL THEN now() ELSE r.pds_asked_at END,
    active = r.active AND a.is_tombstoned IS NOT TRUE,
    status = CASE WHEN r.active AND a.is_tombstoned THEN 'deleted' ELSE r.status END,
    status_doubtful = CASE
      WHEN r.active OR r.status IN ('takendown', 'suspended') THEN false
      WHEN a.status = 'active' THEN true
      WHEN a.status IS NOT NULL OR a.is_final THEN false
      ELSE r.status_doubtful
    END
  FROM answer a
  WHERE r.did = a.did AND r.did = ANY (%(dids)s)
  RETURNING r.did, r.active, r.status, r.status_doubtful, a.status AS answered
), returned AS (
  DELETE FROM pipeline.removal m
  USING saved s
  WHERE m.did = s.did AND m.did = ANY (%(dids)s) AND m.reason = 'deleted'
    AND s.answered = 'active' AND (s.active OR s.status_doubtful)
), shown AS (
  UPDATE bsky.actor a SET "upstreamStatus" = pipeline.upstream_status(s.active OR s.status_doubtful, s.status)
  FROM saved s
  WHERE a.did = s.did
    AND a.did = ANY (%(dids)s)
    AND a."upstreamStatus" IS DISTINCT FROM pipeline.upstream_status(s.active OR s.status_doubtful, s.status)
)
INSERT INTO pipeline.removal (did, reason)
SELECT did, 'deleted'
FROM saved
WHERE pipeline.is_deleted(active, status, answered)
ORDER BY did
ON CONFLICT (did) DO NOTHING;
