-- Our own tables: the cursors of the streams, what is known of every repository, and everything that is not complete yet.
--
-- Guarantees: a cursor row moves in the transaction of the batch it stands for; a row in dead_letter, gap or pending is
-- the same row however often its cause is delivered again. Times are timestamptz. Revs compare by byte ("C"), as TIDs
-- must; URIs and DIDs keep the database's collation, because they are joined to schema bsky through its indexes.

CREATE SCHEMA IF NOT EXISTS pipeline;
COMMENT ON SCHEMA pipeline IS
    'State of appview-pipeline: cursors, sync state of repositories, dead letters, gaps, queues.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Streams.

CREATE TABLE pipeline.cursor (
    relay text NOT NULL,
    shard text NOT NULL DEFAULT '0/1',
    seq bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relay, shard)
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.cursor IS
    'How far each stream is applied: everything up to seq is in the tables. Advanced by compare-and-set in the batch.';
COMMENT ON COLUMN pipeline.cursor.relay IS 'URL of the relay or labeler, without path (wss://host).';
COMMENT ON COLUMN pipeline.cursor.shard IS 'Which part of the stream, "i/n" by hash of the DID; "0/1" is all of it.';
COMMENT ON COLUMN pipeline.cursor.seq IS 'Sequence number of the last event applied.';
COMMENT ON COLUMN pipeline.cursor.updated_at IS 'When the cursor last moved.';

CREATE TABLE pipeline.batch (
    id bigserial PRIMARY KEY,
    source text NOT NULL,
    shard text NOT NULL DEFAULT '0/1',
    first_seq bigint,
    last_seq bigint,
    frames integer NOT NULL DEFAULT 0,
    events integer NOT NULL DEFAULT 0,
    ops jsonb NOT NULL DEFAULT '{}',
    written jsonb NOT NULL DEFAULT '{}',
    rejected integer NOT NULL DEFAULT 0,
    rejected_by_kind jsonb NOT NULL DEFAULT '{}',
    ignored jsonb NOT NULL DEFAULT '{}',
    stale integer NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    relay_time timestamptz,
    received_at timestamptz,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decode_ms real,
    apply_ms real
);
CREATE INDEX batch_applied_at_idx ON pipeline.batch (applied_at);
COMMENT ON TABLE pipeline.batch IS
    'One row per micro-batch, written in its transaction: what the sensor reports from. Swept after some days.';
COMMENT ON COLUMN pipeline.batch.id IS 'Grows with every batch; reporters remember the last one they reported.';
COMMENT ON COLUMN pipeline.batch.source IS 'URL of the relay, or the file replayed.';
COMMENT ON COLUMN pipeline.batch.shard IS 'Shard of the stream, as in cursor.';
COMMENT ON COLUMN pipeline.batch.first_seq IS 'Sequence number of the first event; null: the source has none.';
COMMENT ON COLUMN pipeline.batch.last_seq IS 'Sequence number of the last event; null: the source has none.';
COMMENT ON COLUMN pipeline.batch.frames IS 'Frames read.';
COMMENT ON COLUMN pipeline.batch.events IS 'Events decoded from them.';
COMMENT ON COLUMN pipeline.batch.ops IS 'Operations applied: {"<collection>": {"create": n, "update": n, "delete": n}}.';
COMMENT ON COLUMN pipeline.batch.written IS 'Rows inserted, updated or deleted: {"<table>": n}.';
COMMENT ON COLUMN pipeline.batch.rejected IS 'Frames, events and records that became dead letters.';
COMMENT ON COLUMN pipeline.batch.rejected_by_kind IS 'The same by kind of dead letter: {"<kind>": n}.';
COMMENT ON COLUMN pipeline.batch.ignored IS 'Operations of collections that are not indexed: {"<collection>": n}.';
COMMENT ON COLUMN pipeline.batch.stale IS 'Events passed over because a newer rev of the repository was already applied.';
COMMENT ON COLUMN pipeline.batch.bytes IS 'Bytes of the frames.';
COMMENT ON COLUMN pipeline.batch.relay_time IS 'Newest time that an event states; null: none does.';
COMMENT ON COLUMN pipeline.batch.received_at IS 'When the last frame was received.';
COMMENT ON COLUMN pipeline.batch.applied_at IS 'When the batch was written, a moment before its commit.';
COMMENT ON COLUMN pipeline.batch.decode_ms IS 'Milliseconds spent decoding and checking.';
COMMENT ON COLUMN pipeline.batch.apply_ms IS 'Milliseconds spent in the database.';

