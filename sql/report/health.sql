-- How the pipeline is: for checks, alerts and metrics, read every few seconds.
--
-- Guarantees: reads only. No statement costs more where the index is larger: each reads estimates of PostgreSQL, the
-- first rows of an index up to a limit, or tables that are swept.
--
-- PostgreSQL's estimates of rows are the larger of two: its statistics are gone after a crash, a restore or a failover,
-- and what VACUUM and ANALYZE leave in pg_class is old where much was added since.

-- :streams
-- The cursors with what was applied of them in the last hour: relay, shard, whether the cursor belongs to the layout of
-- %(relay)s that moved last, sequence number, seconds since the last batch, lag, events a second by the relay's clock
-- in the last ten minutes and in the hour before (null: too little was applied), and sums of the last hour.
-- - batch: batches of the streams, of the last 70 minutes.
-- - lately: their sums by stream; `recent` and `earlier`: events and the seconds of the relay's time that they cover.
WITH batch AS MATERIALIZED (
  SELECT id, source, shard, events, rejected, skipped, doubtful, bytes, decode_ms, apply_ms, relay_time, applied_at,
    applied_at > now() - interval '10 minutes' AS is_recent,
    applied_at > now() - interval '1 hour' AS is_of_hour
  FROM pipeline.batch
  WHERE applied_at > now() - interval '70 minutes' AND relay_time IS NOT NULL
), lately AS (
  SELECT source, shard,
    (array_agg(greatest(applied_at, relay_time) - relay_time ORDER BY id DESC))[1] AS lag,
    sum(events) FILTER (WHERE is_recent) AS recent,
    extract(epoch FROM max(relay_time) FILTER (WHERE is_recent) - min(relay_time) FILTER (WHERE is_recent))
      AS recent_seconds,
    sum(events) FILTER (WHERE NOT is_recent) AS earlier,
    extract(epoch FROM max(relay_time) FILTER (WHERE NOT is_recent) - min(relay_time) FILTER (WHERE NOT is_recent))
      AS earlier_seconds,
    count(*) FILTER (WHERE is_of_hour) AS batches,
    sum(events) FILTER (WHERE is_of_hour) AS events,
    sum(rejected) FILTER (WHERE is_of_hour) AS rejected,
    sum(skipped) FILTER (WHERE is_of_hour) AS skipped,
    sum(doubtful) FILTER (WHERE is_of_hour) AS doubtful,
    sum(bytes) FILTER (WHERE is_of_hour) AS bytes,
    sum(decode_ms) FILTER (WHERE is_of_hour) AS decode_ms,
    sum(apply_ms) FILTER (WHERE is_of_hour) AS apply_ms
  FROM batch
  GROUP BY source, shard
)
SELECT
  c.relay,
  c.shard,
  c.relay = %(relay)s AND split_part(c.shard, '/', 2) = (
    SELECT split_part(l.shard, '/', 2) FROM pipeline.cursor l WHERE l.relay = c.relay ORDER BY l.updated_at DESC LIMIT 1
  ),
  c.seq,
  extract(epoch FROM greatest(now() - c.updated_at, interval '0'))::float8,
  extract(epoch FROM b.lag)::float8,
  CASE WHEN b.recent_seconds >= %(recent_seconds)s THEN b.recent / b.recent_seconds END::float8,
  CASE WHEN b.earlier_seconds >= %(usual_seconds)s THEN b.earlier / b.earlier_seconds END::float8,
  coalesce(b.batches, 0)::bigint,
  coalesce(b.events, 0)::bigint,
  coalesce(b.rejected, 0)::bigint,
  coalesce(b.skipped, 0)::bigint,
  coalesce(b.doubtful, 0)::bigint,
  coalesce(b.bytes, 0)::bigint,
  coalesce(b.decode_ms / 1000, 0)::float8,
  coalesce(b.apply_ms / 1000, 0)::float8
