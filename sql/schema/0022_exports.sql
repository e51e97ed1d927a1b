-- Records of repository exports that notify nobody, and more of what is waited for.
--
-- Guarantees: a record that was too old to notify anybody when it was fetched never does, by no rerun either.

ALTER TABLE bsky.record ADD COLUMN quiet boolean;
COMMENT ON COLUMN bsky.record.quiet IS
    'True: the record notifies nobody, for it came from an export and was older than APPVIEW_NOTIFY_WINDOW; else null. '
    'Not part of the reference.';
