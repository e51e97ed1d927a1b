-- Two indexes of the reference that only its deletion of an account uses, and a like pays for both: each is a random page
-- read, changed and logged a record.
--
-- record (did): an account's records are 'at://<did>/' <= uri < 'at://<did>0' in the primary key.
-- notification (author): what an account's records told is the same span of "recordUri".

DROP INDEX bsky.record_did_idx;
DROP INDEX bsky.notification_author_idx;