CREATE TABLE pipeline.ignored_collection (
    collection text PRIMARY KEY,
    creates bigint NOT NULL DEFAULT 0,
    updates bigint NOT NULL DEFAULT 0,
    deletes bigint NOT NULL DEFAULT 0,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.ignored_collection IS 'Every collection that is not indexed, counted by name.';
COMMENT ON COLUMN pipeline.ignored_collection.collection IS 'NSID of the collection.';
COMMENT ON COLUMN pipeline.ignored_collection.creates IS 'Records created.';
COMMENT ON COLUMN pipeline.ignored_collection.updates IS 'Records updated.';
COMMENT ON COLUMN pipeline.ignored_collection.deletes IS 'Records deleted.';
COMMENT ON COLUMN pipeline.ignored_collection.first_seen IS 'When it was first met.';
COMMENT ON COLUMN pipeline.ignored_collection.last_seen IS 'When it was last met.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Repositories.

CREATE TABLE pipeline.repo (
    did text PRIMARY KEY,
    rev text COLLATE "C",
    chain_from text COLLATE "C",
    commit_cid text,
    data_cid text,
    seq bigint,
    status text,
    active boolean NOT NULL DEFAULT true,
    account_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.repo IS
    'Sync state of every repository met. Locked first, in order of DID, by whoever applies something of it.';
COMMENT ON COLUMN pipeline.repo.did IS 'DID of the account.';
COMMENT ON COLUMN pipeline.repo.rev IS 'Newest rev applied; null: nothing of the repository yet.';
COMMENT ON COLUMN pipeline.repo.chain_from IS
    'Oldest rev from which every commit up to rev was applied without a break: any rev in between is known to be applied.';
COMMENT ON COLUMN pipeline.repo.commit_cid IS 'CID of the commit at rev.';
COMMENT ON COLUMN pipeline.repo.data_cid IS 'CID of the tree''s root at rev: what the next commit must name as prevData.';
COMMENT ON COLUMN pipeline.repo.seq IS 'Sequence number of the event that brought rev; null: a repository export did.';
COMMENT ON COLUMN pipeline.repo.status IS 'Account status (takendown, suspended, deleted, deactivated, ...); null: none.';
COMMENT ON COLUMN pipeline.repo.active IS 'Whether the account''s content is to be shown.';
COMMENT ON COLUMN pipeline.repo.account_at IS 'Time that the last account event applied states; older ones are passed over.';
COMMENT ON COLUMN pipeline.repo.updated_at IS 'When this row last changed.';

CREATE TABLE pipeline.tombstone (
    uri text PRIMARY KEY,
    rev text COLLATE "C" NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    seq bigint,
    collection text NOT NULL,
    record jsonb
);
CREATE INDEX tombstone_deleted_at_idx ON pipeline.tombstone USING brin (deleted_at) WITH (autosummarize = ON);
COMMENT ON TABLE pipeline.tombstone IS
    'Deleted records: an older rev that arrives late finds them and stays deleted. Swept when nothing so old can arrive.';
COMMENT ON COLUMN pipeline.tombstone.uri IS 'at:// URI of the record.';
COMMENT ON COLUMN pipeline.tombstone.rev IS 'Rev of the commit that deleted it.';
COMMENT ON COLUMN pipeline.tombstone.deleted_at IS 'When we applied the deletion.';
COMMENT ON COLUMN pipeline.tombstone.seq IS 'Sequence number of the deleting event; null: a repository export lacked the record.';
COMMENT ON COLUMN pipeline.tombstone.collection IS 'NSID of its collection.';
COMMENT ON COLUMN pipeline.tombstone.record IS
    'What judging posts as of an earlier rev needs of a deleted gate, follow or list item; null for other collections.';

CREATE TABLE pipeline.identity (
    did text PRIMARY KEY,
    handle text,
    pds text,
    signing_key text,
    doc jsonb,
    resolved_at timestamptz,
    handle_checked_at timestamptz,
    next_check_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    error text
) WITH (fillfactor = 70);
CREATE INDEX identity_next_check_at_idx ON pipeline.identity (next_check_at);
COMMENT ON TABLE pipeline.identity IS 'DID documents and handles as last resolved: the cache of resolution and its queue.';
COMMENT ON COLUMN pipeline.identity.did IS 'DID of the account.';
COMMENT ON COLUMN pipeline.identity.handle IS 'Handle, verified in both directions; null: none that verifies.';
COMMENT ON COLUMN pipeline.identity.pds IS 'URL of the account''s PDS.';
COMMENT ON COLUMN pipeline.identity.signing_key IS 'Key that signs the repository''s commits (did:key multibase).';
COMMENT ON COLUMN pipeline.identity.doc IS 'The DID document.';
COMMENT ON COLUMN pipeline.identity.resolved_at IS 'When the document was last fetched; null: never.';
COMMENT ON COLUMN pipeline.identity.handle_checked_at IS 'When the handle was last verified; null: never.';
COMMENT ON COLUMN pipeline.identity.next_check_at IS 'When to resolve it again.';
COMMENT ON COLUMN pipeline.identity.attempts IS 'Failures since the last success.';
COMMENT ON COLUMN pipeline.identity.error IS 'The last failure in words; null: the last attempt succeeded.';

CREATE TABLE pipeline.backfill_queue (
    did text PRIMARY KEY,
    reason text NOT NULL,
    priority smallint NOT NULL DEFAULT 0,
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    not_before timestamptz NOT NULL DEFAULT now(),
    claimed_until timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    error text,
    finished_at timestamptz,
    rev text COLLATE "C",
    records bigint
) WITH (fillfactor = 70);
CREATE INDEX backfill_queue_next_idx ON pipeline.backfill_queue (priority DESC, not_before) WHERE finished_at IS NULL;
COMMENT ON TABLE pipeline.backfill_queue IS 'Repositories to fetch whole, each at most once at a time, and how it went.';
COMMENT ON COLUMN pipeline.backfill_queue.did IS 'DID of the repository.';
COMMENT ON COLUMN pipeline.backfill_queue.reason IS 'Why: discovered, requested, chain, sync, gap.';
COMMENT ON COLUMN pipeline.backfill_queue.priority IS 'Higher goes first.';
COMMENT ON COLUMN pipeline.backfill_queue.enqueued_at IS 'When it was asked for.';
COMMENT ON COLUMN pipeline.backfill_queue.not_before IS 'Not to be tried before this (back-off).';
COMMENT ON COLUMN pipeline.backfill_queue.claimed_until IS 'A worker has it until then; null or past: free.';
COMMENT ON COLUMN pipeline.backfill_queue.attempts IS 'Failures so far.';
COMMENT ON COLUMN pipeline.backfill_queue.error IS 'The last failure in words; null: none.';
COMMENT ON COLUMN pipeline.backfill_queue.finished_at IS 'When it was applied or given up (then error is set); null: not yet.';
COMMENT ON COLUMN pipeline.backfill_queue.rev IS 'Rev of the repository as applied.';
COMMENT ON COLUMN pipeline.backfill_queue.records IS 'Records it had.';

-- ---------------------------------------------------------------------------------------------------------------------
-- What is not complete yet.

CREATE TABLE pipeline.pending (
    uri text NOT NULL,
    kind text NOT NULL,
    missing text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT now() + interval '24 hours',
    PRIMARY KEY (uri, kind, missing)
);
CREATE INDEX pending_missing_idx ON pipeline.pending (missing);
CREATE INDEX pending_expires_at_idx ON pipeline.pending (expires_at);
COMMENT ON TABLE pipeline.pending IS
    'What must be judged again once something missing is indexed. Only that judgement deletes the row.';
COMMENT ON COLUMN pipeline.pending.uri IS 'at:// URI of the record that depends on it.';
COMMENT ON COLUMN pipeline.pending.kind IS 'What is to be judged again (reply, quote, gate, ...).';
COMMENT ON COLUMN pipeline.pending.missing IS 'at:// URI or DID of what is missing.';
COMMENT ON COLUMN pipeline.pending.since IS 'When it was found missing.';
COMMENT ON COLUMN pipeline.pending.attempts IS 'How often it was fetched in vain.';
COMMENT ON COLUMN pipeline.pending.expires_at IS 'After this it is no longer fetched; it is still judged should it arrive.';

CREATE TABLE pipeline.dead_letter (
    id bigserial PRIMARY KEY,
    fingerprint bytea NOT NULL UNIQUE,
    source text NOT NULL,
    seq bigint,
    did text,
    path text,
    kind text NOT NULL,
    reason text NOT NULL,
    bytes bytea,
    byte_length integer,
    first_seen timestamptz NOT NULL DEFAULT now(),
    retried_at timestamptz,
    resolved_at timestamptz
);
CREATE INDEX dead_letter_first_seen_idx ON pipeline.dead_letter (first_seen);
CREATE INDEX dead_letter_kind_idx ON pipeline.dead_letter (kind, first_seen);
COMMENT ON TABLE pipeline.dead_letter IS
    'What upstream sent and we could not index: a frame, a commit or one record of it. Its neighbours were indexed.';
COMMENT ON COLUMN pipeline.dead_letter.id IS 'Names the letter for a retry.';
COMMENT ON COLUMN pipeline.dead_letter.fingerprint IS 'Hash of seq, path and bytes: the same thing delivered again adds no row.';
COMMENT ON COLUMN pipeline.dead_letter.source IS 'URL of the relay, PDS or labeler, or the file replayed.';
COMMENT ON COLUMN pipeline.dead_letter.seq IS 'Sequence number of the event; null: unreadable, or the source has none.';
COMMENT ON COLUMN pipeline.dead_letter.did IS 'Repository; null: unreadable.';
COMMENT ON COLUMN pipeline.dead_letter.path IS 'Collection and record key; null: the whole frame or commit.';
COMMENT ON COLUMN pipeline.dead_letter.kind IS 'Short code of the reason, for counting.';
COMMENT ON COLUMN pipeline.dead_letter.reason IS 'The reason in words.';
COMMENT ON COLUMN pipeline.dead_letter.bytes IS 'The offending bytes, cut at APPVIEW_DEAD_LETTER_BYTES; null: none were at hand.';
COMMENT ON COLUMN pipeline.dead_letter.byte_length IS 'How many bytes there were before the cut.';
COMMENT ON COLUMN pipeline.dead_letter.first_seen IS 'When it was first met.';
COMMENT ON COLUMN pipeline.dead_letter.retried_at IS 'When it was last tried again; null: never.';
COMMENT ON COLUMN pipeline.dead_letter.resolved_at IS 'When a retry succeeded; null: not yet.';

CREATE TABLE pipeline.dead_letter_overflow (
    kind text NOT NULL,
    minute timestamptz NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (kind, minute)
);
COMMENT ON TABLE pipeline.dead_letter_overflow IS
    'Dead letters beyond APPVIEW_DEAD_LETTERS_PER_MINUTE: only counted, so that a flood can''t fill the disk.';
COMMENT ON COLUMN pipeline.dead_letter_overflow.kind IS 'Kind of dead letter.';
COMMENT ON COLUMN pipeline.dead_letter_overflow.minute IS 'The minute, its start.';
COMMENT ON COLUMN pipeline.dead_letter_overflow.count IS 'Letters not stored.';

CREATE TABLE pipeline.gap (
    id bigserial PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('sequence', 'outdated_cursor', 'chain', 'sync', 'missing_parent', 'fetch')),
    did text,
    relay text,
    from_text text COLLATE "C",
    to_text text COLLATE "C",
    detected_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    CONSTRAINT gap_once UNIQUE NULLS NOT DISTINCT (kind, did, relay, from_text, to_text)
);
CREATE INDEX gap_open_idx ON pipeline.gap (kind, detected_at) WHERE resolved_at IS NULL;
CREATE INDEX gap_did_idx ON pipeline.gap (did) WHERE did IS NOT NULL;
COMMENT ON TABLE pipeline.gap IS 'Everything known to be missing; a job works it off. Found again, a gap is the same row.';
COMMENT ON COLUMN pipeline.gap.id IS 'Names the gap.';
COMMENT ON COLUMN pipeline.gap.kind IS
    'sequence: numbers left out; outdated_cursor: older than the relay keeps; chain: a commit does not follow the one we have; '
    'sync: the relay announced a repository reset; missing_parent, fetch: something could not be fetched.';
COMMENT ON COLUMN pipeline.gap.did IS 'Repository; null: the whole stream.';
COMMENT ON COLUMN pipeline.gap.relay IS 'Stream; null: not a matter of a stream.';
COMMENT ON COLUMN pipeline.gap.from_text IS 'Last rev or sequence number (decimal) before the gap; for missing_parent, the URI.';
COMMENT ON COLUMN pipeline.gap.to_text IS 'First rev or sequence number (decimal) after it; null: open.';
COMMENT ON COLUMN pipeline.gap.detected_at IS 'When it was found.';
COMMENT ON COLUMN pipeline.gap.resolved_at IS 'When it was closed; null: still open.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Labels and settings.

CREATE TABLE pipeline.label_definition (
    src text NOT NULL,
    val text NOT NULL,
    severity text,
    blurs text,
    default_setting text,
    adult_only boolean NOT NULL DEFAULT false,
    locales jsonb NOT NULL DEFAULT '[]',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (src, val)
);
COMMENT ON TABLE pipeline.label_definition IS
    'What each labeler says its labels mean (app.bsky.labeler.service), and our own definitions.';
COMMENT ON COLUMN pipeline.label_definition.src IS 'DID of the labeler.';
COMMENT ON COLUMN pipeline.label_definition.val IS 'The label''s value.';
COMMENT ON COLUMN pipeline.label_definition.severity IS 'inform, alert or none.';
COMMENT ON COLUMN pipeline.label_definition.blurs IS 'content, media or none.';
COMMENT ON COLUMN pipeline.label_definition.default_setting IS 'ignore, warn or hide.';
COMMENT ON COLUMN pipeline.label_definition.adult_only IS 'Whether it is shown only to those who enabled adult content.';
COMMENT ON COLUMN pipeline.label_definition.locales IS 'Names and descriptions: [{"lang", "name", "description"}].';
COMMENT ON COLUMN pipeline.label_definition.updated_at IS 'When it last changed.';

CREATE TABLE pipeline.label_event (
    id bigserial PRIMARY KEY,
    src text NOT NULL,
    uri text NOT NULL,
    cid text NOT NULL DEFAULT '',
    val text NOT NULL,
    neg boolean NOT NULL DEFAULT false,
    cts text NOT NULL,
    exp text,
    seq bigint,
    sig bytea,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX label_event_uri_idx ON pipeline.label_event (uri);
CREATE INDEX label_event_received_at_idx ON pipeline.label_event USING brin (received_at) WITH (autosummarize = ON);
COMMENT ON TABLE pipeline.label_event IS
    'Every label and negation applied, in order of application: the history behind bsky.label, and what is broadcast.';
COMMENT ON COLUMN pipeline.label_event.id IS 'Order of application; cursor of those who listen.';
COMMENT ON COLUMN pipeline.label_event.src IS 'DID of the labeler.';
COMMENT ON COLUMN pipeline.label_event.uri IS 'at:// URI or DID that is labeled.';
COMMENT ON COLUMN pipeline.label_event.cid IS 'Version of the record that is meant; empty: any.';
COMMENT ON COLUMN pipeline.label_event.val IS 'The label''s value.';
COMMENT ON COLUMN pipeline.label_event.neg IS 'Whether it takes the label back.';
COMMENT ON COLUMN pipeline.label_event.cts IS 'When the labeler made it (ISO text, as signed).';
COMMENT ON COLUMN pipeline.label_event.exp IS 'When it expires (ISO text, as signed); null: never.';
COMMENT ON COLUMN pipeline.label_event.seq IS 'Sequence number in the labeler''s stream; null: made here.';
COMMENT ON COLUMN pipeline.label_event.sig IS 'The labeler''s signature.';
COMMENT ON COLUMN pipeline.label_event.received_at IS 'When we applied it.';

CREATE TABLE pipeline.actor_setting (
    did text PRIMARY KEY,
    data_collection_forbidden boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pipeline.actor_setting IS 'What an account, or the operator for it, asked of this pipeline.';
COMMENT ON COLUMN pipeline.actor_setting.did IS 'DID of the account.';
COMMENT ON COLUMN pipeline.actor_setting.data_collection_forbidden IS
    'Nothing of the account is indexed, whatever way it arrives.';
COMMENT ON COLUMN pipeline.actor_setting.updated_at IS 'When it last changed.';
