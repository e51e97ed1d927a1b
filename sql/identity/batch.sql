-- What the identity process did, a row every few seconds.
--
-- Guarantees: only plots and checks need these rows.
INSERT INTO pipeline.identity_batch
  (seconds, resolved, failed, verified, not_verified, statuses, lookups, hits, queued, oldest_seconds)
VALUES (
  %(seconds)s, %(resolved)s, %(failed)s, %(verified)s, %(not_verified)s, %(statuses)s, %(lookups)s, %(hits)s,
  %(queued)s, %(oldest_seconds)s
)
