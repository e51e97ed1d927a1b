-- What a migration asks and sets beside its own statements (store/migrations).
--
-- Guarantees: changes nothing but the session's limits, and drops no index that can be used.

-- :invalid_index
-- A row, if an interrupted build has left the index, which nothing reads and every writer pays for.
SELECT
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname = %(index)s AND NOT i.indisvalid;

-- :drop_index
-- Drops such an index.
DROP INDEX CONCURRENTLY IF EXISTS {index};

-- :short_wait
-- How long a statement waits for a lock.
SELECT current_setting('lock_timeout');

-- :unlimited_wait
-- Lets the session wait as long as its statements may take.
SELECT set_config('lock_timeout', '0', false);

-- :wait
-- Limits it again.
SELECT set_config('lock_timeout', %(wait)s, false);

-- :take_turn
-- Takes the lock of the process that migrates, if nobody has it. It does not wait: a statement that waits would hold up
-- the index that the other process builds, which waits for all that was running before.
SELECT pg_try_advisory_lock(%(key)s);
