-- Totals of what the pipeline has done since its database was made, for counters that never go back: what
-- `pipeline.total` holds, and the reports (rows of pipeline.batch and its like) that were not added to it yet.
-- `count` adds them. What a total is, and its labels, is in docs/metrics.md.
--
-- Guarantees: each report is in the sum once: reports from before `pipeline.total_counted.counted_to` are in the table,
-- later ones are added up as they are read, in one snapshot. So sweeping counted reports changes no sum. Only `count`
-- writes.

-- :lock
-- Locks the place of the reports of the kind %(report)s: from when on they are not counted.
SELECT counted_to FROM pipeline.total_counted WHERE report = %(report)s FOR UPDATE;

-- :end
-- Up to when reports can be counted: a transaction that began before may still add one from after its beginning.
-- Sessions of other roles may not be seen: the last %(margin)s seconds are left for them.
SELECT least(
  now() - %(margin)s * interval '1 second',
  (
    SELECT min(xact_start)
    FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
  )
);

-- :end_of_batch
-- The same as `end`, of pipeline.batch, where there are too many reports for one transaction: the time of the one after
-- the first %(limit)s. The next three are for the other kinds.
SELECT applied_at FROM pipeline.batch WHERE applied_at >= %(since)s ORDER BY applied_at OFFSET %(limit)s LIMIT 1;

-- :end_of_identity
-- Of the identity process.
SELECT finished_at
FROM pipeline.identity_batch
WHERE finished_at >= %(since)s
ORDER BY finished_at
OFFSET %(limit)s
LIMIT 1;

-- :end_of_fetch
-- Of the fetch process.
SELECT finished_at
FROM pipeline.fetch_batch
WHERE finished_at >= %(since)s
ORDER BY finished_at
OFFSET %(limit)s
LIMIT 1;

-- :end_of_backfill
-- Of the processes that fetch repositories.
SELECT ended_at FROM pipeline.backfill_batch WHERE ended_at >= %(since)s ORDER BY ended_at OFFSET %(limit)s LIMIT 1;

-- :count
-- Adds the sums of the {uncounted} reports, from before %(until)s, to the totals.
INSERT INTO pipeline.total AS t (name, labels, value)
SELECT name, labels, value FROM ({uncounted}) uncounted ORDER BY name, labels
ON CONFLICT (name, labels) DO UPDATE SET value = t.value + excluded.value;

-- :move
-- Notes up to when reports of the kind %(report)s are counted.
UPDATE pipeline.total_counted SET counted_to = %(until)s WHERE report = %(report)s;

-- :read
-- All totals: name, labels, value. {uncounted} are the sums of reports that are not in the table yet.
SELECT name, labels, sum(value)
FROM (SELECT name, labels, value FROM pipeline.total UNION ALL {uncounted}) known
GROUP BY name, labels
ORDER BY name, labels;

-- :behind
-- Seconds since the oldest report of a batch that is not counted; 0 where there is none.
SELECT coalesce(extract(epoch FROM now() - min(applied_at)), 0)::float8
FROM pipeline.batch
WHERE applied_at >= (SELECT counted_to FROM pipeline.total_counted WHERE report = 'batch');

