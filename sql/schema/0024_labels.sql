-- Labels: what every labeler has said, which labelers are read, what their labels mean, and the label feed.
--
-- Guarantees: `bsky.label` is a function of the rows of `pipeline.label_event`, whatever their order was. Ids of
-- label_event rise in the order in which their transactions commit, since all that write labels take one lock first
-- (sql/apply/label.sql): a reader that has come to an id has missed nothing before it.

-- ---------------------------------------------------------------------------------------------------------------------
-- Labelers that are read.

CREATE TABLE pipeline.labeler (
    did text PRIMARY KEY,
    is_wanted boolean NOT NULL DEFAULT true,
    endpoint text,
    cursor bigint NOT NULL DEFAULT 0,
    state text NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'connected', 'waiting', 'parked')),
    reason text,
    state_at timestamptz NOT NULL DEFAULT now(),
    caught_up_at timestamptz,
    reread_at timestamptz,
    last_frame_at timestamptz,
    last_cts timestamptz,
    frames bigint NOT NULL DEFAULT 0,
    labels bigint NOT NULL DEFAULT 0,
    changed bigint NOT NULL DEFAULT 0,
    repeated bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    rejected_by_kind jsonb NOT NULL DEFAULT '{}',
    in_effect bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.labeler IS
    'Labelers whose streams are read or were read, and what has come of each. The counts are totals; plots show their '
    'differences.';
COMMENT ON COLUMN pipeline.labeler.did IS 'DID of the labeler.';
COMMENT ON COLUMN pipeline.labeler.is_wanted IS 'Its stream is read, by APPVIEW_LABELERS.';
COMMENT ON COLUMN pipeline.labeler.endpoint IS
    'Server of its stream (wss://host), as its DID document names it; null: none is known.';
COMMENT ON COLUMN pipeline.labeler.cursor IS
    'Sequence number of its last frame applied; 0: its stream is read from the beginning. Belongs to the endpoint, and '
    'begins anew with another one. Advanced by compare-and-set in the batch.';
COMMENT ON COLUMN pipeline.labeler.state IS
    'new: not tried yet, or not read any more; connected; waiting: trying again soon; parked: a person or another DID '
    'document has to help.';
COMMENT ON COLUMN pipeline.labeler.reason IS 'Why it is waiting or parked.';
COMMENT ON COLUMN pipeline.labeler.state_at IS 'Since when it is in that state.';
COMMENT ON COLUMN pipeline.labeler.caught_up_at IS
    'When all that it had sent was last applied; null: never yet since its cursor was 0.';
COMMENT ON COLUMN pipeline.labeler.reread_at IS
    'When its stream was last begun anew from 0, because of a gap or because somebody asked; null: never.';
COMMENT ON COLUMN pipeline.labeler.last_frame_at IS 'When its last frame came.';
COMMENT ON COLUMN pipeline.labeler.last_cts IS 'Newest time that a label of it states.';
COMMENT ON COLUMN pipeline.labeler.frames IS 'Frames of it that were applied.';
COMMENT ON COLUMN pipeline.labeler.labels IS 'Valid labels and negations in them.';
COMMENT ON COLUMN pipeline.labeler.changed IS 'Those that changed what is in effect.';
COMMENT ON COLUMN pipeline.labeler.repeated IS 'Those that had been applied before.';
COMMENT ON COLUMN pipeline.labeler.rejected IS 'Labels and frames that were rejected.';
COMMENT ON COLUMN pipeline.labeler.rejected_by_kind IS 'The same by kind of dead letter.';
COMMENT ON COLUMN pipeline.labeler.in_effect IS
    'Rows of bsky.label of it that are not negated; expired ones among them.';

-- What a labeler does not keep any more is a gap: of no repository, and of no relay. (schema/online/0024_labels.sql has
-- made the constraints and the indexes of large tables.)
COMMENT ON COLUMN pipeline.gap.kind IS
    'sequence: numbers left out, or the stream went back; outdated_cursor: older than the relay keeps; chain: a commit '
    'does not follow the one we have; sync: the relay announced a repository reset; commit: a commit (or another event) '
    'of the repository was refused; record: a record of an applied commit is missing; repository: more gaps of it than '
    'are listed one by one; labels: a labeler does not keep what followed our cursor; missing_parent, fetch: something '
    'could not be fetched.';

