-- What an adoption looks at before it changes anything.
--
-- Guarantees: reads only. Counts of large tables are estimates, or of a sample of %(sample)s rows.

-- :schemas
-- The schemas that have the reference's tables, by the table of its migrator.
SELECT n.nspname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = 'kysely_migration' AND c.relkind = 'r'
  AND to_regclass(format('%I.actor_sync', n.nspname)) IS NOT NULL
ORDER BY n.nspname;

-- :columns
-- The columns of the tables in the schema %(schema)s: table, name, type and more.
SELECT c.relname, a.attname, concat_ws(' ',
  format_type(a.atttypid, a.atttypmod),
  CASE WHEN a.attcollation NOT IN (0, 100, 950) THEN 'collated otherwise' END,
  CASE WHEN a.attnotnull THEN 'not null' END,
  CASE WHEN a.attgenerated <> '' THEN 'generated' END)
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'm') AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum;

-- :constraints
-- The constraints of the tables in the schema: table, name, definition.
SELECT c.relname, k.conname,
  replace(pg_get_constraintdef(k.oid), quote_ident(n.nspname) || '.', '')
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND k.contype IN ('p', 'u', 'f', 'c', 'x')
ORDER BY c.relname, k.conname;

-- :indexes
-- The indexes in the schema that can be used, beside those of constraints: table, name, definition from its method on.
SELECT t.relname, c.relname,
  CASE WHEN i.indisunique THEN 'unique ' ELSE '' END
    || split_part(replace(pg_get_indexdef(c.oid), quote_ident(n.nspname) || '.', ''), ' USING ', 2)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND i.indisvalid AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid)
ORDER BY t.relname, c.relname;

-- :migrations
-- The migrations of the reference that the database has.
SELECT name FROM {schema}.kysely_migration ORDER BY name;

-- :tables
-- The tables in the schema: name, bytes with indexes, rows as PostgreSQL estimates them.
SELECT c.relname, pg_total_relation_size(c.oid), greatest(c.reltuples, 0)::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind = 'r'
ORDER BY c.relname;

-- :written
-- How often rows were written to the tables of the stream, as far as PostgreSQL's statistics know.
SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint
FROM pg_stat_user_tables
WHERE schemaname = %(schema)s AND relname IN ('record', 'actor_sync', 'duplicate_record', 'like', 'post');

-- :not_owned
-- The tables in the schema that the present role may not change.
SELECT c.relname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'm') AND NOT pg_has_role(c.relowner, 'USAGE')
ORDER BY c.relname;

-- :may_create
-- Whether the present role may make schemas, or that of this project is there.
SELECT has_database_privilege(current_database(), 'CREATE') OR to_regnamespace('pipeline') IS NOT NULL;

-- :may_rename
-- Whether the schema %(schema)s belongs to the present role. (Its rename also needs the privilege to make schemas.)
SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = %(schema)s;

-- :is_ours
-- Whether this project fills the database at present: it has its tables and was not given back.
SELECT to_regclass('pipeline.schema_version') IS NOT NULL AND EXISTS (
  SELECT
  FROM pg_index i
  WHERE i.indexrelid = to_regclass('bsky.notification_record_did_reason_idx') AND i.indisvalid
);

-- :is_known
-- Whether this project has filled it before.
SELECT to_regclass('pipeline.schema_version') IS NOT NULL;

-- :estimate
-- How many rows the table %(table)s has, as PostgreSQL estimates it.
SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = %(table)s::regclass;
