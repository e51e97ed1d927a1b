-- What the fetch process did, a row every few seconds.
--
-- Guarantees: only plots and checks need these rows.

CREATE TABLE pipeline.fetch_batch (
    id bigserial PRIMARY KEY,
    finished_at timestamptz NOT NULL DEFAULT now(),
    seconds double precision NOT NULL,
    asked integer NOT NULL DEFAULT 0,
    found integer NOT NULL DEFAULT 0,
    absent integer NOT NULL DEFAULT 0,
    refused integer NOT NULL DEFAULT 0,
    invalid integer NOT NULL DEFAULT 0,
    unreachable integer NOT NULL DEFAULT 0,
    queued_repositories integer NOT NULL DEFAULT 0,
    asked_by_collection jsonb NOT NULL DEFAULT '{}',
    waiting integer NOT NULL DEFAULT 0,
    oldest_seconds double precision,
    given_up integer NOT NULL DEFAULT 0,
    signatures_checked integer NOT NULL DEFAULT 0,
    signatures_bad integer NOT NULL DEFAULT 0
);
CREATE INDEX fetch_batch_finished_at_idx ON pipeline.fetch_batch USING brin (finished_at) WITH (autosummarize = ON);
COMMENT ON TABLE pipeline.fetch_batch IS 'What the fetch process did, a row every few seconds: read by the sensor.';
COMMENT ON COLUMN pipeline.fetch_batch.id IS 'Order.';
COMMENT ON COLUMN pipeline.fetch_batch.finished_at IS 'When the row was written.';
COMMENT ON COLUMN pipeline.fetch_batch.seconds IS 'Seconds that it covers.';
COMMENT ON COLUMN pipeline.fetch_batch.asked IS
    'Records that were asked for: the sum of found, absent, refused, invalid and unreachable.';
COMMENT ON COLUMN pipeline.fetch_batch.found IS 'Records that were fetched and proved, and went to the write path.';
COMMENT ON COLUMN pipeline.fetch_batch.absent IS
    'Records that are not there, as the repository proves or its PDS says, or whose repository is gone.';
COMMENT ON COLUMN pipeline.fetch_batch.refused IS 'Records that were fetched and proved, and must not be indexed.';
COMMENT ON COLUMN pipeline.fetch_batch.invalid IS 'Answers without a valid proof.';
COMMENT ON COLUMN pipeline.fetch_batch.unreachable IS 'Attempts without an answer of the host.';
COMMENT ON COLUMN pipeline.fetch_batch.queued_repositories IS
    'Repositories of which so many records were missing that they are fetched whole.';
COMMENT ON COLUMN pipeline.fetch_batch.asked_by_collection IS 'The records asked for, by collection.';
COMMENT ON COLUMN pipeline.fetch_batch.waiting IS 'Missing records that waited to be fetched at the end.';
COMMENT ON COLUMN pipeline.fetch_batch.oldest_seconds IS 'How long the first of them had waited; null: none waited.';
COMMENT ON COLUMN pipeline.fetch_batch.given_up IS
    'Missing records, at the end, that are no longer fetched; what depends on them is evaluated should they arrive.';
COMMENT ON COLUMN pipeline.fetch_batch.signatures_checked IS
    'Signatures checked of commits that were applied before the account''s key was known.';
COMMENT ON COLUMN pipeline.fetch_batch.signatures_bad IS 'Those that the key does not fit.';
