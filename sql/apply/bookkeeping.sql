-- What the pipeline notes about a batch, in the batch's own transaction: operations of collections that are not
-- indexed, the report that Dagster plots, and last of all the cursor. (Gaps: gap.sql.)
--
-- Guarantees: the cursor moves only from where this batch began (compare and set), so of two consumers one fails.
-- Everything up to the cursor is applied.

-- :ignored
-- Counts operations of collections that are not indexed. Anybody can invent names: beyond the first 10,000 they are
-- counted together. A commit that is known to be applied (repo.sql) has been counted before.
INSERT INTO pipeline.ignored_collection AS i (collection, creates, updates, deletes)
SELECT n.name, sum(s.creates), sum(s.updates), sum(s.deletes)
FROM stage_ignored s
CROSS JOIN LATERAL (
  SELECT CASE
    WHEN (SELECT count(*) FROM pipeline.ignored_collection) < 10000
      OR EXISTS (SELECT FROM pipeline.ignored_collection k WHERE k.collection = s.collection)
    THEN s.collection
    ELSE '(others)'
  END AS name
) n
WHERE NOT EXISTS (SELECT FROM known_repo k WHERE k.did = s.did AND s.rev BETWEEN k.chain_from AND k.rev)
GROUP BY n.name
ORDER BY n.name
ON CONFLICT (collection) DO UPDATE SET
  creates = i.creates + excluded.creates,
  updates = i.updates + excluded.updates,
  deletes = i.deletes + excluded.deletes,
  last_seen = now();

-- :report
-- Adds the batch's report.
INSERT INTO pipeline.batch
  (source, shard, first_seq, last_seq, frames, events, ops, written, rejected, rejected_by_kind, ignored, accounts,
   unresolved, stale, skipped, doubtful, withheld, bytes, relay_time, received_at, decode_ms, apply_ms)
VALUES
  (%(source)s, %(shard)s, %(first_seq)s, %(last_seq)s, %(frames)s, %(events)s, %(ops)s, %(written)s, %(rejected)s,
   %(rejected_by_kind)s, %(ignored)s, %(accounts)s, %(unresolved)s, %(stale)s, %(skipped)s, %(doubtful)s, %(withheld)s,
   %(bytes)s, %(relay_time)s, to_timestamp(%(received_at)s), %(decode_ms)s, %(apply_ms)s);

-- :open_cursor
-- Begins a stream that has no cursor; writes no row if there is one.
INSERT INTO pipeline.cursor (relay, shard, seq)
VALUES (%(relay)s, %(shard)s, %(seq)s)
ON CONFLICT DO NOTHING;

-- :advance_cursor
-- Moves the cursor; writes no row if it is not where the batch began.
UPDATE pipeline.cursor SET seq = %(to)s, updated_at = now()
WHERE relay = %(relay)s AND shard = %(shard)s AND seq = %(from)s;
