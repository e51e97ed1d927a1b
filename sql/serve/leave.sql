-- Giving the database back to the reference's own indexer (store/leaving.py, docs/serve.md).
--
-- Guarantees: no row changes. The reference's indexer finds the indexes that its own migrations make, and no rule that
-- it does not keep: it writes a second notification of one record where one is stored. Each statement may be repeated,
-- and others may read and write the tables meanwhile. The last one is the mark: without our index the processes of this
-- project refuse the database, until `appview-pipeline adopt` has taken it over again.

-- :at_work
-- Connections of this project to the database, but for this one: the purpose that each states, and how many.
SELECT application_name, count(*)
FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'appview-pipeline%%' AND pid <> pg_backend_pid()
GROUP BY application_name
ORDER BY application_name;

-- :is_left
-- Whether the database was given back: our unique index is not there, or can't be used. Null: there is no such table.
SELECT CASE WHEN to_regclass('bsky.notification') IS NOT NULL THEN NOT EXISTS (
  SELECT
  FROM pg_index i
  WHERE i.indexrelid = to_regclass('bsky.notification_record_did_reason_idx') AND i.indisvalid
) END;

-- :has_tables
-- Whether all tables of this project are there: an adoption makes them after its first steps.
SELECT to_regclass('pipeline.record_takedown') IS NOT NULL;

-- :unfinished
-- What this project does, and the reference's indexer does not: gaps, removals of accounts, opt-outs, labelers
-- whose streams are read, take-downs of records that are deleted at present.
SELECT
  (SELECT count(*) FROM pipeline.gap WHERE resolved_at IS NULL),
  (SELECT count(*) FROM pipeline.removal WHERE finished_at IS NULL),
  (SELECT count(*) FROM pipeline.actor_setting WHERE data_collection_forbidden),
  (SELECT count(*) FROM pipeline.labeler),
  (SELECT count(*) FROM pipeline.record_takedown);

-- :notification_record_idx
-- For its look-ups of a record's notifications.
CREATE INDEX CONCURRENTLY IF NOT EXISTS notification_record_idx ON bsky.notification ("recordUri");

-- :record_did_idx
-- For its deletion of an account, and its comparison of a repository.
CREATE INDEX CONCURRENTLY IF NOT EXISTS record_did_idx ON bsky.record (did);

-- :post_replyparent_idx
-- For what its planner expects of replies; ours has the same column first, and more.
CREATE INDEX CONCURRENTLY IF NOT EXISTS post_replyparent_idx ON bsky.post ("replyParent") INCLUDE (uri);

-- :drop_unique
-- Drops our rule of one notification for each recipient, record and reason.
DROP INDEX CONCURRENTLY IF EXISTS bsky.notification_record_did_reason_idx;
