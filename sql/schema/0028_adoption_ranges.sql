-- Where the ranges of an adoption's step stand, which several processes work through (docs/serve.md). An adoption makes
-- the table before any other migration has run, from this file.
--
-- Guarantees: a range moves in the transaction of the rows that it stands for, or after it.

CREATE TABLE IF NOT EXISTS pipeline.adoption_range (
    step text NOT NULL,
    part text NOT NULL,
    after text NOT NULL,
    until text,
    position text NOT NULL,
    ended boolean NOT NULL DEFAULT false,
    counts jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (step, part, after)
);
COMMENT ON TABLE pipeline.adoption_range IS
    'The ranges of the step that an adoption (pipeline.adoption) is at: each has its own position, and none knows of the '
    'others. Empty when the adoption has ended.';
COMMENT ON COLUMN pipeline.adoption_range.step IS 'The step.';
COMMENT ON COLUMN pipeline.adoption_range.part IS 'The part of the step: what is gone through, e.g. a table.';
COMMENT ON COLUMN pipeline.adoption_range.after IS 'The range begins after this key.';
COMMENT ON COLUMN pipeline.adoption_range.until IS 'The last key of the range; null: it goes to the end.';
COMMENT ON COLUMN pipeline.adoption_range.position IS 'The last key that was gone through; at first `after`.';
COMMENT ON COLUMN pipeline.adoption_range.ended IS 'Whether all of the range was gone through.';
COMMENT ON COLUMN pipeline.adoption_range.counts IS 'What was done in it so far: {"<what>": n}.';
COMMENT ON COLUMN pipeline.adoption_range.updated_at IS 'When this row last changed.';
