-- The history of likes, reposts and follows, for their notifications (sql/apply/pair_notification.sql).

-- What a like, repost or follow says, as version.fact.
CREATE FUNCTION pipeline.fact_of(of_uri text, body jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT CASE split_part(of_uri, '/', 4)
        WHEN 'app.bsky.feed.like' THEN 'like ' || split_part(of_uri, '/', 3) || ' ' || (body #>> '{subject,uri}')
        WHEN 'app.bsky.feed.repost' THEN 'repost ' || split_part(of_uri, '/', 3) || ' ' || (body #>> '{subject,uri}')
        WHEN 'app.bsky.graph.follow' THEN split_part(of_uri, '/', 3) || ' ' || (body ->> 'subject')
    END;
END;
COMMENT ON FUNCTION pipeline.fact_of IS 'What a like, repost or follow says, as version.fact.';

-- All states, past and current, of the likes, reposts or follows of one subject by one account. (Of a current duplicate the
-- time is not known: it never notified by this state.)
CREATE FUNCTION pipeline.states_of_pair(kind text, of_creator text, of_subject text)
RETURNS TABLE (uri text, rev text, cid text, sort_at text, via text, fact text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH said AS (
        SELECT CASE kind
            WHEN 'app.bsky.feed.like' THEN 'like ' || of_creator || ' ' || of_subject
            WHEN 'app.bsky.feed.repost' THEN 'repost ' || of_creator || ' ' || of_subject
            WHEN 'app.bsky.graph.follow' THEN of_creator || ' ' || of_subject
        END AS fact
    ), live AS MATERIALIZED (
        SELECT l.uri, l."sortAt" AS sort_at, l.via FROM bsky."like" l
        WHERE kind = 'app.bsky.feed.like' AND l.subject = of_subject AND l.creator = of_creator
        UNION ALL
        SELECT l.uri, l."sortAt", l.via FROM bsky.repost l
        WHERE kind = 'app.bsky.feed.repost' AND l.subject = of_subject AND l.creator = of_creator
        UNION ALL
        SELECT l.uri, l."sortAt", NULL FROM bsky.follow l
        WHERE kind = 'app.bsky.graph.follow' AND l."subjectDid" = of_subject AND l.creator = of_creator
    )
    SELECT r.uri, coalesce(r.rev, split_part(r.uri, '/', 5)), r.cid, l.sort_at, l.via, s.fact
    FROM said s
    CROSS JOIN live l
    JOIN bsky.record r ON r.uri = l.uri
    UNION ALL
    SELECT r.uri, coalesce(r.rev, split_part(r.uri, '/', 5)), r.cid, NULL, NULL, s.fact
    FROM said s
    CROSS JOIN live l
    JOIN bsky.duplicate_record d ON d."duplicateOf" = l.uri
    JOIN bsky.record r ON r.uri = d.uri
    UNION ALL
    SELECT v.uri, v.rev, NULL, v.record ->> 'sortAt', v.record ->> 'via', v.fact
    FROM said s
    JOIN pipeline.version v ON v.fact = s.fact
    WHERE NOT v.deleted AND v.collection = kind;
END;
COMMENT ON FUNCTION pipeline.states_of_pair IS 'States, past and current, of likes, reposts or follows of a subject by an account.';

-- As in 0011_revs_of_posts.sql, but a record that is no post is not looked up: it may have thousands of versions.
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
            WHERE v.uri = of_uri AND v.rev <= of_rev COLLATE "C"
            ORDER BY v.rev DESC
            LIMIT 1
        )
        ORDER BY 1 DESC
        LIMIT 1
    ) e
    WHERE NOT e.deleted AND split_part(of_uri, '/', 4) = 'app.bsky.feed.post';
END;