-- ---------------------------------------------------------------------------------------------------------------------
-- What they have said. The table has been empty so far.

ALTER TABLE pipeline.label_event
    ADD COLUMN cts_at timestamptz NOT NULL,
    ADD COLUMN exp_at timestamptz,
    ADD COLUMN signed bytea,
    ADD COLUMN took_effect boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN pipeline.label_event.cts_at IS 'The moment of `cts`, by which labels are ordered.';
COMMENT ON COLUMN pipeline.label_event.exp_at IS 'The moment of `exp`; null: never.';
COMMENT ON COLUMN pipeline.label_event.signed IS
    'The bytes that the signature is over, where they are not those of the label without its signature as the '
    'specification has them; null: they are, or there is no signature.';
COMMENT ON COLUMN pipeline.label_event.took_effect IS
    'It decided what bsky.label says when it was applied. Only such ones are broadcast.';
COMMENT ON COLUMN pipeline.label_event.sig IS 'The labeler''s signature, the last one that came; null: unsigned.';
COMMENT ON COLUMN pipeline.label_event.seq IS
    'Sequence number in the labeler''s stream, the highest under which it came; null: made here.';

-- A label is the same label however often it arrives. Leads from a subject, and from (uri, src, val, cid), to the newest.
CREATE UNIQUE INDEX label_event_once ON pipeline.label_event (uri, src, val, cid, cts_at, neg, exp_at)
    NULLS NOT DISTINCT;
DROP INDEX pipeline.label_event_uri_idx;
-- The greatest negation of (uri, src, val), whatever its cid.
CREATE INDEX label_event_negation_idx ON pipeline.label_event (uri, src, val, cts_at, coalesce(seq, -1)) WHERE neg;
-- All of one labeler: the feed of its own, what is rebuilt, what is removed.
CREATE INDEX label_event_src_idx ON pipeline.label_event (src, id);

COMMENT ON TABLE bsky.label IS
    'What labelers say of accounts and records: for each (src, uri, cid, val) the newest. Written by the pipeline.';
COMMENT ON COLUMN bsky.label.neg IS
    'Taken back: by a negation that is no older, of whatever cid.';
COMMENT ON COLUMN bsky.label.cts IS
    'When the labeler made it, as ISO 8601 in UTC with milliseconds; also where the negation of another cid ended it.';
COMMENT ON COLUMN bsky.label.exp IS 'When the label ends, as ISO 8601 in UTC with milliseconds; null: never.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The label feed.

CREATE TABLE pipeline.label_feed (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    swept_to bigint NOT NULL DEFAULT 0,
    expired_to timestamptz NOT NULL DEFAULT now()
);
INSERT INTO pipeline.label_feed DEFAULT VALUES;
COMMENT ON TABLE pipeline.label_feed IS 'The label feed (pipeline.label_event): one row.';
COMMENT ON COLUMN pipeline.label_feed.singleton IS 'There is one row.';
COMMENT ON COLUMN pipeline.label_feed.swept_to IS
    'Rows of label_event up to this id are older than APPVIEW_LABEL_EVENT_DAYS, and what decides nothing is removed.';
COMMENT ON COLUMN pipeline.label_feed.expired_to IS 'Labels that expired up to here were announced.';

CREATE TABLE pipeline.label_swept (
    src text PRIMARY KEY,
    swept_to bigint NOT NULL
);
COMMENT ON TABLE pipeline.label_swept IS
    'What the label feed no longer has, by labeler: a reader of its labels that has not come so far has an outdated '
    'cursor.';
COMMENT ON COLUMN pipeline.label_swept.src IS 'DID of the labeler.';
COMMENT ON COLUMN pipeline.label_swept.swept_to IS
    'Highest id of its rows of label_event that took effect once and were removed by age.';

