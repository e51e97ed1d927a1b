-- Deletes at most %(limit)s rows of pipeline.pending that expired before %(before)s, oldest first.
--
-- Guarantees: only rows that no evaluation waits for; those of replies stay until the parent arrives. Bounded: run it
-- until it deletes nothing.
DELETE FROM pipeline.pending p
USING (
  SELECT uri, kind, missing
  FROM pipeline.pending
  WHERE kind <> 'reply' AND expires_at < %(before)s
  ORDER BY expires_at
  LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED
) x
WHERE (p.uri, p.kind, p.missing) = (x.uri, x.kind, x.missing);
