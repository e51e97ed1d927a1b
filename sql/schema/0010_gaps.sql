-- Gaps are written when they happen: refused commits and records are gaps too, a stream's gaps belong to a shard, and gaps
-- close by themselves. Dead letters have a limit for each kind and day.
--
-- Guarantees: found again, a gap is the same row; of one repository or stream only so many are added a day (gap.sql).

ALTER TABLE pipeline.gap
    ADD COLUMN shard text,
    ADD COLUMN links jsonb;
ALTER TABLE pipeline.gap
    DROP CONSTRAINT gap_kind_check,
    DROP CONSTRAINT gap_once,
    ADD CONSTRAINT gap_kind_check CHECK (kind IN (
        'sequence', 'outdated_cursor', 'chain', 'sync', 'commit', 'record', 'repository', 'missing_parent', 'fetch'
    )),
    ADD CONSTRAINT gap_once UNIQUE NULLS NOT DISTINCT (kind, did, relay, shard, from_text, to_text);
UPDATE pipeline.gap SET shard = '0/1' WHERE relay IS NOT NULL;
DROP INDEX pipeline.gap_did_idx;
CREATE INDEX gap_did_idx ON pipeline.gap (did, detected_at) WHERE did IS NOT NULL;
CREATE INDEX gap_relay_idx ON pipeline.gap (relay, detected_at) WHERE relay IS NOT NULL;
CREATE INDEX gap_resolved_idx ON pipeline.gap (resolved_at) WHERE resolved_at IS NOT NULL;
COMMENT ON COLUMN pipeline.gap.kind IS
    'sequence: numbers left out, or the stream went back; outdated_cursor: older than the relay keeps; chain: a commit does not '
    'follow the one we have; sync: the relay announced a repository reset; commit: a commit (or another event) of the repository '
    'was refused; record: a record of an applied commit is missing; repository: more gaps of it than are listed one by one; '
    'missing_parent, fetch: something could not be fetched.';
COMMENT ON COLUMN pipeline.gap.shard IS 'Shard of the stream that found it, as in cursor; null: not a matter of a stream.';
COMMENT ON COLUMN pipeline.gap.from_text IS
    'Last rev or sequence number (decimal) before the gap; for commit the rev that it follows, for record its path, for '
    'missing_parent the URI; null: unknown.';
COMMENT ON COLUMN pipeline.gap.to_text IS
    'First rev or sequence number (decimal) after it; for commit and record the rev of the commit itself; null: open or unknown.';
COMMENT ON COLUMN pipeline.gap.links IS
    'Of chain and sync: the commits known between both ends and these, {"<rev>": [since, prevData, data]}; once they lead from '
    'to_text to from_text nothing is missing.';

-- dead_letter_did_idx is in schema/online/0010_gaps.sql.

CREATE TABLE pipeline.dead_letter_day (
    kind text NOT NULL,
    day date NOT NULL,
    letters bigint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (kind, day)
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.dead_letter_day IS 'Dead letters stored, by kind and day (UTC): what APPVIEW_DEAD_LETTER_DAY_BYTES limits.';
COMMENT ON COLUMN pipeline.dead_letter_day.kind IS 'Kind of dead letter.';
COMMENT ON COLUMN pipeline.dead_letter_day.day IS 'The day.';
COMMENT ON COLUMN pipeline.dead_letter_day.letters IS 'Letters stored.';
COMMENT ON COLUMN pipeline.dead_letter_day.bytes IS 'What they take: their bytes, and 500 a letter for its row and indexes.';
COMMENT ON TABLE pipeline.dead_letter_overflow IS
    'Dead letters beyond APPVIEW_DEAD_LETTERS_PER_MINUTE or APPVIEW_DEAD_LETTER_DAY_BYTES: only counted, so that a flood can''t '
    'fill the disk.';

ALTER TABLE pipeline.batch
    ADD COLUMN skipped bigint NOT NULL DEFAULT 0,
    ADD COLUMN doubtful integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN pipeline.batch.skipped IS 'Sequence numbers that the relay left out; that may be legal.';
COMMENT ON COLUMN pipeline.batch.doubtful IS
    'Frames whose sequence number does not fit its neighbours: they are indexed, the cursor does not move by them.';
