-- More functions of the history (0003_history.sql), for the statements of sql/apply/.

-- Whether a gate named a post once. Only a state of the gate proves that: the gate that a deletion deletes may have been
-- refused.
CREATE FUNCTION pipeline.had_gate(post_uri text, gate_uri text)
RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT false
    FROM pipeline.version v
    WHERE v.uri = gate_uri AND NOT v.deleted AND v.record ->> 'post' = post_uri
    LIMIT 1;
END;
COMMENT ON FUNCTION pipeline.had_gate IS 'False if a gate that is gone named the post, else null: as post."hasThreadGate".';

COMMENT ON TABLE pipeline.version IS 'Events of records that are not the current state of their record.';
COMMENT ON COLUMN pipeline.version.fact IS
    'Of a follow "<follower> <followed>", of a list item "<list> <member>", of a verification, like or repost the same after "verified", "like", "repost".';
COMMENT ON COLUMN pipeline.version.record IS
    'Of a gate or declaration: the record. Of a verification, like, repost or follow: "sortAt" and what else its notification has. Of another record: itself if it has a reply, allow or hiddenReplies.';

-- As in 0003_history.sql, now that other records have versions too.
CREATE OR REPLACE FUNCTION pipeline.post_as_of(of_uri text, of_rev text)
RETURNS TABLE (rev text, root text, parent text, invalid boolean, mentions jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT e.rev, e.root, e.parent, e.invalid, e.mentions
    FROM (
        SELECT r.rev, p."replyRoot" AS root, p."replyParent" AS parent, p."invalidReplyRoot" AS invalid,
            NULL::jsonb AS mentions, false AS deleted
        FROM bsky.post p
        JOIN bsky.record r USING (uri)
        WHERE p.uri = of_uri AND r.rev <= of_rev COLLATE "C"
        UNION ALL
        SELECT v.rev, v.root, v.parent, v.invalid, v.mentions, v.deleted
        FROM pipeline.version v
        WHERE v.uri = of_uri AND v.rev <= of_rev COLLATE "C" AND v.collection = 'app.bsky.feed.post'
        ORDER BY 1 DESC
        LIMIT 1
    ) e
    WHERE NOT e.deleted;
END;

-- The parent that a reply names, as of a rev. Usually a post; but a reply to a list, a feed generator or any other record
-- is valid too.
CREATE FUNCTION pipeline.parent_as_of(of_uri text, of_rev text)
RETURNS TABLE (rev text, root text, parent text, invalid boolean)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT p.rev, p.root, p.parent, p.invalid
    FROM pipeline.post_as_of(of_uri, of_rev) p
    WHERE split_part(of_uri, '/', 4) = 'app.bsky.feed.post'
    UNION ALL
    SELECT e.rev, e.record #>> '{reply,root,uri}',
        CASE WHEN e.record -> 'reply' IN ('null', 'false', '0', '""') THEN NULL ELSE e.record ->> 'reply' END,
        NULL::boolean
    FROM (
        SELECT r.rev, r.json::jsonb AS record, false AS deleted
        FROM bsky.record r
        WHERE r.uri = of_uri AND r.rev <= of_rev COLLATE "C"
        UNION ALL
        SELECT v.rev, v.record, v.deleted
        FROM pipeline.version v
        WHERE v.uri = of_uri AND v.rev <= of_rev COLLATE "C"
        ORDER BY 1 DESC
        LIMIT 1
    ) e
    WHERE split_part(of_uri, '/', 4) <> 'app.bsky.feed.post' AND NOT e.deleted;
END;
COMMENT ON FUNCTION pipeline.parent_as_of IS
    'The state of any record as of a rev, no row if it did not exist: what it replies to, if anything.';

-- The URI of a root's thread gate: under the root's own key if the root is a post, else the root itself (as in the
-- reference; such a record rarely has an `allow`).
CREATE FUNCTION pipeline.thread_gate_of(root text)
RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT CASE
        WHEN split_part(root, '/', 4) = 'app.bsky.feed.post'
            THEN 'at://' || split_part(root, '/', 3) || '/app.bsky.feed.threadgate/' || split_part(root, '/', 5)
        ELSE root
    END;
END;
COMMENT ON FUNCTION pipeline.thread_gate_of IS 'URI under which the thread gate of a root is looked for.';

CREATE TABLE pipeline.reply_to_other (
    subject text NOT NULL,
    uri text NOT NULL,
    rev text COLLATE "C" NOT NULL,
    PRIMARY KEY (subject, uri, rev)
);
CREATE INDEX reply_to_other_rev_idx ON pipeline.reply_to_other (rev);
COMMENT ON TABLE pipeline.reply_to_other IS
    'Replies whose parent or root is no post: judged again when an event of that arrives late. They are rare.';
COMMENT ON COLUMN pipeline.reply_to_other.subject IS 'at:// URI of the parent or root.';
COMMENT ON COLUMN pipeline.reply_to_other.uri IS 'at:// URI of the reply.';
COMMENT ON COLUMN pipeline.reply_to_other.rev IS 'Rev of the commit that wrote this state of the reply.';
INSERT INTO pipeline.reply_to_other (subject, uri, rev)
SELECT DISTINCT s.subject, p.uri, coalesce(r.rev, split_part(p.uri, '/', 5))
FROM bsky.post p
JOIN bsky.record r USING (uri)
CROSS JOIN LATERAL (VALUES (p."replyParent"), (p."replyRoot")) s (subject)
WHERE split_part(s.subject, '/', 4) <> 'app.bsky.feed.post';
