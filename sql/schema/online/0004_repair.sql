-- A column for 0004_repair.sql, which the migration runs after this file.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :form
-- What the bytes of a dead letter are.
ALTER TABLE pipeline.dead_letter ADD COLUMN IF NOT EXISTS form text;

-- :form_check
-- Holds for new rows from here on.
ALTER TABLE pipeline.dead_letter
    DROP CONSTRAINT IF EXISTS dead_letter_form_check,
    ADD CONSTRAINT dead_letter_form_check CHECK (form IN ('frame', 'block', 'json', 'other')) NOT VALID;

-- :form_checked
-- Looks at the rows that were there before.
ALTER TABLE pipeline.dead_letter VALIDATE CONSTRAINT dead_letter_form_check;
