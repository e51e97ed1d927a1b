-- The temporary tables of a rerun (store/repair.py), besides those of the write path.
--
-- `rerun` and the two `subject_*` tables live as long as the rerun; the others belong to one chunk of it, which is one
-- transaction.
--
-- Guarantees: no chunk sees a row of another one in them.

-- What the rerun looks at, numbered repository by repository: records, and rows of derived tables that have no record.
CREATE TEMPORARY TABLE IF NOT EXISTS rerun (
  n bigint PRIMARY KEY,
  uri text NOT NULL,
  did text NOT NULL
);

-- Rows without a record that were found.
CREATE TEMPORARY TABLE IF NOT EXISTS orphan (
  uri text NOT NULL,
  did text NOT NULL
) ON COMMIT DELETE ROWS;

-- Posts and accounts whose counters are recounted in the end: many records have the same subject.
CREATE TEMPORARY TABLE IF NOT EXISTS subject_post (key text PRIMARY KEY);
CREATE TEMPORARY TABLE IF NOT EXISTS subject_profile (key text PRIMARY KEY);

-- Staged records of which a derived table holds nothing, or something else.
CREATE TEMPORARY TABLE IF NOT EXISTS differing (
  uri text NOT NULL,
  table_name text NOT NULL
) ON COMMIT DELETE ROWS;

-- What was changed: rows by the URI or DID that they are found by.
CREATE TEMPORARY TABLE IF NOT EXISTS changed (
  table_name text NOT NULL,
  key text NOT NULL
) ON COMMIT DELETE ROWS;

-- Records whose notifications are compared with what they should be.
CREATE TEMPORARY TABLE IF NOT EXISTS examined (
  uri text NOT NULL,
  is_post boolean NOT NULL
) ON COMMIT DELETE ROWS;

-- Keys of one counter table that are being recounted.
CREATE TEMPORARY TABLE IF NOT EXISTS recount (
  key text PRIMARY KEY
) ON COMMIT DELETE ROWS;