-- :batch
-- Sums of reports of micro-batches that are not counted, from before %(until)s: a part of other statements. Histograms
-- have a sum for each of %(edges)s (seconds), of the batches that took no longer.
-- - batch: the reports; `origin` is `stream` or what else applied it (a word, without the name of a file or relay).
-- - stream: batches of each shard of each stream, added up.
-- - timed: times of these batches, in seconds.
-- - operation: operations by origin, collection and action, and the first batch that has the collection.
-- - known: collections that have totals already.
-- - named: collections that totals name. Anybody can invent collections (with APPVIEW_EXTRA_COLLECTIONS=*): beyond
--   %(collections)s they are counted together. The first ones come first, so that none loses its place.
WITH batch AS MATERIALIZED (
  SELECT *, starts_with(source, 'ws') AS is_stream,
    CASE WHEN starts_with(source, 'ws') THEN 'stream' ELSE split_part(source, ':', 1) END AS origin
  FROM pipeline.batch
  WHERE applied_at >= (SELECT counted_to FROM pipeline.total_counted WHERE report = 'batch')
    AND applied_at < %(until)s
), stream AS (
  SELECT ARRAY[source, shard] AS labels, count(*) AS batches, sum(frames) AS frames, sum(events) AS events,
    sum(stale) AS stale, sum(skipped) AS skipped, sum(doubtful) AS doubtful, sum(withheld) AS withheld,
    sum(bytes) AS bytes, sum(accounts) AS accounts, sum(unresolved) AS unresolved
  FROM batch
  WHERE is_stream
  GROUP BY source, shard
), timed AS (
  SELECT t.name, b.source, b.shard, t.ms / 1000 AS seconds
  FROM batch b
  CROSS JOIN LATERAL (
    VALUES ('stream_apply', b.apply_ms::numeric), ('stream_decode', b.decode_ms::numeric)
  ) t (name, ms)
  WHERE b.is_stream AND t.ms IS NOT NULL
), operation AS (
  SELECT b.origin, c.key AS collection, a.key AS action, sum(a.value::bigint) AS number, min(b.id) AS first_id
  FROM batch b
  CROSS JOIN LATERAL jsonb_each(b.ops) c
  CROSS JOIN LATERAL jsonb_each_text(c.value) a
  GROUP BY b.origin, c.key, a.key
), known AS MATERIALIZED (
  SELECT DISTINCT labels[2] AS collection FROM pipeline.total WHERE name = 'operations'
), named AS (
  SELECT collection FROM known
  UNION ALL
  (
    SELECT o.collection
    FROM operation o
    WHERE NOT EXISTS (SELECT FROM known k WHERE k.collection = o.collection)
    GROUP BY o.collection
    ORDER BY min(o.first_id), o.collection
    LIMIT greatest(%(collections)s - (SELECT count(*) FROM known), 0)
  )
)
SELECT n.name, s.labels, n.value::numeric AS value
FROM stream s
CROSS JOIN LATERAL (
  VALUES ('stream_batches', s.batches), ('stream_frames', s.frames), ('stream_events', s.events),
    ('stream_stale', s.stale), ('stream_skipped', s.skipped), ('stream_doubtful', s.doubtful),
    ('stream_withheld', s.withheld), ('stream_bytes', s.bytes), ('stream_accounts', s.accounts),
    ('stream_unresolved', s.unresolved)
) n (name, value)
UNION ALL
SELECT name || '_seconds', ARRAY[source, shard], sum(seconds) FROM timed GROUP BY name, source, shard
UNION ALL
SELECT t.name || '_bucket', ARRAY[t.source, t.shard, e.edge::text], count(*) FILTER (WHERE t.seconds <= e.edge)
FROM timed t
CROSS JOIN unnest(%(edges)s::float8[]) e (edge)
GROUP BY t.name, t.source, t.shard, e.edge
UNION ALL
SELECT 'operations', ARRAY[o.origin, coalesce(n.collection, '(others)'), o.action], sum(o.number)
FROM operation o
LEFT JOIN named n ON n.collection = o.collection
GROUP BY o.origin, coalesce(n.collection, '(others)'), o.action
UNION ALL
SELECT 'ignored_operations', ARRAY[b.origin], sum(i.value::bigint)
FROM batch b
CROSS JOIN LATERAL jsonb_each_text(b.ignored) i
GROUP BY b.origin
UNION ALL
SELECT 'rejected', ARRAY[b.origin, r.key], sum(r.value::bigint)
FROM batch b
CROSS JOIN LATERAL jsonb_each_text(b.rejected_by_kind) r
GROUP BY b.origin, r.key
UNION ALL
SELECT 'rows_written', ARRAY[b.origin, w.key], sum(w.value::bigint)
FROM batch b
CROSS JOIN LATERAL jsonb_each_text(b.written) w
GROUP BY b.origin, w.key

