-- Identity: what resolution keeps of each DID, the queue of resolution, what the identity process did, and the state of
-- the servers that it asks.

-- The columns of pipeline.identity, its indexes and the rows of known accounts are in schema/online/0016_identity.sql.

COMMENT ON TABLE pipeline.identity IS
    'DID documents and handles as last resolved: the durable cache of resolution, and its queue.';
COMMENT ON COLUMN pipeline.identity.state IS
    'What the last answer said of the DID: found, not found, tombstoned, invalid (a document that can''t be '
    'used); null: no answer yet.';
COMMENT ON COLUMN pipeline.identity.source IS
    'Where the document is from: plc (the PLC directory), web (did:web), import (a PLC export); null: none.';
COMMENT ON COLUMN pipeline.identity.claimed_handle IS
    'Handle that the document names, in lower case, verified or not; null: none.';
COMMENT ON COLUMN pipeline.identity.handle_source IS 'How the handle was verified: dns or https; null: it is not.';
COMMENT ON COLUMN pipeline.identity.handle_error IS
    'Why the claimed handle is not verified, in words; null: it is, or there is none.';
COMMENT ON COLUMN pipeline.identity.labeler IS 'URL of the account''s label service; null: it has none.';
COMMENT ON COLUMN pipeline.identity.labeler_key IS 'Key that signs its labels (did:key); null: none.';
COMMENT ON COLUMN pipeline.identity.pds_changed_at IS
    'When a resolution last found another PDS than the one before it; null: never.';
COMMENT ON COLUMN pipeline.identity.queue IS
    'Queue that it waits in: new (an account met for the first time), event (an #identity or #account event, or a '
    'person), retry, refresh; null: none.';
COMMENT ON COLUMN pipeline.identity.wanted_at IS
    'When it may be resolved: in the future while an attempt is under way or after a failure; null: not queued.';
COMMENT ON COLUMN pipeline.identity.asked_at IS
    'When its resolution was last asked for: an attempt that began before that does not settle it.';
COMMENT ON COLUMN pipeline.identity.event_at IS
    'Time that the newest #identity event of the account states; null: there was none.';
COMMENT ON COLUMN pipeline.identity.status_wanted IS
    'Whether the account''s PDS is to be asked for its hosting status as well.';
COMMENT ON COLUMN pipeline.identity.resolved_at IS
    'When the document was last fetched; where it is from an import: when the PLC directory accepted the operation that '
    'makes it; null: never.';
COMMENT ON COLUMN pipeline.identity.next_check_at IS
    'When the refresh is due, while it is not queued; null: it is not refreshed.';
COMMENT ON COLUMN pipeline.identity.handle_checked_at IS
    'When the last answer about the claimed handle was had: that it is verified, that it is not, or that the document '
    'names none; null: never.';
COMMENT ON COLUMN pipeline.identity.attempts IS 'Failed attempts since the last answer.';
COMMENT ON COLUMN pipeline.identity.error IS
    'Why there is no document (the last answer), or why the last attempt got no answer, in words; null: neither.';

ALTER TABLE pipeline.identity ALTER COLUMN next_check_at DROP NOT NULL;
DROP INDEX pipeline.identity_next_check_at_idx;

COMMENT ON COLUMN bsky.actor.handle IS
    'Handle, verified in both directions; null: none is, and readers see handle.invalid.';

CREATE TABLE pipeline.identity_batch (
    id bigserial PRIMARY KEY,
    finished_at timestamptz NOT NULL DEFAULT now(),
    seconds double precision NOT NULL,
    resolved integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    verified integer NOT NULL DEFAULT 0,
    not_verified integer NOT NULL DEFAULT 0,
    statuses integer NOT NULL DEFAULT 0,
    lookups integer NOT NULL DEFAULT 0,
    hits integer NOT NULL DEFAULT 0,
    queued integer NOT NULL DEFAULT 0,
    oldest_seconds double precision
);
CREATE INDEX identity_batch_finished_at_idx ON pipeline.identity_batch
    USING brin (finished_at) WITH (autosummarize = ON);
COMMENT ON TABLE pipeline.identity_batch IS
    'What the identity process did, a row every few seconds: read by the sensor.';
COMMENT ON COLUMN pipeline.identity_batch.id IS 'Order.';
COMMENT ON COLUMN pipeline.identity_batch.finished_at IS 'When the row was written.';
COMMENT ON COLUMN pipeline.identity_batch.seconds IS 'Seconds that it covers.';
COMMENT ON COLUMN pipeline.identity_batch.resolved IS
    'Resolutions that ended in an answer (found, not found, tombstoned, invalid).';
COMMENT ON COLUMN pipeline.identity_batch.failed IS 'Attempts that got no answer and will be tried again.';
COMMENT ON COLUMN pipeline.identity_batch.verified IS 'Handles verified in both directions.';
COMMENT ON COLUMN pipeline.identity_batch.not_verified IS 'Handles that a document names and that are not verified.';
COMMENT ON COLUMN pipeline.identity_batch.statuses IS 'Hosting statuses that a PDS was asked for.';
COMMENT ON COLUMN pipeline.identity_batch.lookups IS 'Accounts that the stream had events of, in its batches since the report before.';
COMMENT ON COLUMN pipeline.identity_batch.hits IS
    'Those of them that were known, so that nothing was queued.';
COMMENT ON COLUMN pipeline.identity_batch.queued IS
    'Accounts that waited to be resolved at the end, refreshes left out.';
COMMENT ON COLUMN pipeline.identity_batch.oldest_seconds IS
    'How long the first new account or event among them had waited; null: none waited.';

ALTER TABLE pipeline.batch
    ADD COLUMN accounts integer NOT NULL DEFAULT 0,
    ADD COLUMN unresolved integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN pipeline.batch.accounts IS 'Accounts that the batch has commits, #sync or #identity events of.';
COMMENT ON COLUMN pipeline.batch.unresolved IS
    'Accounts that the batch queued to be resolved: met for the first time, or events ask for it.';

CREATE TABLE pipeline.upstream (
    host text PRIMARY KEY,
    breaker text NOT NULL CHECK (breaker IN ('closed', 'open', 'probing')),
    failures integer NOT NULL DEFAULT 0,
    opened integer NOT NULL DEFAULT 0,
    open_until timestamptz,
    parked_until timestamptz,
    reason text,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.upstream IS
    'Servers that resolution asks and that failed or asked for a pause lately: their circuit breakers, as the '
    'identity process last saw them.';
COMMENT ON COLUMN pipeline.upstream.host IS 'Host name, with the port where it is not the usual one.';
COMMENT ON COLUMN pipeline.upstream.breaker IS
    'closed: it is asked; open: it is not; probing: one request finds out whether it is back.';
COMMENT ON COLUMN pipeline.upstream.failures IS 'Failures in a row.';
COMMENT ON COLUMN pipeline.upstream.opened IS 'How often its breaker has opened since the process started.';
COMMENT ON COLUMN pipeline.upstream.open_until IS
    'When an open breaker lets one request through; null: it is not open.';
COMMENT ON COLUMN pipeline.upstream.parked_until IS
    'Until when the server asked to be left alone (429, 503, Retry-After, RateLimit); null: it did not.';
COMMENT ON COLUMN pipeline.upstream.reason IS 'The last failure in words; null: none.';
COMMENT ON COLUMN pipeline.upstream.updated_at IS 'When this row last changed.';