FROM pipeline.cursor c
LEFT JOIN lately b ON b.source = c.relay AND b.shard = c.shard
ORDER BY c.relay, 3 DESC, split_part(c.shard, '/', 2)::int, split_part(c.shard, '/', 1)::int;

-- :locks
-- The keys of the advisory locks of 64 bits that sessions hold in this database; pg_locks shows them in two halves.
SELECT (classid::bigint << 32) | objid::bigint
FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- :version
-- The version of the schema.
SELECT version_num FROM pipeline.schema_version;

-- :dead_letters
-- Dead letters of the last hour by kind; those that were only counted among them.
SELECT kind, sum(letters)::bigint
FROM (
  SELECT kind, count(*) AS letters
  FROM pipeline.dead_letter
  WHERE first_seen > now() - interval '1 hour'
  GROUP BY kind
  UNION ALL
  SELECT kind, count FROM pipeline.dead_letter_overflow WHERE minute > now() - interval '1 hour'
) counted
GROUP BY kind
ORDER BY kind;

-- :gaps
-- Open gaps by kind, counted up to %(limit)s, and seconds since the oldest was found.
-- - kinds: the kinds that gaps have.
WITH RECURSIVE kinds (kind) AS (
  SELECT min(kind) FROM pipeline.gap WHERE resolved_at IS NULL
  UNION ALL
  SELECT (SELECT min(g.kind) FROM pipeline.gap g WHERE g.resolved_at IS NULL AND g.kind > k.kind)
  FROM kinds k
  WHERE k.kind IS NOT NULL
)
SELECT k.kind, g.count, extract(epoch FROM now() - g.oldest)::float8
FROM kinds k
CROSS JOIN LATERAL (
  SELECT count(*), min(detected_at) AS oldest
  FROM (
    SELECT detected_at
    FROM pipeline.gap
    WHERE resolved_at IS NULL AND kind = k.kind
    ORDER BY detected_at
    LIMIT %(limit)s
  ) counted
) g
WHERE k.kind IS NOT NULL
ORDER BY k.kind;

