-- pipeline.backfill_batch: what each process that fetches repositories has done.
--
-- Guarantees: rows are only added, and swept after some days.

-- :add
-- Adds a row.
INSERT INTO pipeline.backfill_batch (
  bucket, seconds, repositories, records, created, updated, deleted, refused, bytes, failed, parked, fetching, failures
)
VALUES (
  %(bucket)s, %(seconds)s, %(repositories)s, %(records)s, %(created)s, %(updated)s, %(deleted)s, %(refused)s, %(bytes)s,
  %(failed)s, %(parked)s, %(fetching)s, %(failures)s
);

-- :since
-- Adds up all rows after the id %(after)s: the last id (null: there is none), and per column the sum;
-- failures by kind.
SELECT max(id), count(*), sum(repositories), sum(records), sum(created), sum(updated), sum(deleted), sum(refused),
  sum(bytes), sum(failed), sum(parked),
  (
    SELECT coalesce(jsonb_object_agg(key, number), '{}')
    FROM (
      SELECT f.key, sum(f.value::bigint) AS number
      FROM pipeline.backfill_batch b
      CROSS JOIN LATERAL jsonb_each_text(b.failures) f
      WHERE b.id > %(after)s
      GROUP BY f.key
    ) kinds
  )
FROM pipeline.backfill_batch
WHERE id > %(after)s;

