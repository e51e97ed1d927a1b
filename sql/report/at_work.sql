-- What a backend is doing: its statement, for how many seconds it has run, and the sessions that hold the locks it
-- waits for.
--
-- Guarantees: reads only. No row when the backend is idle or gone.
SELECT
  a.query,
  extract(epoch FROM clock_timestamp() - a.query_start)::float8,
  ARRAY(
    SELECT 'process ' || b.pid || ' (' || coalesce(nullif(b.application_name, ''), b.backend_type) || ', '
      || coalesce(b.state, 'state unknown') || ')'
    FROM pg_stat_activity b
    WHERE b.pid = ANY (pg_blocking_pids(a.pid))
    ORDER BY b.pid
  )
FROM pg_stat_activity a
WHERE a.pid = %(backend)s AND a.state <> 'idle';