-- ---------------------------------------------------------------------------------------------------------------------
-- What labels mean.

ALTER TABLE pipeline.label_definition
    ADD COLUMN is_local boolean NOT NULL DEFAULT false,
    ADD COLUMN position integer NOT NULL DEFAULT 0,
    DROP CONSTRAINT label_definition_pkey,
    ADD PRIMARY KEY (src, val, is_local);
COMMENT ON TABLE pipeline.label_definition IS
    'What the values of labels mean: each value that a labeler''s record (app.bsky.labeler.service) names or defines, '
    'and what the operator has set.';
COMMENT ON COLUMN pipeline.label_definition.severity IS
    'inform, alert or none; null: the labeler uses the value and does not define it, so it means what it means to all.';
COMMENT ON COLUMN pipeline.label_definition.blurs IS 'content, media or none; null where severity is.';
COMMENT ON COLUMN pipeline.label_definition.default_setting IS 'ignore, warn or hide; null where severity is.';
COMMENT ON COLUMN pipeline.label_definition.is_local IS
    'Set here, by the operator; it goes before what the labeler''s record says of the same value.';
COMMENT ON COLUMN pipeline.label_definition.position IS
    'Its place in the labeler''s record, from 0: what it defines comes before what it only names. 0 where is_local.';
COMMENT ON COLUMN pipeline.label_definition.updated_at IS
    'When it was set; of a labeler''s record: the time of the event that brought its state.';

-- Of labelers that are indexed already, as sql/apply/labeler.sql has it of new ones.
-- - value: what a record defines and then what it names, by its place; of one value the first counts.
-- - numbered: these in order; 1,000 of a labeler.
WITH value AS (
    SELECT DISTINCT ON (l.creator, v.val) l.creator AS src, v.val, v.place, v.definition, l."indexedAt" AS indexed_at
    FROM bsky.labeler l
    JOIN bsky.record r USING (uri)
    CROSS JOIN LATERAL (SELECT r.json::jsonb -> 'policies' AS policies OFFSET 0) p
    CROSS JOIN LATERAL (
        SELECT d.value ->> 'identifier' AS val, d.place, d.value AS definition
        FROM jsonb_array_elements(
            CASE WHEN jsonb_typeof(policies -> 'labelValueDefinitions') = 'array'
                THEN policies -> 'labelValueDefinitions' ELSE '[]' END
        ) WITH ORDINALITY d (value, place)
        UNION ALL
        SELECT n.val, 1000000 + n.place, NULL
        FROM jsonb_array_elements_text(
            CASE WHEN jsonb_typeof(policies -> 'labelValues') = 'array' THEN policies -> 'labelValues' ELSE '[]' END
        ) WITH ORDINALITY n (val, place)
    ) v
    WHERE split_part(l.uri, '/', 5) = 'self' AND octet_length(v.val) BETWEEN 1 AND 128
    ORDER BY l.creator, v.val, v.place
), numbered AS (
    SELECT *, (row_number() OVER (PARTITION BY src ORDER BY place) - 1)::integer AS position FROM value
)
INSERT INTO pipeline.label_definition
    (src, val, is_local, position, severity, blurs, default_setting, adult_only, locales, updated_at)
SELECT src, val, false, position, definition ->> 'severity', definition ->> 'blurs',
    CASE WHEN definition IS NOT NULL THEN coalesce(nullif(definition ->> 'defaultSetting', ''), 'warn') END,
    coalesce(definition -> 'adultOnly' = 'true', false),
    (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'lang', s.value -> 'lang', 'name', s.value -> 'name', 'description', s.value -> 'description'
        ) ORDER BY s.place), '[]')
        FROM jsonb_array_elements(
            CASE WHEN jsonb_typeof(definition -> 'locales') = 'array' THEN definition -> 'locales' ELSE '[]' END
        ) WITH ORDINALITY s (value, place)
    ),
    indexed_at::timestamptz
FROM numbered
WHERE position < 1000;

-- ---------------------------------------------------------------------------------------------------------------------
-- Labels, for people who ask in SQL. (sql/labels/query.sql answers the command line and other services, page by page.)

