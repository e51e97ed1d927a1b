-- Constraints and indexes for 0024_labels.sql, which the migration runs after this file.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :gap_kind
-- What a labeler does not keep any more is a gap, too.
ALTER TABLE pipeline.gap
    DROP CONSTRAINT gap_kind_check,
    ADD CONSTRAINT gap_kind_check CHECK (kind IN (
        'sequence', 'outdated_cursor', 'chain', 'sync', 'commit', 'record', 'repository', 'missing_parent', 'fetch',
        'labels'
    )) NOT VALID;

-- :gap_kind_checked
-- Looks at the rows that were there before.
ALTER TABLE pipeline.gap VALIDATE CONSTRAINT gap_kind_check;

-- :letter_form
-- Labels and frames that were rejected are dead letters.
ALTER TABLE pipeline.dead_letter
    DROP CONSTRAINT dead_letter_form_check,
    ADD CONSTRAINT dead_letter_form_check
        CHECK (form IN ('frame', 'block', 'json', 'other', 'label', 'label-frame')) NOT VALID;

-- :letter_form_checked
-- Looks at the rows that were there before.
ALTER TABLE pipeline.dead_letter VALIDATE CONSTRAINT dead_letter_form_check;

-- :label_in_effect
-- Labels in effect of a subject (index-only), and those that a negation ends.
CREATE INDEX CONCURRENTLY IF NOT EXISTS label_in_effect_idx ON bsky.label (uri, src, val, cid) INCLUDE (cts, exp)
    WHERE NOT neg;

-- :label_exp
-- Those that expire, and whose they are (index-only).
CREATE INDEX CONCURRENTLY IF NOT EXISTS label_exp_idx ON bsky.label (exp) INCLUDE (src)
    WHERE exp IS NOT NULL AND NOT neg;

-- :self_labels
-- Records with self-labels, which are few. The view pipeline.label_in_effect repeats the condition.
CREATE INDEX CONCURRENTLY IF NOT EXISTS record_self_labels_idx ON bsky.record (uri)
    WHERE strpos(json, 'com.atproto.label.defs#selfLabels') > 0;
