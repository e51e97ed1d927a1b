-- What reruns and retries need: records whose notifications do not follow from what they say now, the position of the
-- rotating recount, and what a dead letter was.

CREATE TABLE pipeline.silenced (
    record_uri text NOT NULL,
    did text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (record_uri, did, reason)
);
COMMENT ON TABLE pipeline.silenced IS
    'Notifications not written because their recipient had muted the thread then; he may have unmuted it since.';
COMMENT ON COLUMN pipeline.silenced.record_uri IS 'As notification."recordUri".';
COMMENT ON COLUMN pipeline.silenced.did IS 'Who was not told.';
COMMENT ON COLUMN pipeline.silenced.reason IS 'As notification.reason.';

CREATE TABLE pipeline.told_otherwise (
    uri text PRIMARY KEY
);
COMMENT ON TABLE pipeline.told_otherwise IS
    'Likes, reposts and follows that were edited, or took a duplicate''s place: whom they told is not to be read off them.';
COMMENT ON COLUMN pipeline.told_otherwise.uri IS 'at:// URI of the record.';

CREATE TABLE pipeline.recount_position (
    name text PRIMARY KEY,
    after_key text NOT NULL,
    rounds bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pipeline.recount_position IS 'How far the rotating recount of the counters has come.';
COMMENT ON COLUMN pipeline.recount_position.name IS 'Table of schema bsky.';
COMMENT ON COLUMN pipeline.recount_position.after_key IS 'Last key compared; empty: a round begins.';
COMMENT ON COLUMN pipeline.recount_position.rounds IS 'Rounds completed: how often every counter has been compared.';
COMMENT ON COLUMN pipeline.recount_position.updated_at IS 'When some were last compared.';

-- The column `form` is in schema/online/0004_repair.sql.
ALTER TABLE pipeline.dead_letter
    ADD COLUMN rev text COLLATE "C",
    ADD COLUMN cid text,
    ADD COLUMN action text,
    ADD COLUMN event_time text;
COMMENT ON COLUMN pipeline.dead_letter.form IS
    'What bytes is: a frame, a record''s DAG-CBOR block, a record''s JSON, or other (not to be retried); null: not known.';
COMMENT ON COLUMN pipeline.dead_letter.rev IS 'Rev of the commit, for a retry of one record of it.';
COMMENT ON COLUMN pipeline.dead_letter.cid IS 'CID of the record, as the commit names it.';
COMMENT ON COLUMN pipeline.dead_letter.action IS 'create or update, as the commit says.';
COMMENT ON COLUMN pipeline.dead_letter.event_time IS 'Time that the event states; the record''s "indexedAt" when a retry succeeds.';
