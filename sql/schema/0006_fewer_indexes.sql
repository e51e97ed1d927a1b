-- One index less on notification, which is written most often after record.
--
-- notification ("recordUri") is the reference's; our unique index ("recordUri", did, reason) begins with the same column
-- and serves the same look-ups and deletions.

DROP INDEX bsky.notification_record_idx;
