-- The queue of repositories to fetch, the hosts that have them, and how far these were listed.
--
-- Guarantees: what is to be fetched next is found by an index, however long the queue is.

ALTER TABLE pipeline.backfill_queue
    ADD COLUMN host text NOT NULL DEFAULT '',
    ADD COLUMN bucket smallint NOT NULL GENERATED ALWAYS AS ((hashtext(did) & 63)::smallint) STORED,
    ADD COLUMN parked_at timestamptz,
    ADD COLUMN bytes bigint;
COMMENT ON COLUMN pipeline.backfill_queue.host IS 'Origin of the account''s PDS (https://host); empty: not known yet.';
COMMENT ON COLUMN pipeline.backfill_queue.bucket IS
    'Part of the queue, 0 to 63, by hash of the DID: a partition of the asset repositories.';
COMMENT ON COLUMN pipeline.backfill_queue.parked_at IS
    'When it was given up for now, after too many failures (error has the last); null: it is not.';
COMMENT ON COLUMN pipeline.backfill_queue.bytes IS 'Bytes of its export.';
