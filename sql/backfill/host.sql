-- pipeline.pds_host: what is known of the hosts of repositories, and which of them are parked.
--
-- Guarantees: all processes share it, and none waits for another: rows are locked in the order of their host, for one
-- statement. A park is never shortened by a failure that came before it.

-- :note
-- Notes what a process has seen of the hosts %(hosts)s: repositories delivered (%(fetched)s) since the last failure,
-- failures in a row since the last delivery (%(failures)s), the last failure (%(reasons)s), and for how many seconds
-- they are parked from now (%(parked)s; 0: not).
INSERT INTO pipeline.pds_host AS p (host, fetched, failures, reason, failed_at, delivered_at, parked_until)
SELECT
  n.host,
  n.fetched,
  n.failures,
  CASE WHEN n.failures > 0 OR n.parked > 0 THEN n.reason END,
  CASE WHEN n.failures > 0 THEN now() END,
  CASE WHEN n.fetched > 0 THEN now() END,
  CASE WHEN n.parked > 0 THEN now() + make_interval(secs => n.parked) END
FROM unnest(%(hosts)s, %(fetched)s::bigint[], %(failures)s::integer[], %(reasons)s::text[], %(parked)s::float8[])
  n (host, fetched, failures, reason, parked)
ORDER BY n.host
ON CONFLICT (host) DO UPDATE SET
  fetched = p.fetched + excluded.fetched,
  failures = excluded.failures,
  reason = CASE WHEN excluded.reason IS NOT NULL OR excluded.failures = 0 THEN excluded.reason ELSE p.reason END,
  failed_at = coalesce(excluded.failed_at, p.failed_at),
  delivered_at = coalesce(excluded.delivered_at, p.delivered_at),
  parked_until = CASE
    WHEN excluded.parked_until IS NOT NULL THEN greatest(p.parked_until, excluded.parked_until)
    WHEN excluded.failures = 0 AND excluded.fetched > 0 THEN NULL
    ELSE p.parked_until
  END;

-- :read
-- What is known of the hosts %(hosts)s: host, failures, whether it delivered since it last failed, seconds that it is
-- still parked (0: it is not), reason.
SELECT
  host,
  failures,
  delivered_at IS NOT NULL AND (failed_at IS NULL OR delivered_at >= failed_at),
  greatest(coalesce(extract(epoch FROM parked_until - now()), 0), 0)::float8,
  reason
FROM pipeline.pds_host
WHERE host = ANY (%(hosts)s);

-- :parked
-- The hosts that are parked now, at most %(limit)s, the one that returns last first: host, seconds left, failures,
-- reason.
SELECT host, extract(epoch FROM parked_until - now())::float8, failures, reason
FROM pipeline.pds_host
WHERE parked_until > now()
ORDER BY parked_until DESC
LIMIT %(limit)s;

-- :parked_count
-- How many hosts are parked now.
SELECT count(*) FROM pipeline.pds_host WHERE parked_until > now();

