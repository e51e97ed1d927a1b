-- Notifications of reason `contact-match` (store/contacts.py).
--
-- Guarantees: one row per (recipient, match), however often the match arrives; nobody is notified of their own account.
-- The row goes when the record that it names does; no rerun touches it. Nobody is notified of an excluded account.

-- :notify
-- Adds the notifications and returns the ids of new rows.
INSERT INTO bsky.notification (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt")
SELECT DISTINCT ON (m.uri) m.did, m.uri, m.cid, m.author, 'contact-match', NULL, m.sort_at
FROM (VALUES %s) m (did, uri, cid, author, sort_at)
WHERE m.did <> m.author AND NOT pipeline.is_excluded(m.author)
ORDER BY m.uri, m.sort_at
ON CONFLICT ("recordUri", did, reason) DO NOTHING
RETURNING id;
