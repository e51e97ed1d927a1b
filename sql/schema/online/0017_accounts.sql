-- Indexes and a correction for 0017_accounts.sql, which the migration runs after this file.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :account_times
-- A time of an event that lies far in the future came from a wrong clock: it must not hold up the events after it.
UPDATE pipeline.repo SET account_at = now() WHERE account_at > now() + interval '5 minutes';

-- :dependency_uri
-- What a record asks for.
CREATE INDEX CONCURRENTLY IF NOT EXISTS dependency_uri_idx ON pipeline.dependency USING hash (uri);

-- :reply_to_other_uri
-- What a reply is to.
CREATE INDEX CONCURRENTLY IF NOT EXISTS reply_to_other_uri_idx ON pipeline.reply_to_other USING hash (uri);

-- :dead_letter_did
-- All dead letters of an account; it takes the name of the former index.
CREATE INDEX CONCURRENTLY IF NOT EXISTS dead_letter_all_did_idx ON pipeline.dead_letter (did);
