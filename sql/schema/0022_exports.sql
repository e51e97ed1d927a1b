-- Records of repository exports that notify nobody, and more of what is waited for.
--
-- Guarantees: a record that was too old to notify anybody when it was fetched never does, by no rerun either. What is to
-- be fetched next is found by an index, however much waits; and no account can make us fetch more than a hundred
-- records a day.

ALTER TABLE bsky.record
    ADD COLUMN quiet boolean;
COMMENT ON COLUMN bsky.record.quiet IS
    'True: it notifies nobody, being from an export and older than APPVIEW_NOTIFY_WINDOW; else null. Not the reference''s.';

ALTER TABLE pipeline.dead_letter
    ADD COLUMN quiet boolean;
COMMENT ON COLUMN pipeline.dead_letter.quiet IS
    'True: the record notifies nobody, as record.quiet, so a retry does not either; else null.';

-- The states of a pair, with the column `quiet`.
DROP FUNCTION pipeline.states_of_pair;
CREATE FUNCTION pipeline.states_of_pair(kind text, of_creator text, of_subject text)
RETURNS TABLE (uri text, rev text, cid text, sort_at text, via text, relationship text, quiet boolean)
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
    SELECT r.uri, coalesce(r.rev, split_part(r.uri, '/', 5)), r.cid, l.sort_at, l.via, s.relationship, r.quiet
    FROM stated s
    CROSS JOIN live l
    JOIN bsky.record r ON r.uri = l.uri
    UNION ALL
    SELECT r.uri, coalesce(r.rev, split_part(r.uri, '/', 5)), r.cid, NULL, NULL, s.relationship, r.quiet
    FROM stated s
    CROSS JOIN live l
    JOIN bsky.duplicate_record d ON d."duplicateOf" = l.uri
    JOIN bsky.record r ON r.uri = d.uri
    UNION ALL
    SELECT v.uri, v.rev, NULL, v.record ->> 'sortAt', v.record ->> 'via', v.relationship, (v.record ->> 'quiet')::boolean
    FROM stated s
    JOIN pipeline.version v ON v.relationship = s.relationship
    WHERE NOT v.deleted AND v.collection = kind;
END;
COMMENT ON FUNCTION pipeline.states_of_pair IS
    'States, past and current, of likes, reposts or follows of a subject by an account.';

-- What is missing: when it is fetched next, and why the last attempt failed. The indexes find what is fetched next, and
-- what an account has had fetched of late.
-- (schema/online/0022_exports.sql has added the column `not_before` and both indexes.)
ALTER TABLE pipeline.pending
    ADD COLUMN error text;
DROP INDEX pipeline.pending_expires_at_idx;
COMMENT ON TABLE pipeline.pending IS
    'Records that others depend on and that are not indexed. Kind reply: evaluated again when the parent arrives; only '
    'that deletes the row. Other kinds: only fetched.';
COMMENT ON COLUMN pipeline.pending.uri IS
    'at:// URI of the record that depends on it; of the kind profile that of the profile itself.';
COMMENT ON COLUMN pipeline.pending.kind IS
    'What is missing: reply (the parent of a reply), root (its root), quote (a quoted post), embed (another embedded '
    'record), subject (a reposted post), list, profile.';
COMMENT ON COLUMN pipeline.pending.missing IS 'at:// URI of the missing record.';
COMMENT ON COLUMN pipeline.pending.attempts IS 'Attempts to fetch it that failed.';
COMMENT ON COLUMN pipeline.pending.not_before IS
    'When it is fetched next; in the future while somebody fetches it; null: it is not fetched (any more).';
COMMENT ON COLUMN pipeline.pending.error IS 'Why the last attempt to fetch it failed, in words; null: none has.';

-- Both functions return rows, so that they become a part of the statement that calls them, and cost no call.
CREATE FUNCTION pipeline.fetches_left(of_did text)
RETURNS TABLE (number bigint)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT 100 - count(*)
    FROM (
        SELECT
        FROM pipeline.pending p
        WHERE split_part(p.uri, '/', 3) = of_did AND p.expires_at > now()
        LIMIT 100
    ) fetched;
END;
COMMENT ON FUNCTION pipeline.fetches_left IS
    'How many more records may be fetched because of what the account wrote: its rows of the last 24 hours count.';

CREATE FUNCTION pipeline.fetchable(of_uri text)
RETURNS TABLE (uri text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT of_uri
    -- That it is a valid AT URI, the record's Lexicon has said. A regular expression would cost more than all the rest.
    WHERE length(of_uri) <= 700
        AND CASE
            WHEN of_uri LIKE 'at://did:plc:%' THEN length(split_part(of_uri, '/', 3)) = 32
            ELSE of_uri LIKE 'at://did:web:%'
        END
        AND split_part(of_uri, '/', 5) <> ''
        AND split_part(of_uri, '/', 6) = ''
        AND NOT EXISTS (SELECT FROM pipeline.tombstone t WHERE t.uri = of_uri OFFSET 0)
        AND NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = split_part(of_uri, '/', 3) AND r.excluded OFFSET 0)
        -- Whoever asked before found out that it can't be had.
        AND NOT EXISTS (
            SELECT
            FROM pipeline.pending p
            WHERE p.missing = of_uri AND p.not_before IS NULL AND p.error IS NOT NULL AND p.expires_at > now()
            OFFSET 0
        );
END;
COMMENT ON FUNCTION pipeline.fetchable IS
    'The URI of a missing record, no row if it is not to be fetched: it has to name a DID, a collection and a record key; '
    'it must not have been deleted, nor its account be excluded; and nobody has tried in vain of late.';

CREATE FUNCTION pipeline.profile_of(of_did text)
RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT 'at://' || of_did || '/app.bsky.actor.profile/self';
END;
COMMENT ON FUNCTION pipeline.profile_of IS 'at:// URI of an account''s profile.';
