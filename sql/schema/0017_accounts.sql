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
    'What the account''s own PDS last said of it: active, a hosting status, or gone (it has no such repository); '
    'null: never asked.';
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
