-- #account events: whether an account is active, and if not, why.
--
-- Guarantees: the newest event by its own time wins, of one time the one with the larger sequence number. An active
-- account has no "upstreamStatus", whatever status came with it. An inactive account has a status that readers know:
-- any other status, or none, counts as `deactivated` (`pipeline.upstream_status`). It is hidden at once on the relay's
-- word, except where something contradicts that (`pipeline.doubts_status`): then it is hidden once its PDS has
-- confirmed it. Of every inactive account the PDS is asked (sql/account/status.sql stores the answer). `pipeline.repo`
-- keeps the status as sent, also for an account that is not indexed yet (repo.sql).

-- :lock
-- Locks the accounts that are known, beside the repositories that the batch has commits of (repo.sql), and like those
-- before it looks who is excluded: whoever opts an account out takes these locks in the same order.
SELECT FROM pipeline.repo WHERE did = ANY (ARRAY(SELECT did FROM stage_account)) ORDER BY did FOR UPDATE;

-- :apply
-- Stores the newest status of each account, as sent, and has it confirmed. An account that is active again is not
-- removed any more, and is fetched again (pipeline.follow_exclusion). A repository whose fetching was given up, perhaps
-- because its account was away, is fetched now.
-- - newest: the accounts whose event was the newest, and what their PDS said before it.
-- - returned: removals that are taken back.
-- - unparked: repositories to be fetched now.
WITH newest AS (
  INSERT INTO pipeline.repo AS r (did, active, status, account_at, account_seq, status_doubtful)
  SELECT did, active, status, at, seq, pipeline.doubts_status(did, active, status, at, NULL, NULL, NULL)
  FROM stage_account
  ORDER BY did
  ON CONFLICT (did) DO UPDATE SET
    active = excluded.active,
    status = excluded.status,
    account_at = excluded.account_at,
    account_seq = excluded.account_seq,
    status_doubtful = pipeline.doubts_status(
      r.did, excluded.active, excluded.status, excluded.account_at, r.rev, r.pds_status, r.pds_asked_at),
    updated_at = now()
  WHERE r.account_at IS NULL
    OR (r.account_at, coalesce(r.account_seq, -1)) < (excluded.account_at, coalesce(excluded.account_seq, -1))
  RETURNING r.did, r.active, r.pds_status
), returned AS (
  DELETE FROM pipeline.removal m
  USING newest n
  WHERE n.active AND m.did = n.did AND m.did = ANY (ARRAY(SELECT did FROM newest WHERE active)) AND m.reason = 'deleted'
), unparked AS (
  UPDATE pipeline.backfill_queue q SET not_before = now(), parked_at = NULL, attempts = 0
  FROM newest n
  WHERE n.active AND q.did = n.did AND q.did = ANY (ARRAY(SELECT did FROM newest WHERE active))
    AND (q.parked_at IS NOT NULL AND q.finished_at IS NULL) IS TRUE  -- by its key, and not by all that are parked
)
INSERT INTO stage_identity (did, status_wanted)
SELECT did, true
FROM newest
WHERE NOT active OR pds_status <> 'active';

-- :missed
-- Notes a gap of repositories whose accounts are active, by an event of this batch, where the stream has had a gap
-- since their newest commit, and since it was last known whether they are complete: a relay's list, which closes gaps
-- of streams (sql/backfill/survey.sql), may leave out accounts that are not active. Events from before the gap was
-- found don't count: the list was made after them.
-- - gap: when the newest gap of a stream was found.
INSERT INTO stage_gap (kind, did)
SELECT 'repository', r.did
FROM (SELECT did, at FROM stage_account WHERE active) s
CROSS JOIN LATERAL (
  SELECT * FROM pipeline.repo r WHERE r.did = s.did OFFSET 0
) r
CROSS JOIN (
  SELECT max(g.detected_at) AS detected_at
  FROM (SELECT DISTINCT relay FROM pipeline.cursor) c
  CROSS JOIN LATERAL (
    SELECT g.detected_at FROM pipeline.gap g WHERE g.relay = c.relay ORDER BY g.detected_at DESC LIMIT 1
  ) g
) gap
WHERE r.active AND NOT r.excluded AND r.account_at = s.at AND s.at > gap.detected_at
  AND greatest(r.rev, r.export_rev) < pipeline.tid_of(gap.detected_at)
  AND (r.sync_at IS NULL OR r.sync_at < gap.detected_at);

-- :contradicted
-- Runs where a repository of the batch belongs to an inactive account. Finds commits that are newer than the event that
-- made their account inactive, and than the last answer of its PDS: the account is shown until its PDS has answered.
WITH contradicted AS (
  UPDATE pipeline.repo r SET status_doubtful = true
  FROM known_repo k
  WHERE r.did = k.did
    AND r.did = ANY (ARRAY(SELECT did FROM known_repo WHERE NOT active))
    AND NOT k.active
    AND NOT r.active
    AND NOT r.status_doubtful
    AND coalesce(r.status, '') NOT IN ('takendown', 'suspended')
    AND r.rev > pipeline.tid_of(greatest(r.account_at, r.pds_asked_at))
  RETURNING r.did
)
INSERT INTO stage_identity (did, status_wanted)
SELECT did, true FROM contradicted;

-- :actors
-- Copies the status to accounts that are indexed already. (A new account gets it in repo.sql.)
-- - known: accounts with an event in the batch, or whose commits contradict their status; what is known of them now.
WITH known AS MATERIALIZED (
  SELECT s.did, pipeline.upstream_status(r.active OR r.status_doubtful, r.status) AS status
  FROM (SELECT did FROM stage_account UNION SELECT did FROM stage_identity WHERE status_wanted) s
  CROSS JOIN LATERAL (
    SELECT r.active, r.status, r.status_doubtful FROM pipeline.repo r WHERE r.did = s.did OFFSET 0
  ) r
)
UPDATE bsky.actor a SET "upstreamStatus" = k.status
FROM known k
WHERE a.did = k.did
  AND a.did = ANY (ARRAY(SELECT did FROM known))
  AND a."upstreamStatus" IS DISTINCT FROM k.status;
