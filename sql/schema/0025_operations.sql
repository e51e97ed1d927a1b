-- What operators watch: sizes of tables over time, so that somebody can say when the disk is full.
--
-- Guarantees: one row for each table and hour, written by one job; nothing on the write path reads or writes it.

CREATE TABLE pipeline.table_size (
    hour timestamptz NOT NULL,
    table_name text NOT NULL,
    bytes bigint NOT NULL,
    row_estimate bigint NOT NULL,
    PRIMARY KEY (hour, table_name)
);
COMMENT ON TABLE pipeline.table_size IS
    'How large each table was, hour by hour: what the check of growth and the plots of sizes are made of.';
COMMENT ON COLUMN pipeline.table_size.hour IS 'Beginning of the hour in which it was measured.';
COMMENT ON COLUMN pipeline.table_size.table_name IS 'Schema and name of the table, with a dot between.';
COMMENT ON COLUMN pipeline.table_size.bytes IS 'Bytes on the disk: rows, indexes, TOAST.';
COMMENT ON COLUMN pipeline.table_size.row_estimate IS 'Rows, as PostgreSQL estimates them.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Totals, for counters that never go back though the reports that they are made of are swept.

CREATE TABLE pipeline.total (
    name text NOT NULL,
    labels text[] NOT NULL,
    value numeric NOT NULL,
    PRIMARY KEY (name, labels)
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.total IS
    'Sums of the reports of processes (batch, identity_batch, fetch_batch, backfill_batch) up to total_counted: what '
    'metrics count (sql/report/totals.sql).';
COMMENT ON COLUMN pipeline.total.name IS 'What is counted.';
COMMENT ON COLUMN pipeline.total.labels IS 'Of what: a relay and its shard, a collection and an action, a kind, ...';
COMMENT ON COLUMN pipeline.total.value IS 'How many, or how many bytes or seconds, since the database was made.';

CREATE TABLE pipeline.total_counted (
    report text PRIMARY KEY,
    counted_to timestamptz NOT NULL DEFAULT 'epoch'
);
INSERT INTO pipeline.total_counted (report) VALUES ('batch'), ('identity'), ('fetch'), ('backfill');
COMMENT ON TABLE pipeline.total_counted IS 'How far the reports of processes are counted in total.';
COMMENT ON COLUMN pipeline.total_counted.report IS 'Which reports: those of batch, or of another table ending in _batch.';
COMMENT ON COLUMN pipeline.total_counted.counted_to IS
    'Reports from before this time are counted, and may be swept; later ones are not.';
CREATE TABLE pipeline.sweep (
    name text PRIMARY KEY,
    position text,
    began_at timestamptz,
    ended_at timestamptz,
    rows_deleted bigint NOT NULL DEFAULT 0,
    last_rows bigint NOT NULL DEFAULT 0,
    last_run_at timestamptz,
    error text
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.sweep IS 'How far each sweep has come, and what it has deleted (docs/sweeps.md).';
COMMENT ON COLUMN pipeline.sweep.name IS 'Name of the sweep.';
COMMENT ON COLUMN pipeline.sweep.position IS
    'Where it goes on in a table that it reads from beginning to end; null: at the beginning.';
COMMENT ON COLUMN pipeline.sweep.began_at IS 'When it began at the beginning, for the first time since it last ended.';
COMMENT ON COLUMN pipeline.sweep.ended_at IS 'When it last found nothing more to delete; null: never.';
COMMENT ON COLUMN pipeline.sweep.rows_deleted IS 'Rows that it has deleted, all runs together.';
COMMENT ON COLUMN pipeline.sweep.last_rows IS 'Rows that its last run deleted.';
COMMENT ON COLUMN pipeline.sweep.last_run_at IS 'When it last worked.';
COMMENT ON COLUMN pipeline.sweep.error IS
    'Why its last run ended before its time, in words: others held the rows, say; null: it did not.';

COMMENT ON COLUMN pipeline.repo.export_rev IS
    'The floor: the index has all that the repository held as of this rev, and commits up to it that arrive later change '
    'nothing. Set by exports that are applied whole, and raised by the sweep of tombstones; null: there is none.';

CREATE FUNCTION pipeline.tombstone_stays(collection text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT collection = 'app.bsky.feed.post';
END;
COMMENT ON FUNCTION pipeline.tombstone_stays IS
    'Whether tombstones of a collection are kept for ever, because records of others, however late, depend on them: '
    'quotes and reposts of a post are in no feed and no list of quotes if it was deleted after them.';

-- ---------------------------------------------------------------------------------------------------------------------
-- An opt-out takes its locks in the order of batches: the repository, all accounts (sql/apply/excluded.sql), and only
-- then what follow_exclusion changes. Otherwise it and a batch with an #identity event of the account, whose row of
-- pipeline.identity both write, could wait for one another.

CREATE OR REPLACE FUNCTION pipeline.setting_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    account text;
    forbidden boolean;
BEGIN
    FOR account IN SELECT DISTINCT a FROM unnest(ARRAY[OLD.did, NEW.did]) a WHERE a IS NOT NULL ORDER BY a LOOP
        forbidden := EXISTS (SELECT FROM pipeline.actor_setting WHERE did = account AND data_collection_forbidden);
        IF forbidden THEN
            INSERT INTO pipeline.repo (did) VALUES (account) ON CONFLICT DO NOTHING;
            PERFORM FROM pipeline.repo WHERE did = account FOR UPDATE;
            -- Dead letters are stored without the lock of the repository, which may not be known: after this lock,
            -- those of batches that began earlier are there, and later batches find the account excluded.
            PERFORM pg_advisory_xact_lock(hashtext('appview-pipeline: accounts without a repository'));
        END IF;
        PERFORM pipeline.follow_exclusion(account, 'allowed');
        IF forbidden THEN
            UPDATE pipeline.dead_letter SET bytes = NULL WHERE did = account AND bytes IS NOT NULL;
        END IF;
        PERFORM pg_notify('appview_privacy', account);
    END LOOP;
    RETURN NULL;
END
$$;
