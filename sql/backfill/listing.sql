-- Lists of hosts and repositories that are read page by page: pipeline.relay_listing, and of each host
-- pipeline.pds_host.
--
-- Guarantees: a page's entries are stored in the transaction that moves the cursor beyond it, so a process that is
-- killed reads one page again. Whatever is listed again changes nothing that is known already.

-- :read
-- How far the list %(listing)s of %(relay)s was read: cursor, when this reading began, whether it has ended, entries,
-- queued, failures since the last page, seconds until it may go on, the last failure.
SELECT cursor, began_at, finished_at, entries, queued, attempts,
  greatest(extract(epoch FROM not_before - now()), 0)::float8, error
FROM pipeline.relay_listing
WHERE relay = %(relay)s AND listing = %(listing)s;

-- :begin
-- Begins to read the list from its beginning.
INSERT INTO pipeline.relay_listing (relay, listing) VALUES (%(relay)s, %(listing)s)
ON CONFLICT (relay, listing) DO UPDATE SET
  cursor = NULL, began_at = now(), moved_at = now(), finished_at = NULL, entries = 0, queued = 0, attempts = 0,
  not_before = now(), error = NULL;

-- :move
-- A page was read, of %(entries)s entries, which queued %(queued)s repositories; %(cursor)s leads to the next one.
-- %(is_last)s: there is none.
UPDATE pipeline.relay_listing SET
  cursor = %(cursor)s,
  moved_at = now(),
  finished_at = CASE WHEN %(is_last)s THEN now() END,
  entries = entries + %(entries)s,
  queued = queued + %(queued)s,
  attempts = 0,
  not_before = now(),
  error = %(error)s
WHERE relay = %(relay)s AND listing = %(listing)s;

-- :fail
-- A page could not be read (%(error)s): the list is gone on with after %(seconds)s.
UPDATE pipeline.relay_listing SET
  attempts = attempts + 1,
  not_before = now() + make_interval(secs => %(seconds)s),
  error = %(error)s
WHERE relay = %(relay)s AND listing = %(listing)s;

-- :add_hosts
-- Adds the hosts %(hosts)s that the relay lists, with what it says of them. A new reading of their repositories begins,
-- unless one has since %(began_at)s, or the relay bans the host.
INSERT INTO pipeline.pds_host AS p (host, seen_at, status, accounts, list_not_before)
SELECT DISTINCT ON (h.host) h.host, now(), h.status, h.accounts, CASE WHEN h.status <> 'banned' THEN now() END
FROM unnest(%(hosts)s, %(statuses)s, %(accounts)s::bigint[]) h (host, status, accounts)
ORDER BY h.host
ON CONFLICT (host) DO UPDATE SET
  seen_at = excluded.seen_at,
  status = excluded.status,
  accounts = excluded.accounts,
  listing_cursor = CASE WHEN p.list_not_before IS NULL THEN NULL ELSE p.listing_cursor END,
  listing_began_at = CASE WHEN p.list_not_before IS NULL THEN NULL ELSE p.listing_began_at END,
  listed = CASE WHEN p.list_not_before IS NULL THEN 0 ELSE p.listed END,
  list_attempts = 0,
  list_error = NULL,
  list_not_before = CASE
    WHEN excluded.list_not_before IS NULL THEN NULL
    WHEN p.list_not_before IS NOT NULL THEN least(p.list_not_before, now())
    WHEN p.listed_at >= %(began_at)s THEN NULL
    ELSE now()
  END;

-- :take_hosts
-- Takes for %(claim)s seconds at most %(limit)s hosts whose repositories are to be listed: host, cursor, repositories
-- listed so far, accounts that the relay knows of, failures since the last page. Parked ones wait.
WITH due AS MATERIALIZED (
  SELECT p.host
  FROM pipeline.pds_host p
  WHERE p.list_not_before <= now() AND coalesce(p.parked_until <= now(), true)
  ORDER BY p.list_not_before
  LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED
)
UPDATE pipeline.pds_host p SET
  list_not_before = now() + make_interval(secs => %(claim)s),
  listing_began_at = coalesce(p.listing_began_at, now())
WHERE p.host = ANY (ARRAY(SELECT host FROM due))
RETURNING p.host, p.listing_cursor, p.listed, p.accounts, p.list_attempts;

-- :move_host
-- A page of the host %(host)s was read, of %(entries)s repositories. %(is_last)s: the list is over, cut off where
-- %(error)s says so. Otherwise the host stays taken for %(claim)s seconds more.
UPDATE pipeline.pds_host SET
  listing_cursor = CASE WHEN NOT %(is_last)s THEN %(cursor)s END,
  listing_began_at = CASE WHEN NOT %(is_last)s THEN listing_began_at END,
  listed = listed + %(entries)s,
  listed_at = CASE WHEN %(is_last)s THEN now() ELSE listed_at END,
  list_not_before = CASE WHEN NOT %(is_last)s THEN now() + make_interval(secs => %(claim)s) END,
  list_attempts = 0,
  list_error = %(error)s
WHERE host = %(host)s;

-- :fail_host
-- A page of the host %(host)s could not be read (%(error)s): its list is gone on with after %(seconds)s; null: not
-- until the network is listed anew. %(counts)s: the host was asked.
UPDATE pipeline.pds_host SET
  list_not_before = now() + make_interval(secs => %(seconds)s),
  list_attempts = list_attempts + %(counts)s::int,
  list_error = %(error)s
WHERE host = %(host)s;

-- :release_hosts
-- Gives the hosts %(hosts)s back: their lists may be gone on with at once.
UPDATE pipeline.pds_host SET list_not_before = now() WHERE host = ANY (%(hosts)s) AND list_not_before IS NOT NULL;

-- :hosts_left
-- How many hosts are still to be listed, and how many of them have failed.
SELECT count(*), count(*) FILTER (WHERE list_error IS NOT NULL)
FROM pipeline.pds_host
WHERE list_not_before IS NOT NULL;

-- :listings
-- The lists of %(relay)s: name, when its reading began, when it last moved, when it ended, entries, queued, error.
SELECT listing, began_at, moved_at, finished_at, entries, queued, error
FROM pipeline.relay_listing
WHERE relay = %(relay)s
ORDER BY listing;
