-- Posts get their revs, and indexes with them, before 0011_revs_of_posts.sql, which the migration runs
-- after this file. Interrupted, the revs that are there stay. Nothing else may write
-- posts meanwhile: stop the pipeline for a migration.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :rev
-- The rev of the record that a post is made of.
ALTER TABLE bsky.post ADD COLUMN IF NOT EXISTS rev text COLLATE "C";

-- :revs
-- Fills it, 256 pages at a time, each in a transaction of its own. Changed rows go to the end of the table, where they
-- need not be looked at again.
DO $$
DECLARE
    pages CONSTANT bigint := pg_relation_size('bsky.post') / current_setting('block_size')::integer;
    page bigint := 0;
BEGIN
    WHILE page < pages LOOP
        UPDATE bsky.post p SET rev = (SELECT r.rev FROM bsky.record r WHERE r.uri = p.uri)
        WHERE p.ctid >= format('(%s,0)', page)::tid AND p.ctid < format('(%s,0)', page + 256)::tid AND p.rev IS NULL;
        COMMIT;
        page := page + 256;
    END LOOP;
END
$$;

-- :reply_parent
-- Replies by their parent. Posts that are no replies need no entry; the reference asks by equality, which never finds
-- them.
CREATE INDEX CONCURRENTLY IF NOT EXISTS post_reply_parent_idx ON bsky.post ("replyParent", rev) INCLUDE (uri)
    WHERE "replyParent" IS NOT NULL;

-- :reply_root
-- Replies by their root; it takes the name of the former index.
CREATE INDEX CONCURRENTLY IF NOT EXISTS post_reply_root_rev_idx ON bsky.post ("replyRoot", rev)
    WHERE "replyRoot" IS NOT NULL;

-- :version_parent
-- Past states of replies by their parent; it takes the name of the former index.
CREATE INDEX CONCURRENTLY IF NOT EXISTS version_parent_rev_idx ON pipeline.version (parent, rev)
    WHERE parent IS NOT NULL;
