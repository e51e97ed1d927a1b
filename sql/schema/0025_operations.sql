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