-- :repositories
-- Repositories (PostgreSQL's estimate); those that are not complete, counted up to %(limit)s; and PostgreSQL's estimate
-- of these, which is that of their index (-1: none yet).
SELECT
  (
    SELECT greatest(pg_stat_get_live_tuples(oid), reltuples::bigint, 0)
    FROM pg_class
    WHERE oid = 'pipeline.repo'::regclass
  ),
  (
    SELECT count(*)
    FROM (
      SELECT
      FROM pipeline.repo
      WHERE sync_state IN ('desynchronized', 'resyncing', 'error')
      LIMIT %(limit)s
    ) counted
  ),
  (SELECT reltuples::bigint FROM pg_class WHERE oid = 'pipeline.repo_incomplete_idx'::regclass);

-- :pending
-- Pending rows (PostgreSQL's estimate), those whose missing record may be fetched now, counted up to %(limit)s, and for
-- how many seconds the first of them.
SELECT
  (
    SELECT greatest(pg_stat_get_live_tuples(oid), reltuples::bigint, 0)
    FROM pg_class
    WHERE oid = 'pipeline.pending'::regclass
  ),
  (SELECT count(*) FROM (SELECT FROM pipeline.pending WHERE not_before <= now() LIMIT %(limit)s) counted),
  (SELECT extract(epoch FROM now() - min(not_before))::float8 FROM pipeline.pending WHERE not_before <= now());

-- :queue
-- For how many seconds the first repository may be fetched: of those that something is missing of or that were asked
-- for, and of the others: those of the largest hosts, and a few of each bucket. Those of parked hosts are left out.
-- - hosts: the hosts of urgent ones.
-- - urgent: when the first one of them could be fetched.
-- - large: the largest hosts. The few of a bucket may all be of one host, which may be parked.
-- - others: some of the others.
WITH RECURSIVE hosts (host) AS (
  SELECT min(host) FROM pipeline.backfill_queue WHERE finished_at IS NULL AND priority >= 2
  UNION ALL
  SELECT (
    SELECT min(q.host)
    FROM pipeline.backfill_queue q
    WHERE q.finished_at IS NULL AND q.priority >= 2 AND q.host > h.host
  )
  FROM hosts h
  WHERE h.host IS NOT NULL
), urgent AS (
  SELECT min(q.not_before) AS since
  FROM hosts h
  CROSS JOIN (VALUES (2), (3)) p (priority)
  CROSS JOIN LATERAL (
    SELECT not_before
    FROM pipeline.backfill_queue
    WHERE finished_at IS NULL AND host = h.host AND priority = p.priority AND priority >= 2 AND not_before <= now()
    ORDER BY not_before
    LIMIT 1
  ) q
  WHERE NOT EXISTS (SELECT FROM pipeline.pds_host d WHERE d.host = h.host AND d.parked_until > now() OFFSET 0)
), large AS MATERIALIZED (
  SELECT host
  FROM pipeline.pds_host
  WHERE parked_until IS NULL OR parked_until <= now()
  ORDER BY accounts DESC NULLS LAST, host
  LIMIT 20
), others AS (
  SELECT min(not_before) AS since
  FROM (
    SELECT q.not_before
    FROM large h
    CROSS JOIN generate_series(0, 63) b (bucket)
    CROSS JOIN (VALUES (0), (1)) p (priority)
    CROSS JOIN LATERAL (
      SELECT not_before
      FROM pipeline.backfill_queue
      WHERE finished_at IS NULL AND bucket = b.bucket AND host = h.host AND priority = p.priority
        AND parked_at IS NULL AND not_before <= now()
      ORDER BY not_before
      LIMIT 1
    ) q
    UNION ALL
    SELECT q.not_before
    FROM generate_series(0, 63) b (bucket)
    CROSS JOIN LATERAL (
      SELECT host, not_before
      FROM pipeline.backfill_queue
      WHERE finished_at IS NULL AND bucket = b.bucket AND priority < 2 AND parked_at IS NULL
      LIMIT 20
    ) q
    WHERE q.not_before <= now()
      AND NOT EXISTS (SELECT FROM pipeline.pds_host d WHERE d.host = q.host AND d.parked_until > now() OFFSET 0)
  ) q
)
SELECT extract(epoch FROM now() - u.since)::float8, extract(epoch FROM now() - o.since)::float8
FROM urgent u
CROSS JOIN others o;

-- :backfill
-- What processes that fetch repositories reported in the last %(seconds)s: repositories, records, bytes, failures, and
-- seconds since a report that had a repository.
SELECT coalesce(sum(repositories), 0)::bigint, coalesce(sum(records), 0)::bigint, coalesce(sum(bytes), 0)::bigint,
  coalesce(sum(failed), 0)::bigint,
  extract(epoch FROM now() - max(ended_at) FILTER (WHERE repositories > 0))::float8
FROM pipeline.backfill_batch
WHERE ended_at > now() - make_interval(secs => %(seconds)s);

-- :hosts
-- Hosts of repositories, the accounts there as the relay says, and the same of those that are left alone now: parked by
-- those who fetch, or with an open breaker or a pause of resolution. The last column names the largest of these, at
-- most %(shown)s, each with the reason.
-- - host: the hosts.
WITH host AS (
  SELECT h.host, coalesce(h.accounts, 0) AS accounts,
    coalesce(h.parked_until > now() OR u.open_until > now() OR u.parked_until > now(), false) AS is_paused,
    coalesce(CASE WHEN h.parked_until > now() THEN h.reason END, u.reason, h.reason, '') AS reason
  FROM pipeline.pds_host h
  LEFT JOIN pipeline.upstream u ON u.host = regexp_replace(h.host, '^https?://', '')
)
SELECT count(*), coalesce(sum(accounts), 0)::bigint, count(*) FILTER (WHERE is_paused),
  coalesce(sum(accounts) FILTER (WHERE is_paused), 0)::bigint,
  (
    SELECT coalesce(json_object_agg(l.host, l.reason), '{}')
    FROM (SELECT host, reason FROM host WHERE is_paused ORDER BY accounts DESC, host LIMIT %(shown)s) l
  )
FROM host;

-- :tables
-- Tables: rows and dead rows as PostgreSQL estimates them, bytes as measured last, seconds since the last VACUUM.
SELECT t.schemaname || '.' || t.relname, greatest(t.n_live_tup, c.reltuples::bigint, 0), greatest(t.n_dead_tup, 0),
  s.bytes,
  extract(epoch FROM now() - greatest(t.last_vacuum, t.last_autovacuum))::float8
FROM pg_stat_user_tables t
JOIN pg_class c ON c.oid = t.relid
LEFT JOIN pipeline.table_size s
  ON s.hour = (SELECT max(hour) FROM pipeline.table_size) AND s.table_name = t.schemaname || '.' || t.relname
WHERE t.schemaname IN ('bsky', 'pipeline')
ORDER BY 1;

-- :sweeps
-- Each sweep that has begun: the seconds since it last found nothing more to delete (never: since it began), and what
-- was in the way of its last run (null: nothing).
-- - names: the sweeps that there are; rows of former ones stay in the table.
SELECT name, extract(epoch FROM now() - coalesce(ended_at, began_at))::float8, error
FROM pipeline.sweep
WHERE name = ANY(%(names)s)
ORDER BY name;

-- :disk
-- Bytes of the database, and where its data is (null: this role may not know).
SELECT pg_database_size(current_database()),
  (SELECT setting FROM pg_settings WHERE name = 'data_directory');

-- :growth
-- Bytes of all tables as measured last, at least a day before, and at the first time in the week before, each with the
-- hour (null: not measured).
-- - hours: these hours.
WITH hours AS (
  SELECT max(hour) AS newest, max(hour) FILTER (WHERE hour <= now() - interval '1 day') AS day,
    min(hour) AS first
  FROM (SELECT DISTINCT hour FROM pipeline.table_size WHERE hour > now() - interval '7 days') measured
)
SELECT s.hour, sum(s.bytes)::bigint
FROM pipeline.table_size s
WHERE s.hour IN (SELECT unnest(ARRAY[newest, day, first]) FROM hours)
GROUP BY s.hour
ORDER BY s.hour;

-- :server
-- PostgreSQL's version, its start, its connections, how many it takes (without those of superusers), and the age in
-- transactions of the oldest row version of this database that is not frozen. Of other roles' sessions only a role with
-- pg_read_all_stats sees the type; without it, background workers of their databases count too.
SELECT current_setting('server_version'), pg_postmaster_start_time(),
  (SELECT count(*) FROM pg_stat_activity WHERE coalesce(backend_type = 'client backend', datid IS NOT NULL)),
  (
    SELECT (max(setting) FILTER (WHERE name = 'max_connections'))::int
      - coalesce(sum(setting::int) FILTER (WHERE name <> 'max_connections'), 0)::int
    FROM pg_settings
    WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')
  ),
  (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database());

-- :transactions
-- The transaction of this database that has been open for longest, besides this one: seconds, and whose it is.
SELECT extract(epoch FROM clock_timestamp() - since)::float8, whose
FROM (
  SELECT xact_start AS since,
    'process ' || pid || ' (' || coalesce(nullif(application_name, ''), usename, backend_type) || ', '
      || coalesce(state, 'state unknown') || ')' AS whose
  FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
    AND backend_type = 'client backend'
  UNION ALL
  SELECT prepared, 'prepared transaction ' || gid || ' (' || owner || ')'
  FROM pg_prepared_xacts
  WHERE database = current_database()
) open
ORDER BY since
LIMIT 1;
