-- Tables, columns and functions of schema pipeline have the words of docs/glossary.md. Only names change, and comments.
--
-- Guarantees: every row stays. Functions keep their results; states_of_pair is created again because the name of a
-- column of its result changes.

ALTER TABLE pipeline.silenced RENAME TO muted_notification;
ALTER INDEX pipeline.silenced_pkey RENAME TO muted_notification_pkey;
COMMENT ON TABLE pipeline.muted_notification IS
    'Notifications not written because their recipient had muted the thread; they may have unmuted it since.';

ALTER TABLE pipeline.told_otherwise RENAME TO kept_notification;
ALTER INDEX pipeline.told_otherwise_pkey RENAME TO kept_notification_pkey;
COMMENT ON TABLE pipeline.kept_notification IS
    'Likes, reposts and follows that were edited or promoted: reruns keep their notifications, which do not follow from '
    'what the records say now.';

ALTER TABLE pipeline.version RENAME COLUMN fact TO relationship;
ALTER INDEX pipeline.version_fact_idx RENAME TO version_relationship_idx;
COMMENT ON COLUMN pipeline.version.relationship IS
    'Of a follow "<follower> <followed>", of a list item "<list> <member>". Of a verification, like or repost the account '
    'and the subject after "verified", "like", "repost".';

ALTER TABLE pipeline.dependency RENAME COLUMN fact TO relationship;
COMMENT ON COLUMN pipeline.dependency.relationship IS 'As version.relationship.';

ALTER FUNCTION pipeline.fact_of RENAME TO relationship_of;
COMMENT ON FUNCTION pipeline.relationship_of IS 'What a like, repost or follow says, as version.relationship.';

ALTER FUNCTION pipeline.fact_of_rule RENAME TO relationship_of_rule;
COMMENT ON FUNCTION pipeline.relationship_of_rule IS
    'The relationship (as version.relationship) that lets an account reply by a rule of a gate.';

DROP FUNCTION pipeline.states_of_pair;
CREATE FUNCTION pipeline.states_of_pair(kind text, of_creator text, of_subject text)
RETURNS TABLE (uri text, rev text, cid text, sort_at text, via text, relationship text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH stated AS (
        SELECT CASE kind
            WHEN 'app.bsky.feed.like' THEN 'like ' || of_creator || ' ' || of_subject
            WHEN 'app.bsky.feed.repost' THEN 'repost ' || of_creator || ' ' || of_subject
            WHEN 'app.bsky.graph.follow' THEN of_creator || ' ' || of_subject
        END AS relationship
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
    SELECT r.uri, coalesce(r.rev, split_part(r.uri, '/', 5)), r.cid, l.sort_at, l.via, s.relationship
    FROM stated s
    CROSS JOIN live l
    JOIN bsky.record r ON r.uri = l.uri
    UNION ALL
    SELECT r.uri, coalesce(r.rev, split_part(r.uri, '/', 5)), r.cid, NULL, NULL, s.relationship
    FROM stated s
    CROSS JOIN live l
    JOIN bsky.duplicate_record d ON d."duplicateOf" = l.uri
    JOIN bsky.record r ON r.uri = d.uri
    UNION ALL
    SELECT v.uri, v.rev, NULL, v.record ->> 'sortAt', v.record ->> 'via', v.relationship
    FROM stated s
    JOIN pipeline.version v ON v.relationship = s.relationship
    WHERE NOT v.deleted AND v.collection = kind;
END;
COMMENT ON FUNCTION pipeline.states_of_pair IS
    'States, past and current, of likes, reposts or follows of a subject by an account.';