-- :identity
-- The same of the identity process.
SELECT n.name, n.labels, n.value::numeric AS value
FROM (
  SELECT sum(resolved) AS resolved, sum(failed) AS failed, sum(verified) AS verified,
    sum(not_verified) AS not_verified, sum(statuses) AS statuses
  FROM pipeline.identity_batch
  WHERE finished_at >= (SELECT counted_to FROM pipeline.total_counted WHERE report = 'identity')
    AND finished_at < %(until)s
) s
CROSS JOIN LATERAL (
  VALUES ('identity_resolutions', ARRAY['answered'], s.resolved), ('identity_resolutions', ARRAY['failed'], s.failed),
    ('identity_handles', ARRAY['verified'], s.verified), ('identity_handles', ARRAY['not_verified'], s.not_verified),
    ('identity_statuses', ARRAY[]::text[], s.statuses)
) n (name, labels, value)
WHERE n.value IS NOT NULL

-- :fetch
-- The same of the fetch process.
SELECT n.name, n.labels, n.value::numeric AS value
FROM (
  SELECT sum(found) AS found, sum(absent) AS absent, sum(refused) AS refused, sum(invalid) AS invalid,
    sum(unreachable) AS unreachable, sum(queued_repositories) AS queued_repositories,
    sum(signatures_checked - signatures_bad) AS signatures_good, sum(signatures_bad) AS signatures_bad
  FROM pipeline.fetch_batch
  WHERE finished_at >= (SELECT counted_to FROM pipeline.total_counted WHERE report = 'fetch')
    AND finished_at < %(until)s
) s
CROSS JOIN LATERAL (
  VALUES ('fetch_records', ARRAY['found'], s.found), ('fetch_records', ARRAY['absent'], s.absent),
    ('fetch_records', ARRAY['refused'], s.refused), ('fetch_records', ARRAY['invalid'], s.invalid),
    ('fetch_records', ARRAY['unreachable'], s.unreachable),
    ('fetch_queued_repositories', ARRAY[]::text[], s.queued_repositories),
    ('fetch_signatures', ARRAY['good'], s.signatures_good), ('fetch_signatures', ARRAY['bad'], s.signatures_bad)
) n (name, labels, value)
WHERE n.value IS NOT NULL

-- :backfill
-- The same of the processes that fetch repositories.
-- - report: the reports.
WITH report AS MATERIALIZED (
  SELECT *
  FROM pipeline.backfill_batch
  WHERE ended_at >= (SELECT counted_to FROM pipeline.total_counted WHERE report = 'backfill')
    AND ended_at < %(until)s
)
SELECT n.name, n.labels, n.value::numeric AS value
FROM (
  SELECT sum(repositories) AS repositories, sum(records) AS records, sum(created) AS created, sum(updated) AS updated,
    sum(deleted) AS deleted, sum(refused) AS refused, sum(bytes) AS bytes, sum(parked) AS parked
  FROM report
) s
CROSS JOIN LATERAL (
  VALUES ('backfill_repositories', ARRAY[]::text[], s.repositories), ('backfill_records', ARRAY[]::text[], s.records),
    ('backfill_changes', ARRAY['created'], s.created), ('backfill_changes', ARRAY['updated'], s.updated),
    ('backfill_changes', ARRAY['deleted'], s.deleted), ('backfill_changes', ARRAY['refused'], s.refused),
    ('backfill_bytes', ARRAY[]::text[], s.bytes), ('backfill_parked', ARRAY[]::text[], s.parked)
) n (name, labels, value)
WHERE n.value IS NOT NULL
UNION ALL
SELECT 'backfill_failures', ARRAY[f.key], sum(f.value::bigint)
FROM report r
CROSS JOIN LATERAL jsonb_each_text(r.failures) f
GROUP BY f.key