CREATE FUNCTION pipeline.query_labels(
    subjects text[] DEFAULT '{*}',
    sources text[] DEFAULT NULL,
    vals text[] DEFAULT NULL,
    negated boolean DEFAULT false,
    expired boolean DEFAULT false,
    max_rows integer DEFAULT 100
) RETURNS SETOF bsky.label STABLE LANGUAGE plpgsql AS $$
DECLARE
    at text := to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
BEGIN
    IF '*' = ANY (subjects) THEN
        RETURN QUERY
            SELECT l.*
            FROM bsky.label l
            WHERE (sources IS NULL OR l.src = ANY (sources)) AND (vals IS NULL OR l.val = ANY (vals))
                AND (negated OR NOT l.neg) AND (expired OR l.exp IS NULL OR l.exp > at)
            ORDER BY l.cts DESC
            LIMIT max_rows;
        RETURN;
    END IF;
    -- From a subject up to what follows it at once; from a prefix up to what can't begin with it.
    RETURN QUERY
        SELECT DISTINCT l.*
        FROM unnest(subjects) s (subject)
        CROSS JOIN LATERAL (
            SELECT rtrim(s.subject, '*') AS low, CASE WHEN s.subject LIKE '%*' THEN chr(1114111) ELSE chr(1) END AS rest
        ) r
        CROSS JOIN LATERAL (
            SELECT l.*
            FROM bsky.label l
            WHERE l.uri >= r.low AND l.uri < r.low || r.rest
                AND (sources IS NULL OR l.src = ANY (sources)) AND (vals IS NULL OR l.val = ANY (vals))
                AND (negated OR NOT l.neg) AND (expired OR l.exp IS NULL OR l.exp > at)
            OFFSET 0
        ) l
        ORDER BY 6 DESC, 1, 2, 3, 4
        LIMIT max_rows;
END
$$;
COMMENT ON FUNCTION pipeline.query_labels IS
    'Labels of subjects (AT URIs and DIDs, or prefixes that end with *), labelers and values (null: all), the newest '
    'first: those in effect, and on request negated and expired ones.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Labels and frames that were rejected, and labelers that opt out.

COMMENT ON COLUMN pipeline.dead_letter.did IS 'Repository or labeler; null: unreadable.';
COMMENT ON COLUMN pipeline.dead_letter.form IS
    'What bytes is: a frame of a relay, a record''s DAG-CBOR block, a record''s JSON, a label''s DAG-CBOR, a frame of a '
    'labeler (label-frame), or other (not to be retried); null: not known.';

CREATE FUNCTION pipeline.labeler_allowed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pipeline.labeler SET
        cursor = 0, caught_up_at = NULL, state = 'new', reason = NULL, state_at = now()
    WHERE did = NEW.did;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION pipeline.labeler_allowed IS
    'A labeler that is no longer excluded is read from the beginning, because what it said meanwhile was not stored.';
CREATE TRIGGER labeler_allowed AFTER UPDATE OF excluded ON pipeline.repo
    FOR EACH ROW WHEN (OLD.excluded AND NOT NEW.excluded) EXECUTE FUNCTION pipeline.labeler_allowed();

-- ---------------------------------------------------------------------------------------------------------------------
-- Labels in effect, for people and their tools. What these functions are for is in sql/views/label_in_effect.sql, which
-- this migration runs after this file.


CREATE FUNCTION pipeline.created_at(value text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF value ~ '^(?!0000)\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z$' THEN
        RETURN value;
    END IF;
    IF value ~ '^\d{4}-\d\d-\d\dT' THEN
        RETURN to_char(value::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
    END IF;
    RETURN '1970-01-01T00:00:00.000Z';
EXCEPTION WHEN data_exception THEN
    RETURN '1970-01-01T00:00:00.000Z';
END
$$;
COMMENT ON FUNCTION pipeline.created_at IS
    'A createdAt of a record as ISO 8601 in UTC with milliseconds; 1970 where it is no time, as the reference has it.';
