-- How far the adoption of a database of the reference has come (docs/serve.md). An adoption makes the table before any
-- other migration has run, from this file.
--
-- Guarantees: at most one row; it moves in the transaction of the rows that it stands for.

CREATE SCHEMA IF NOT EXISTS pipeline;

CREATE TABLE IF NOT EXISTS pipeline.adoption (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    began_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    from_schema text NOT NULL,
    from_cursor bigint,
    compares boolean NOT NULL DEFAULT false,
    from_keys boolean NOT NULL DEFAULT false,
    step text NOT NULL,
    position text,
    counts jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pipeline.adoption IS
    'The adoption of a database that the reference''s indexer has filled (appview-pipeline adopt): one row, or none where '
    'this project made the database.';
COMMENT ON COLUMN pipeline.adoption.id IS 'Always true: there is one row at most.';
COMMENT ON COLUMN pipeline.adoption.began_at IS 'When it began.';
COMMENT ON COLUMN pipeline.adoption.finished_at IS 'When it ended; null: it has not, and nothing else may write.';
COMMENT ON COLUMN pipeline.adoption.from_schema IS 'Name of the schema in which the reference''s tables were.';
COMMENT ON COLUMN pipeline.adoption.from_cursor IS
    'Option --cursor: what the reference''s indexer had reached in the stream; null: nobody knows.';
COMMENT ON COLUMN pipeline.adoption.compares IS 'Option --compare: all repositories are queued to be compared.';
COMMENT ON COLUMN pipeline.adoption.from_keys IS 'Option --from-keys: the keys of records say when they were made.';
COMMENT ON COLUMN pipeline.adoption.step IS 'The step under way.';
COMMENT ON COLUMN pipeline.adoption.position IS 'Where that step goes on; null: at its beginning.';
COMMENT ON COLUMN pipeline.adoption.counts IS 'What was done so far: {"<what>": n}.';
COMMENT ON COLUMN pipeline.adoption.updated_at IS 'When this row last changed.';
