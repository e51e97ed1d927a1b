-- Retries of dead letters (ingest/dead_letters.py).

-- :next
-- The next letters to try, by id: of the %(ids)s named (null: all) and the kind named (null: all), not yet resolved.
SELECT bytes, id, source, seq, did, path, kind, reason, form, rev, cid, action, event_time, byte_length
FROM pipeline.dead_letter
WHERE id > %(after)s
  AND resolved_at IS NULL
  AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s))
  AND (%(kind)s::text IS NULL OR kind = %(kind)s)
ORDER BY id
LIMIT %(limit)s;

-- :repo
-- What is known of a letter's repository.
SELECT rev, commit_cid, data_cid
FROM pipeline.repo
WHERE did = %(did)s AND rev IS NOT NULL AND commit_cid IS NOT NULL AND data_cid IS NOT NULL;

-- :resolved
UPDATE pipeline.dead_letter SET retried_at = now(), resolved_at = now() WHERE id = %(id)s;

-- :close_gap
-- Closes the letter's gap: of a commit (path null) or of a record. A gap without bounds stands for all that was refused of
-- the repository, and waits for the last of it.
UPDATE pipeline.gap g SET resolved_at = now()
WHERE g.did = %(did)s AND g.resolved_at IS NULL AND (
  (g.kind = 'record' AND g.from_text = %(path)s AND g.to_text = %(rev)s)
  OR (g.kind = 'commit' AND %(path)s::text IS NULL AND g.to_text = %(rev)s)
  OR (
    g.kind = 'commit' AND g.to_text IS NULL AND %(rev)s::text IS NULL
    AND NOT EXISTS (
      SELECT FROM pipeline.dead_letter d
      WHERE d.did = g.did AND d.resolved_at IS NULL AND d.path IS NULL AND d.rev IS NULL
    )
  )
);

-- :failed
-- The reason of this try replaces that of the one before.
UPDATE pipeline.dead_letter SET retried_at = now(), kind = %(kind)s, reason = %(reason)s WHERE id = %(id)s;
