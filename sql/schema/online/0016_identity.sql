-- Columns, indexes and rows of pipeline.identity for 0016_identity.sql, which the migration runs after this file.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :columns
-- What resolution keeps of each DID, and the queue of resolution.
ALTER TABLE pipeline.identity
    ADD COLUMN IF NOT EXISTS state text,
    ADD COLUMN IF NOT EXISTS source text,
    ADD COLUMN IF NOT EXISTS claimed_handle text,
    ADD COLUMN IF NOT EXISTS handle_source text,
    ADD COLUMN IF NOT EXISTS handle_error text,
    ADD COLUMN IF NOT EXISTS labeler text,
    ADD COLUMN IF NOT EXISTS labeler_key text,
    ADD COLUMN IF NOT EXISTS pds_changed_at timestamptz,
    ADD COLUMN IF NOT EXISTS queue text,
    ADD COLUMN IF NOT EXISTS wanted_at timestamptz,
    ADD COLUMN IF NOT EXISTS asked_at timestamptz,
    ADD COLUMN IF NOT EXISTS event_at timestamptz,
    ADD COLUMN IF NOT EXISTS status_wanted boolean NOT NULL DEFAULT false;

-- :checks
-- Hold for new rows from here on.
ALTER TABLE pipeline.identity
    DROP CONSTRAINT IF EXISTS identity_state_check,
    DROP CONSTRAINT IF EXISTS identity_source_check,
    DROP CONSTRAINT IF EXISTS identity_handle_source_check,
    DROP CONSTRAINT IF EXISTS identity_queue_check,
    DROP CONSTRAINT IF EXISTS identity_queued,
    ADD CONSTRAINT identity_state_check CHECK (state IN ('found', 'not found', 'tombstoned', 'invalid')) NOT VALID,
    ADD CONSTRAINT identity_source_check CHECK (source IN ('plc', 'web', 'import')) NOT VALID,
    ADD CONSTRAINT identity_handle_source_check CHECK (handle_source IN ('dns', 'https')) NOT VALID,
    ADD CONSTRAINT identity_queue_check CHECK (queue IN ('new', 'event', 'retry', 'refresh')) NOT VALID,
    ADD CONSTRAINT identity_queued CHECK ((queue IS NULL) = (wanted_at IS NULL)) NOT VALID;

-- :checked
-- Looks at the rows that were there before.
ALTER TABLE pipeline.identity
    VALIDATE CONSTRAINT identity_state_check,
    VALIDATE CONSTRAINT identity_source_check,
    VALIDATE CONSTRAINT identity_handle_source_check,
    VALIDATE CONSTRAINT identity_queue_check,
    VALIDATE CONSTRAINT identity_queued;

-- :queue
-- Who is next in a queue.
CREATE INDEX CONCURRENTLY IF NOT EXISTS identity_queue_idx ON pipeline.identity (queue, wanted_at)
    WHERE queue IS NOT NULL;

-- :refresh
-- Who is to be resolved again.
CREATE INDEX CONCURRENTLY IF NOT EXISTS identity_refresh_idx ON pipeline.identity (next_check_at) WHERE queue IS NULL;

-- :handle
-- Who claims a handle.
CREATE INDEX CONCURRENTLY IF NOT EXISTS identity_handle_idx ON pipeline.identity (claimed_handle)
    WHERE claimed_handle IS NOT NULL;

-- :accounts
-- Accounts that were indexed before there was resolution: the job refresh_dids resolves them.
INSERT INTO pipeline.identity (did, queue, wanted_at)
SELECT did, 'refresh', now() FROM bsky.actor
ON CONFLICT (did) DO NOTHING;
