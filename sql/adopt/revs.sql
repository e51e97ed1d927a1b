-- The revs of records that the reference has stored without: bsky.record.rev.
--
-- The reference keeps of each repository the newest rev that it has applied, and of records none. It has the time of
-- the event that wrote a record's present state, "indexedAt". That is a moment after the rev, and in the order of the
-- stream, which is the order in which the reference has evaluated posts and found duplicates. So the TID of that time
-- stands in for the rev. It is not before the record's key, if that is a TID, and not after the repository's newest
-- rev: whatever comes next is newer.
--
-- Records that were indexed from repositories (indexRepo) have the time of that. For a database with many of these
-- %(from_keys)s says that the key alone counts: it is no later than the rev, but of an edited record it is too early.
--
-- Guarantees: a rev that is there stays, so each statement may be repeated.

-- :functions
-- For the session: the first TID of a time as the reference writes it (null: it is none), and the TID that follows one.
CREATE OR REPLACE FUNCTION pg_temp.tid_of_text(moment text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    digits CONSTANT text := '234567abcdefghijklmnopqrstuvwxyz';
    day integer;
    tid bigint;
BEGIN
    IF moment !~ '^(19[7-9]|20\d)\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3])(:[0-5]\d){2}(\.\d+)?Z$' THEN
        RETURN NULL;
    END IF;
    day := substr(moment, 9, 2);
    IF day > 28 THEN -- Not every month has it.
        moment := overlay(moment PLACING '28' FROM 9);
    END IF;
    tid := (extract(epoch FROM moment::timestamptz) * 1000000)::bigint + greatest(day - 28, 0) * 86400000000;
    tid := tid << 10;
    RETURN substr(digits, 1 + ((tid >> 60) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 55) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 50) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 45) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 40) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 35) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 30) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 25) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 20) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 15) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 10) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 5) & 31)::integer, 1)
        || substr(digits, 1 + ((tid >> 0) & 31)::integer, 1);
END
$$;
CREATE OR REPLACE FUNCTION pg_temp.tid_after(tid text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    digits CONSTANT text := '234567abcdefghijklmnopqrstuvwxyz';
    kept text := rtrim(tid, 'z');
BEGIN
    RETURN rpad(left(kept, -1) || substr(digits, strpos(digits, right(kept, 1)) + 1, 1), 13, '2');
END
$$;

-- :pages
-- How many pages the table has.
SELECT pg_relation_size('bsky.record') / current_setting('block_size')::bigint;

-- :fill
-- Gives the records on the pages from %(from)s up to, not including, %(until)s their revs.
-- - without_rev: these records, with what their revs follow from.
WITH without_rev AS MATERIALIZED (
  SELECT o.ctid AS place, o.uri, split_part(o.uri, '/', 5) AS rkey, s."repoRev" AS repo_rev,
    pg_temp.tid_of_text(o."indexedAt") AS moment
  FROM bsky.record o
  LEFT JOIN bsky.actor_sync s ON s.did = o.did AND s."repoRev" ~ '^[2-7a-j][2-7a-z]{12}$'
  WHERE o.ctid >= format('(%%s,0)', %(from)s)::tid AND o.ctid < format('(%%s,0)', %(until)s)::tid AND o.rev IS NULL
)
UPDATE bsky.record r SET rev = CASE
  WHEN n.rkey ~ '^[2-7a-j][2-7a-z]{12}$' AND n.rkey COLLATE "C" <= coalesce(n.repo_rev, n.rkey) COLLATE "C" THEN least(
    greatest(n.rkey COLLATE "C", CASE WHEN NOT %(from_keys)s THEN n.moment END COLLATE "C"),
    n.repo_rev COLLATE "C")
  ELSE coalesce(least(n.moment COLLATE "C", n.repo_rev COLLATE "C"), n.repo_rev, '2222222222222')
END
FROM without_rev n
WHERE r.ctid = n.place AND r.uri = n.uri AND r.rev IS NULL;

-- :left
-- Whether a record on the pages from %(from)s up to, not including, %(until)s has no rev: one that was written while
-- revs were filled in.
SELECT EXISTS (
  SELECT
  FROM bsky.record
  WHERE ctid >= format('(%%s,0)', %(from)s)::tid AND ctid < format('(%%s,0)', %(until)s)::tid AND rev IS NULL
);

-- :vacuum
-- Makes the room of former rows free for new ones.
VACUUM (ANALYZE) bsky.record;
