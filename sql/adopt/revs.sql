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
LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(
        substr('234567abcdefghijklmnopqrstuvwxyz', 1 + ((((m.micros << 10) >> (60 - 5 * place)) & 31)::integer), 1),
        '' ORDER BY place)
    FROM (
        SELECT (extract(epoch FROM (
            substr(moment, 1, 8) || least(substr(moment, 9, 2), '28') || substr(moment, 11)
        )::timestamptz) * 1000000)::bigint + greatest(substr(moment, 9, 2)::integer - 28, 0) * 86400000000 AS micros
        WHERE moment ~ '^(19[7-9]|20\d)\d-(0[1-9]|1[0-2])-([012]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?Z$'
          AND substr(moment, 9, 2) <> '00'
    ) m
    CROSS JOIN generate_series(0, 12) place
$$;
CREATE OR REPLACE FUNCTION pg_temp.tid_after(tid text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT rpad(
        left(t.kept, -1) || substr('234567abcdefghijklmnopqrstuvwxyz',
            strpos('234567abcdefghijklmnopqrstuvwxyz', right(t.kept, 1)) + 1, 1),
        13, '2')
    FROM (SELECT rtrim(tid, 'z') AS kept) t
$$;

-- :pages
-- How many pages the table has.
SELECT pg_relation_size('bsky.record') / current_setting('block_size')::bigint;

-- :fill
-- Gives the records on the pages from %(from)s up to, not including, %(until)s their revs.
UPDATE bsky.record r SET rev = CASE
  WHEN k.rkey ~ '^[2-7a-j][2-7a-z]{12}$' AND k.rkey COLLATE "C" <= coalesce(k.repo_rev, k.rkey) COLLATE "C" THEN least(
    greatest(k.rkey COLLATE "C", CASE WHEN NOT %(from_keys)s THEN pg_temp.tid_of_text(r."indexedAt") END COLLATE "C"),
    k.repo_rev COLLATE "C")
  ELSE coalesce(
    least(pg_temp.tid_of_text(r."indexedAt") COLLATE "C", k.repo_rev COLLATE "C"), k.repo_rev, '2222222222222')
END
FROM (
  SELECT o.uri, split_part(o.uri, '/', 5) AS rkey,
    (
      SELECT s."repoRev" FROM bsky.actor_sync s WHERE s.did = o.did AND s."repoRev" ~ '^[2-7a-j][2-7a-z]{12}$'
    ) AS repo_rev
  FROM bsky.record o
  WHERE o.ctid >= format('(%%s,0)', %(from)s)::tid AND o.ctid < format('(%%s,0)', %(until)s)::tid AND o.rev IS NULL
) k
WHERE r.ctid >= format('(%%s,0)', %(from)s)::tid AND r.ctid < format('(%%s,0)', %(until)s)::tid
  AND r.uri = k.uri AND r.rev IS NULL;

-- :left
-- Whether a record has no rev: one that was written while revs were filled in.
SELECT EXISTS (SELECT FROM bsky.record WHERE rev IS NULL);

-- :vacuum
-- Makes the room of former rows free for new ones.
VACUUM (ANALYZE) bsky.record;
