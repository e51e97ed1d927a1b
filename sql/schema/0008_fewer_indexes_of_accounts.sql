-- Two indexes less. Only the reference's deletion of an account uses them, but every like pays for both: each costs
-- reading, changing and logging a random page for every record.
--
-- record (did): an account's records are 'at://<did>/' <= uri < 'at://<did>0' in the primary key.
-- notification (author): the notifications of an account's records are the same span of "recordUri".

DROP INDEX bsky.record_did_idx;
DROP INDEX bsky.notification_author_idx;
