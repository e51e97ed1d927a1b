-- A base backup of the embedded database while it is used, and the check of one (store/embedded/backup.py).
--
-- Guarantees: writes no rows. The slot ends with the session, however that ends, so no WAL is kept after it.

-- :settings
-- What a backup needs to know: WAL level, bytes of a WAL file, version of the server, tablespaces of one's own.
SELECT current_setting('wal_level'), pg_size_bytes(current_setting('wal_segment_size')),
  current_setting('server_version'),
  (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global'));

-- :keep_wal
-- Keeps all WAL from now on, until the session ends.
SELECT pg_create_physical_replication_slot('appview_backup_' || pg_backend_pid(), true, true);

-- :start
-- Begins the backup, after a checkpoint.
SELECT pg_backup_start('appview-pipeline backup', true);

-- :stop
-- Ends it. Returns the name of the first WAL file that is not needed any more or is not whole, and the text of the file
-- backup_label, which tells the server where to begin.
SELECT pg_walfile_name(lsn), labelfile FROM pg_backup_stop(false);

-- :cursors
-- Where the streams are: relay, shard, sequence number.
SELECT relay, shard, seq FROM pipeline.cursor ORDER BY relay, shard;

-- :tables
-- The tables of both schemas.
SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('bsky', 'pipeline') ORDER BY schemaname, tablename;

-- :count
-- Reads a table from end to end.
SELECT count(*) FROM {table};
