-- Posts know their own rev, so that the replies to a post from a rev on are a range of an index.
--
-- An edit of a post affects only replies that are newer than the edit. With the rev beside the parent and the root these
-- are found without reading the older ones, of which a popular post has tens of thousands. A state as of a rev is found by
-- one look-up, however often a record was edited.

-- The column `rev` of bsky.post, its values and the indexes with it are in schema/online/0011_revs_of_posts.sql. Here they
-- take the place of the former indexes.
COMMENT ON COLUMN bsky.post.rev IS 'Rev of the commit that wrote this state, as record.rev.';

DROP INDEX bsky.post_replyparent_idx;
DROP INDEX bsky.post_reply_root_idx;
ALTER INDEX bsky.post_reply_root_rev_idx RENAME TO post_reply_root_idx;
DROP INDEX pipeline.version_parent_idx;
ALTER INDEX pipeline.version_parent_rev_idx RENAME TO version_parent_idx;

-- A post as of a rev: no row when it did not exist then.
CREATE OR REPLACE FUNCTION pipeline.post_as_of(of_uri text, of_rev text)
RETURNS TABLE (rev text, root text, parent text, invalid boolean, mentions jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT e.rev, e.root, e.parent, e.invalid, e.mentions
    FROM (
        SELECT p.rev, p."replyRoot" AS root, p."replyParent" AS parent, p."invalidReplyRoot" AS invalid,
            NULL::jsonb AS mentions, false AS deleted
        FROM bsky.post p
        WHERE p.uri = of_uri AND p.rev <= of_rev COLLATE "C"
        UNION ALL
        (
            SELECT v.rev, v.root, v.parent, v.invalid, v.mentions, v.deleted
            FROM pipeline.version v
            WHERE v.uri = of_uri AND v.rev <= of_rev COLLATE "C" AND v.collection = 'app.bsky.feed.post'
            ORDER BY v.rev DESC
            LIMIT 1
        )
        ORDER BY 1 DESC
        LIMIT 1
    ) e
    WHERE NOT e.deleted;
END;

-- The replies to a post, live ones and past states, from a rev on and before another one.
CREATE FUNCTION pipeline.replies_between(of_uri text, since text, until text)
RETURNS TABLE (uri text, rev text, live boolean)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT p.uri, p.rev, true
    FROM bsky.post p
    WHERE p."replyParent" = of_uri AND p.rev >= since COLLATE "C" AND p.rev < until COLLATE "C"
    UNION ALL
    SELECT v.uri, v.rev, false
    FROM pipeline.version v
    WHERE v.parent = of_uri AND v.rev >= since COLLATE "C" AND v.rev < until COLLATE "C"
    OFFSET 0;
END;
COMMENT ON FUNCTION pipeline.replies_between IS
    'Replies to a post, live ones and past versions, of since <= rev < until; E''\x7f'' is later than any rev.';

-- The rev of the next event of a post after a rev; later than any rev if there is none. (PostgreSQL makes a function that
-- returns a table part of the query that calls it, but not one that returns a value and reads a table.)
CREATE FUNCTION pipeline.next_rev(of_uri text, of_rev text)
RETURNS TABLE (rev text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT coalesce(least(
        (SELECT p.rev FROM bsky.post p WHERE p.uri = of_uri AND p.rev > of_rev COLLATE "C"),
        (
            SELECT v.rev
            FROM pipeline.version v
            WHERE v.uri = of_uri AND v.rev > of_rev COLLATE "C"
            ORDER BY v.rev
            LIMIT 1
        )
    ), E'\x7f');
END;

-- The state of a record as of a rev: its rev, and whether it is the current one; no row if there was none.
CREATE FUNCTION pipeline.state_as_of(of_uri text, of_rev text)
RETURNS TABLE (rev text, is_current boolean)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT e.rev, e.is_current
    FROM (
        SELECT r.rev, true AS is_current, false AS deleted
        FROM bsky.record r
        WHERE r.uri = of_uri AND r.rev <= of_rev COLLATE "C"
        UNION ALL
        (
            SELECT v.rev, false, v.deleted
            FROM pipeline.version v
            WHERE v.uri = of_uri AND v.rev <= of_rev COLLATE "C"
            ORDER BY v.rev DESC
            LIMIT 1
        )
        ORDER BY 1 DESC
        LIMIT 1
    ) e
    WHERE NOT e.deleted;
END;
COMMENT ON FUNCTION pipeline.state_as_of IS
    'The state of a gate, declaration or other record as of a rev. Its record is read by record_at, once for all who ask for it.';

CREATE FUNCTION pipeline.record_at(of_uri text, of_rev text, is_current boolean)
RETURNS TABLE (record jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT CASE
        WHEN is_current THEN (SELECT r.json::jsonb FROM bsky.record r WHERE r.uri = of_uri)
        ELSE (SELECT v.record FROM pipeline.version v WHERE v.uri = of_uri AND v.rev = of_rev COLLATE "C")
    END;
END;
COMMENT ON FUNCTION pipeline.record_at IS 'The record of a state that state_as_of found.';

-- What a rule of a thread gate asks for; null where it asks for no follow or list item.
CREATE FUNCTION pipeline.fact_of_rule(kind text, list text, owner text, replier text)
RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE kind
    WHEN 'app.bsky.feed.threadgate#followerRule' THEN replier || ' ' || owner
    WHEN 'app.bsky.feed.threadgate#followingRule' THEN owner || ' ' || replier
    WHEN 'app.bsky.feed.threadgate#listRule' THEN list || ' ' || replier
END;
COMMENT ON FUNCTION pipeline.fact_of_rule IS 'The fact (as version.fact) that lets an account reply by a rule of a gate.';

DROP FUNCTION pipeline.replies_to;
DROP FUNCTION pipeline.record_as_of;
DROP FUNCTION pipeline.parent_as_of;
DROP FUNCTION pipeline.follows_as_of;
DROP FUNCTION pipeline.listed_as_of;
DROP FUNCTION pipeline.fact_in_history;
