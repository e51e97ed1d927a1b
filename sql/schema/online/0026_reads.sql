-- An index that reads need, which 0008_fewer_indexes_of_accounts.sql dropped.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :notification_author
-- Notifications by their author. The reference asks for those of the accounts that somebody follows (its filter
-- "priority"): without it, everything that a popular account was ever notified of is read.
CREATE INDEX CONCURRENTLY IF NOT EXISTS notification_author_idx ON bsky.notification (author);
