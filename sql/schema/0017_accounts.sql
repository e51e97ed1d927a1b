-- Accounts: whose word about their hosting status counts, the removal of what an account wrote, and local moderation
-- that outlives records.

ALTER TABLE pipeline.repo
    ADD COLUMN account_seq bigint,
    ADD COLUMN status_doubtful boolean NOT NULL DEFAULT false,
    ADD COLUMN pds_status text,
    ADD COLUMN pds_asked_at timestamptz;
COMMENT ON COLUMN pipeline.repo.account_seq IS
    'Sequence number of that account event: of two of the same time the later one counts.';
COMMENT ON COLUMN pipeline.repo.status_doubtful IS
    'The relay says that the account is inactive, and something else says that it is not: readers see it until '
    'its PDS has confirmed that it is inactive.';
COMMENT ON COLUMN pipeline.repo.pds_status IS
    'What the account''s own PDS last said of it: active, a hosting status, or gone (it has no such repository, or '
    'there is no such PDS any more); tombstoned: the account''s DID was given up; null: no answer yet.';
COMMENT ON COLUMN pipeline.repo.pds_asked_at IS 'When it said so; null: never asked.';

CREATE TABLE pipeline.removal (
    did text PRIMARY KEY,
    reason text NOT NULL CHECK (reason IN ('deleted', 'opt-out')),
    requested_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    records bigint NOT NULL DEFAULT 0,
    error text
);
CREATE INDEX removal_open_idx ON pipeline.removal (requested_at) WHERE finished_at IS NULL;
COMMENT ON TABLE pipeline.removal IS
    'Accounts of which everything is to be removed, or was: the job remove_accounts works them off.';
COMMENT ON COLUMN pipeline.removal.did IS 'DID of the account.';
COMMENT ON COLUMN pipeline.removal.reason IS
    'deleted: its PDS confirmed that the account is gone; opt-out: data collection is forbidden, and a purge was '
    'asked for.';
COMMENT ON COLUMN pipeline.removal.requested_at IS 'When it was asked for.';
COMMENT ON COLUMN pipeline.removal.started_at IS 'When the job first took it; null: not yet.';
COMMENT ON COLUMN pipeline.removal.finished_at IS 'When nothing of the account was left; null: not yet.';
COMMENT ON COLUMN pipeline.removal.records IS 'Records removed so far.';
COMMENT ON COLUMN pipeline.removal.error IS 'The last failure in words; null: none.';

CREATE FUNCTION pipeline.tid_of(moment timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT string_agg(
        substr(
            '234567abcdefghijklmnopqrstuvwxyz',
            1 + ((((extract(epoch FROM greatest(moment, timestamptz 'epoch')) * 1000000)::bigint << 10) >> (60 - 5 * place))
                & 31)::integer,
            1),
        '' ORDER BY place)
    FROM generate_series(0, 12) place
    WHERE moment IS NOT NULL;
END;
COMMENT ON FUNCTION pipeline.tid_of IS 'The first TID of a moment: revs after the moment are larger; null for null.';

CREATE FUNCTION pipeline.doubts_status(
    of_did text, active boolean, status text, at timestamptz, rev text, pds_status text, pds_asked_at timestamptz
) RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT NOT doubts_status.active
        AND coalesce(doubts_status.status, '') NOT IN ('takendown', 'suspended')
        AND (
            doubts_status.rev COLLATE "C" > pipeline.tid_of(doubts_status.at)
            OR (doubts_status.pds_status = 'active' AND doubts_status.pds_asked_at > doubts_status.at)
            OR EXISTS (
                SELECT
                FROM pipeline.identity i
                WHERE i.did = of_did AND i.pds_changed_at > doubts_status.at - interval '1 day'
            )
        ) IS TRUE;
END;
COMMENT ON FUNCTION pipeline.doubts_status IS
    'Whether something contradicts the relay''s word that an account is inactive: a commit after it, the PDS''s own '
    'word after it, or a move to another PDS less than a day before it. Take-downs and suspensions are decisions that '
    'any hop may make: nothing contradicts them.';

CREATE FUNCTION pipeline.is_deleted(active boolean, status text, pds_status text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN NOT active AND (pds_status = 'tombstoned' OR (status = 'deleted' AND pds_status IN ('gone', 'deleted'))) IS TRUE;
COMMENT ON FUNCTION pipeline.is_deleted IS
    'Whether the deletion of an account is confirmed: its DID was given up, or the relay says that it is deleted, and '
    'its PDS that it is not there.';

CREATE FUNCTION pipeline.removal_rev() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'zzzzzzzzzzzzz';
COMMENT ON FUNCTION pipeline.removal_rev IS
    'The rev of deletions that no commit made, but the removal of an account: later than any TID, so that whatever was '
    'evaluated by the record stays evaluated as of its own rev.';

CREATE TABLE pipeline.record_takedown (
    uri text PRIMARY KEY,
    ref text NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pipeline.record_takedown IS
    'Records that were taken down here (record."takedownRef") when they were deleted: a record that is created again '
    'under the same URI is taken down again. To lift that, delete the row.';
COMMENT ON COLUMN pipeline.record_takedown.uri IS 'at:// URI of the record.';
COMMENT ON COLUMN pipeline.record_takedown.ref IS 'Its "takedownRef".';
COMMENT ON COLUMN pipeline.record_takedown.deleted_at IS 'When the record was deleted.';

COMMENT ON COLUMN pipeline.backfill_queue.reason IS
    'Why: discovered, requested, chain, sync, gap, returned (the account was removed here, and is active again).';

-- Whatever is about an account can be found, to be removed with it.
-- (schema/online/0017_accounts.sql has made the indexes.)
DROP INDEX pipeline.dead_letter_did_idx;
ALTER INDEX pipeline.dead_letter_all_did_idx RENAME TO dead_letter_did_idx;
