-- The servers that resolution asks and that failed or asked for a pause, as the identity process sees them.
--
-- Guarantees: the table has no more rows than the process gives, and those that were closed in the last day, up to a
-- limit. Rows that did not change are not written.

-- :forget
-- Deletes all rows: a process that starts knows nothing of any server yet.
DELETE FROM pipeline.upstream;

-- :save
-- Writes the servers given as arrays of the same length.
INSERT INTO pipeline.upstream AS u (host, breaker, failures, opened, open_until, parked_until, reason)
SELECT host, breaker, failures, opened, to_timestamp(open_until), to_timestamp(parked_until), reason
FROM unnest(
  %(hosts)s::text[], %(breakers)s::text[], %(failures)s::int[], %(opened)s::int[], %(open_until)s::float8[],
  %(parked_until)s::float8[], %(reasons)s::text[]
) AS given (host, breaker, failures, opened, open_until, parked_until, reason)
ORDER BY host COLLATE "C"
ON CONFLICT (host) DO UPDATE SET
  breaker = excluded.breaker, failures = excluded.failures, opened = excluded.opened,
  open_until = excluded.open_until, parked_until = excluded.parked_until, reason = excluded.reason, updated_at = now()
WHERE (u.breaker, u.failures, u.opened, u.open_until, u.parked_until, u.reason) IS DISTINCT FROM
  (excluded.breaker, excluded.failures, excluded.opened, excluded.open_until, excluded.parked_until, excluded.reason);

-- :close
-- Closes the breakers of servers that the process does not know any more, and ends their pauses.
UPDATE pipeline.upstream
SET breaker = 'closed', failures = 0, open_until = NULL, parked_until = NULL, updated_at = now()
WHERE NOT host = ANY (%(hosts)s) AND (breaker <> 'closed' OR open_until IS NOT NULL OR parked_until IS NOT NULL);

-- :drop
-- Deletes servers that have been well for so many seconds, or that are too many: all but the `rows` that changed last.
DELETE FROM pipeline.upstream
WHERE breaker = 'closed' AND parked_until IS NULL AND NOT host = ANY (%(hosts)s)
  AND (
    updated_at < now() - %(seconds)s * interval '1 second'
    OR host IN (SELECT host FROM pipeline.upstream ORDER BY updated_at DESC, host OFFSET %(rows)s)
  );
