-- The reference's tables get what this project's first migration gives them beyond the reference's own columns.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :rename
-- The schema {schema} gets the name bsky.
ALTER SCHEMA {schema} RENAME TO bsky;

-- :bridge
-- A schema of the former name, for programs that still ask for it until they are started again.
CREATE SCHEMA {schema};

-- :bridge_tables
-- The tables that a program may ask for there.
SELECT c.relname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'bsky' AND c.relkind IN ('r', 'm')
ORDER BY c.relname;

-- :bridge_table
-- One of them, by its former name. Rows can be written through it, as through any view of one table.
CREATE VIEW {schema}.{table} AS SELECT * FROM bsky.{table};

-- :bridge_grants
-- What roles may do with the schema and its tables, as statements that let them do the same by the former name.
SELECT CASE
    WHEN g.grantee = 0 THEN format('GRANT %%s ON %%s TO PUBLIC', g.privileges, g.name)
    ELSE format('GRANT %%s ON %%s TO %%s', g.privileges, g.name, g.grantee::regrole)
  END
FROM (
  SELECT 0 AS place, format('SCHEMA %%I', %(schema)s) AS name, a.grantee, 'USAGE' AS privileges
  FROM pg_namespace n
  CROSS JOIN LATERAL aclexplode(n.nspacl) a
  WHERE n.nspname = 'bsky' AND a.grantee <> n.nspowner AND a.privilege_type = 'USAGE'
  UNION ALL
  SELECT 1, format('%%I.%%I', %(schema)s, c.relname), a.grantee,
    string_agg(DISTINCT a.privilege_type, ', ' ORDER BY a.privilege_type)
  FROM pg_class c
  CROSS JOIN LATERAL aclexplode(c.relacl) a
  WHERE c.relnamespace = 'bsky'::regnamespace AND c.relkind IN ('r', 'm') AND a.grantee <> c.relowner
    AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
  GROUP BY c.relname, a.grantee
) g
ORDER BY g.place, g.name, g.grantee;

-- :has_schema
-- Whether there is a schema %(schema)s.
SELECT to_regnamespace(quote_ident(%(schema)s)) IS NOT NULL;

-- :record
-- Which commit a record comes from, and when it was applied: of all that are there, now.
ALTER TABLE bsky.record
    ADD COLUMN IF NOT EXISTS rev varchar COLLATE "C",
    ADD COLUMN IF NOT EXISTS "appliedAt" timestamptz NOT NULL DEFAULT now();

-- :actor_sync
-- Room on each page for updates.
ALTER TABLE bsky.actor_sync SET (fillfactor = 70);

-- :profile_agg
-- Room on each page for updates.
ALTER TABLE bsky.profile_agg SET (fillfactor = 70);

-- :post_agg
-- Room on each page for updates.
ALTER TABLE bsky.post_agg SET (fillfactor = 70);

-- :comments
-- What the columns hold.
COMMENT ON SCHEMA bsky IS
    'What the reference AppView (@atproto/bsky) serves from. Written by appview-pipeline; the private tables by the '
    'AppView.';
COMMENT ON COLUMN bsky.record.rev IS
    'Rev of the commit that this state of the record comes from; null: read from a repository export, rev unknown.';
COMMENT ON COLUMN bsky.record."appliedAt" IS
    'When we applied this state. Time partitions of reruns select by it.';

-- :applied_at_index
-- Finds records by when they were applied.
CREATE INDEX CONCURRENTLY IF NOT EXISTS record_applied_at_idx ON bsky.record
    USING brin ("appliedAt") WITH (autosummarize = ON);

-- :notification_index
-- One notification for each record, recipient and reason.
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS notification_record_did_reason_idx
    ON bsky.notification ("recordUri", did, reason);

-- :notification_index_comment
-- What the index is for.
COMMENT ON INDEX bsky.notification_record_did_reason_idx IS
    'One notification per record, recipient and reason, however often an event is applied.';
