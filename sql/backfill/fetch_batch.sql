-- What the fetch process did, a row every few seconds.
--
-- Guarantees: only plots and checks need these rows.
INSERT INTO pipeline.fetch_batch
  (seconds, asked, found, absent, refused, invalid, unreachable, queued_repositories, asked_by_collection, waiting,
  oldest_seconds, given_up, signatures_checked, signatures_bad)
VALUES (
  %(seconds)s, %(asked)s, %(found)s, %(absent)s, %(refused)s, %(invalid)s, %(unreachable)s, %(queued_repositories)s,
  %(asked_by_collection)s::jsonb, %(waiting)s, %(oldest_seconds)s, %(given_up)s, %(signatures_checked)s,
  %(signatures_bad)s
)
