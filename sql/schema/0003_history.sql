-- History: past states of the records by which others are evaluated.
--
-- A reply or quote is evaluated by what existed at its own rev: parent, root, gate, follows, list items
-- (docs/architecture.md). Most of these still exist and are in schema bsky. Those that have been replaced or deleted
-- since, or that came after something newer, are here. Both together hold all events of these records, in whatever order
-- they came.
--
-- Guarantees: (uri, rev) is one event, written once; the state of a record as of a rev is its newest event up to it.

CREATE TABLE pipeline.version (
    uri text NOT NULL,
    rev text COLLATE "C" NOT NULL,
    collection text NOT NULL,
    deleted boolean NOT NULL,
    root text,
    parent text,
    invalid boolean,
    mentions jsonb,
    fact text,
    record jsonb,
    PRIMARY KEY (uri, rev)
);
CREATE INDEX version_parent_idx ON pipeline.version (parent) WHERE parent IS NOT NULL;
CREATE INDEX version_fact_idx ON pipeline.version (fact) WHERE fact IS NOT NULL;
COMMENT ON TABLE pipeline.version IS
    'Events of posts, gates, follows and list items that are not the current state of their record.';
COMMENT ON COLUMN pipeline.version.uri IS 'at:// URI of the record.';
COMMENT ON COLUMN pipeline.version.rev IS 'Rev of the commit that wrote or deleted it.';
COMMENT ON COLUMN pipeline.version.collection IS 'NSID of its collection.';
COMMENT ON COLUMN pipeline.version.deleted IS 'Whether the event deleted the record; the columns below are null then.';
COMMENT ON COLUMN pipeline.version.root IS 'Of a reply: URI of the root it names.';
COMMENT ON COLUMN pipeline.version.parent IS 'Of a reply: URI of the post it replies to.';
COMMENT ON COLUMN pipeline.version.invalid IS 'Of a post: whether it is no valid reply, as post."invalidReplyRoot".';
COMMENT ON COLUMN pipeline.version.mentions IS 'Of a post: array of the DIDs that its facets mention.';
COMMENT ON COLUMN pipeline.version.fact IS 'Of a follow "<follower> <followed>", of a list item "<list> <member>".';
COMMENT ON COLUMN pipeline.version.record IS 'Of a gate: the record.';

CREATE TABLE pipeline.dependency (
    fact text NOT NULL,
    uri text NOT NULL,
    PRIMARY KEY (fact, uri)
);
COMMENT ON TABLE pipeline.dependency IS
    'Replies whose thread gate asks for a follow or a list item: judged again when such an event arrives late.';
COMMENT ON COLUMN pipeline.dependency.fact IS 'As version.fact.';
COMMENT ON COLUMN pipeline.dependency.uri IS 'at:// URI of the reply.';

-- post_reply_root_idx is in schema/online/0003_history.sql.

-- Accounts that subscribed to an author's posts.
CREATE INDEX activity_subscription_subject_idx ON bsky.activity_subscription ("subjectDid");

-- A post as of a rev: no row when it did not exist then.
CREATE FUNCTION pipeline.post_as_of(of_uri text, of_rev text)
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
        WHERE v.uri = of_uri AND v.rev <= of_rev COLLATE "C"
        ORDER BY 1 DESC
        LIMIT 1
    ) e
    WHERE NOT e.deleted;
END;
COMMENT ON FUNCTION pipeline.post_as_of IS
    'The state of a post as of a rev, no row if it did not exist. mentions is null for the current state: see record.';

-- The replies to a post, live ones and past states.
CREATE FUNCTION pipeline.replies_to(of_uri text)
RETURNS TABLE (uri text, rev text, live boolean)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT p.uri, r.rev, true
    FROM bsky.post p
    JOIN bsky.record r USING (uri)
    WHERE p."replyParent" = of_uri
    UNION ALL
    SELECT v.uri, v.rev, false
    FROM pipeline.version v
    WHERE v.parent = of_uri
    OFFSET 0;
END;
COMMENT ON FUNCTION pipeline.replies_to IS 'Replies to a post: live ones and past versions.';

-- Any of the other records as of a rev.
CREATE FUNCTION pipeline.record_as_of(of_uri text, of_rev text)
RETURNS TABLE (record jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT e.record
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
    WHERE NOT e.deleted;
END;
COMMENT ON FUNCTION pipeline.record_as_of IS 'A gate record as of a rev, no row if it did not exist.';

-- Whether a past event stated `of_fact` and no later one had changed that by `of_rev`.
CREATE FUNCTION pipeline.fact_in_history(of_fact text, of_rev text)
RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT EXISTS (
        SELECT
        FROM pipeline.version v
        WHERE v.fact = of_fact
            AND v.rev <= of_rev COLLATE "C"
            AND NOT EXISTS (
                SELECT
                FROM pipeline.version later
                WHERE later.uri = v.uri AND later.rev > v.rev AND later.rev <= of_rev COLLATE "C"
            )
            AND NOT EXISTS (
                SELECT
                FROM bsky.record r
                WHERE r.uri = v.uri AND r.rev > v.rev AND r.rev <= of_rev COLLATE "C"
            )
    );
END;

CREATE FUNCTION pipeline.follows_as_of(follower text, followed text, of_rev text)
RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT EXISTS (
        SELECT
        FROM bsky.follow f
        JOIN bsky.record r USING (uri)
        WHERE f.creator = follower AND f."subjectDid" = followed AND r.rev <= of_rev COLLATE "C"
    )
    OR pipeline.fact_in_history(follower || ' ' || followed, of_rev);
END;
COMMENT ON FUNCTION pipeline.follows_as_of IS 'Whether one account followed another as of a rev.';

CREATE FUNCTION pipeline.listed_as_of(list text, member text, of_rev text)
RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT EXISTS (
        SELECT
        FROM bsky.list_item i
        JOIN bsky.record r USING (uri)
        WHERE i."listUri" = list AND i."subjectDid" = member AND r.rev <= of_rev COLLATE "C"
    )
    OR pipeline.fact_in_history(list || ' ' || member, of_rev);
END;
COMMENT ON FUNCTION pipeline.listed_as_of IS 'Whether an account was on a list as of a rev.';
