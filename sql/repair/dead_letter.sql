-- Retries of dead letters (ingest/dead_letters.py).
--
-- Guarantees: a resolved dead letter is never retried. A gap closes only when what it says is missing has been applied.

-- :next
-- Returns the next dead letters to retry, by id, that are not resolved: of the %(ids)s (null: all) and of the kind
-- (null: all).
SELECT bytes, id, source, seq, did, path, kind, reason, form, rev, cid, action, event_time, byte_length, quiet
FROM pipeline.dead_letter
WHERE id > %(after)s
  AND resolved_at IS NULL
  AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s))
  AND (%(kind)s::text IS NULL OR kind = %(kind)s)
ORDER BY id
LIMIT %(limit)s;

-- :repo
-- Returns what is known of a repository's newest commit, and the rev of the newest export that was applied whole.
SELECT rev, commit_cid, data_cid, export_rev
FROM pipeline.repo
WHERE did = %(did)s AND rev IS NOT NULL AND commit_cid IS NOT NULL AND data_cid IS NOT NULL;

-- :resolved
-- Marks a dead letter as resolved.
UPDATE pipeline.dead_letter SET retried_at = now(), resolved_at = now() WHERE id = %(id)s;

-- :close_gap
-- Closes the gap that the dead letter left: of a commit (path null) or a record. A gap without bounds stands for
-- everything refused of the repository, and closes with the last dead letter of a commit: one that has a rev may have
-- left it as well (its rev was of the future, or the account had not signed it). Letters of the account's labels and
-- their frames are no matter of its repository.
UPDATE pipeline.gap g SET resolved_at = now()
WHERE g.did = %(did)s AND g.resolved_at IS NULL AND (
  (g.kind = 'record' AND g.from_text = %(path)s AND g.to_text = %(rev)s)
  OR (g.kind = 'commit' AND %(path)s::text IS NULL AND g.to_text = %(rev)s)
  OR (
    g.kind = 'commit' AND g.to_text IS NULL AND %(rev)s::text IS NULL
    AND NOT EXISTS (
      SELECT FROM pipeline.dead_letter d
      WHERE d.did = g.did AND d.resolved_at IS NULL AND d.path IS NULL
        AND d.form IS DISTINCT FROM 'label' AND d.form IS DISTINCT FROM 'label-frame'
    )
  )
);

-- :failed
-- Replaces the reason by that of the failed retry.
UPDATE pipeline.dead_letter SET retried_at = now(), kind = %(kind)s, reason = %(reason)s WHERE id = %(id)s;

-- :covered
-- Marks the dead letters %(ids)s as resolved without a retry: whole exports of their repositories were applied that are
-- as new as they are.
UPDATE pipeline.dead_letter SET resolved_at = now() WHERE id = ANY (%(ids)s) AND resolved_at IS NULL;
