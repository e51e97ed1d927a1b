-- An index that the reference's reads need; sql/schema/online/0026_reads.sql has built it.
--
-- Guarantees: no row changes.

COMMENT ON INDEX bsky.notification_author_idx IS
    'For getNotifications with its filter "priority": notifications by accounts that somebody follows.';
