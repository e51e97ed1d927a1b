-- Our own tables: where the streams stand, what is known of every repository, and everything that is not yet right.
--
-- Guarantees: a cursor row moves in the transaction of the batch it stands for; a row in dead_letter, gap or pending is
-- the same row however often its cause is delivered again. Times are timestamptz. Revs compare by byte ("C"), as TIDs
-- must; URIs and DIDs keep the database's collation, because they are joined to schema bsky through its indexes.

create schema if not exists pipeline;
comment on schema pipeline is
    'State of appview-pipeline: cursors, sync state of repositories, dead letters, gaps, queues.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Streams.

create table pipeline.cursor (
    relay text not null,
    shard text not null default '0/1',
    seq bigint not null,
    updated_at timestamptz not null default now(),
    primary key (relay, shard)
) with (fillfactor = 70);
comment on table pipeline.cursor is
    'How far each stream is applied: everything up to seq is in the tables. Advanced by compare-and-set in the batch.';
comment on column pipeline.cursor.relay is 'URL of the relay or labeler, without path (wss://host).';
comment on column pipeline.cursor.shard is 'Which part of the stream, "i/n" by hash of the DID; "0/1" is all of it.';
comment on column pipeline.cursor.seq is 'Sequence number of the last event applied.';
comment on column pipeline.cursor.updated_at is 'When the cursor last moved.';

create table pipeline.batch (
    id bigserial primary key,
    source text not null,
    shard text not null default '0/1',
    first_seq bigint,
    last_seq bigint,
    frames integer not null default 0,
    events integer not null default 0,
    ops jsonb not null default '{}',
    written jsonb not null default '{}',
    rejected integer not null default 0,
    rejected_by_kind jsonb not null default '{}',
    ignored jsonb not null default '{}',
    stale integer not null default 0,
    bytes bigint not null default 0,
    relay_time timestamptz,
    received_at timestamptz,
    applied_at timestamptz not null default clock_timestamp(),
    decode_ms real,
    apply_ms real
);
create index batch_applied_at_idx on pipeline.batch (applied_at);
comment on table pipeline.batch is
    'One row per micro-batch, written in its transaction: what the sensor reports from. Swept after some days.';
comment on column pipeline.batch.id is 'Grows with every batch; reporters remember the last one they reported.';
comment on column pipeline.batch.source is 'URL of the relay, or the file replayed.';
comment on column pipeline.batch.shard is 'Shard of the stream, as in cursor.';
comment on column pipeline.batch.first_seq is 'Sequence number of the first event; null: the source has none.';
comment on column pipeline.batch.last_seq is 'Sequence number of the last event; null: the source has none.';
comment on column pipeline.batch.frames is 'Frames read.';
comment on column pipeline.batch.events is 'Events decoded from them.';
comment on column pipeline.batch.ops is 'Operations applied: {"<collection>": {"create": n, "update": n, "delete": n}}.';
comment on column pipeline.batch.written is 'Rows inserted, updated or deleted: {"<table>": n}.';
comment on column pipeline.batch.rejected is 'Frames, events and records that became dead letters.';
comment on column pipeline.batch.rejected_by_kind is 'The same by kind of dead letter: {"<kind>": n}.';
comment on column pipeline.batch.ignored is 'Operations of collections that are not indexed: {"<collection>": n}.';
comment on column pipeline.batch.stale is 'Events passed over because a newer rev of the repository was already applied.';
comment on column pipeline.batch.bytes is 'Bytes of the frames.';
comment on column pipeline.batch.relay_time is 'Newest time that an event states; null: none does.';
comment on column pipeline.batch.received_at is 'When the last frame was received.';
comment on column pipeline.batch.applied_at is 'When the batch was written, a moment before its commit.';
comment on column pipeline.batch.decode_ms is 'Milliseconds spent decoding and checking.';
comment on column pipeline.batch.apply_ms is 'Milliseconds spent in the database.';

create table pipeline.ignored_collection (
    collection text primary key,
    creates bigint not null default 0,
    updates bigint not null default 0,
    deletes bigint not null default 0,
    first_seen timestamptz not null default now(),
    last_seen timestamptz not null default now()
) with (fillfactor = 70);
comment on table pipeline.ignored_collection is 'Every collection that is not indexed, counted by name.';
comment on column pipeline.ignored_collection.collection is 'NSID of the collection.';
comment on column pipeline.ignored_collection.creates is 'Records created.';
comment on column pipeline.ignored_collection.updates is 'Records updated.';
comment on column pipeline.ignored_collection.deletes is 'Records deleted.';
comment on column pipeline.ignored_collection.first_seen is 'When it was first met.';
comment on column pipeline.ignored_collection.last_seen is 'When it was last met.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Repositories.

create table pipeline.repo (
    did text primary key,
    rev text collate "C",
    chain_from text collate "C",
    commit_cid text,
    data_cid text,
    seq bigint,
    status text,
    active boolean not null default true,
    account_at timestamptz,
    updated_at timestamptz not null default now()
) with (fillfactor = 70);
comment on table pipeline.repo is
    'Sync state of every repository met. Locked first, in order of DID, by whoever applies something of it.';
comment on column pipeline.repo.did is 'DID of the account.';
comment on column pipeline.repo.rev is 'Newest rev applied; null: nothing of the repository yet.';
comment on column pipeline.repo.chain_from is
    'Oldest rev from which every commit up to rev was applied without a break: any rev in between is known to be applied.';
comment on column pipeline.repo.commit_cid is 'CID of the commit at rev.';
comment on column pipeline.repo.data_cid is 'CID of the tree''s root at rev: what the next commit must name as prevData.';
comment on column pipeline.repo.seq is 'Sequence number of the event that brought rev; null: a repository export did.';
comment on column pipeline.repo.status is 'Account status (takendown, suspended, deleted, deactivated, ...); null: none.';
comment on column pipeline.repo.active is 'Whether the account''s content is to be shown.';
comment on column pipeline.repo.account_at is 'Time that the last account event applied states; older ones are passed over.';
comment on column pipeline.repo.updated_at is 'When this row last changed.';

create table pipeline.tombstone (
    uri text primary key,
    rev text collate "C" not null,
    deleted_at timestamptz not null default now(),
    seq bigint,
    collection text not null,
    record jsonb
);
create index tombstone_deleted_at_idx on pipeline.tombstone using brin (deleted_at) with (autosummarize = on);
comment on table pipeline.tombstone is
    'Deleted records: an older rev that arrives late finds them and stays deleted. Swept when nothing so old can arrive.';
comment on column pipeline.tombstone.uri is 'at:// URI of the record.';
comment on column pipeline.tombstone.rev is 'Rev of the commit that deleted it.';
comment on column pipeline.tombstone.deleted_at is 'When we applied the deletion.';
comment on column pipeline.tombstone.seq is 'Sequence number of the deleting event; null: a repository export lacked the record.';
comment on column pipeline.tombstone.collection is 'NSID of its collection.';
comment on column pipeline.tombstone.record is
    'What judging posts as of an earlier rev needs of a deleted gate, follow or list item; null for other collections.';

create table pipeline.identity (
    did text primary key,
    handle text,
    pds text,
    signing_key text,
    doc jsonb,
    resolved_at timestamptz,
    handle_checked_at timestamptz,
    next_check_at timestamptz not null default now(),
    attempts integer not null default 0,
    error text
) with (fillfactor = 70);
create index identity_next_check_at_idx on pipeline.identity (next_check_at);
comment on table pipeline.identity is 'DID documents and handles as last resolved: the cache of resolution and its queue.';
comment on column pipeline.identity.did is 'DID of the account.';
comment on column pipeline.identity.handle is 'Handle, verified in both directions; null: none that verifies.';
comment on column pipeline.identity.pds is 'URL of the account''s PDS.';
comment on column pipeline.identity.signing_key is 'Key that signs the repository''s commits (did:key multibase).';
comment on column pipeline.identity.doc is 'The DID document.';
comment on column pipeline.identity.resolved_at is 'When the document was last fetched; null: never.';
comment on column pipeline.identity.handle_checked_at is 'When the handle was last verified; null: never.';
comment on column pipeline.identity.next_check_at is 'When to resolve it again.';
comment on column pipeline.identity.attempts is 'Failures since the last success.';
comment on column pipeline.identity.error is 'The last failure in words; null: the last attempt succeeded.';

create table pipeline.backfill_queue (
    did text primary key,
    reason text not null,
    priority smallint not null default 0,
    enqueued_at timestamptz not null default now(),
    not_before timestamptz not null default now(),
    claimed_until timestamptz,
    attempts integer not null default 0,
    error text,
    finished_at timestamptz,
    rev text collate "C",
    records bigint
) with (fillfactor = 70);
create index backfill_queue_next_idx on pipeline.backfill_queue (priority desc, not_before) where finished_at is null;
comment on table pipeline.backfill_queue is 'Repositories to fetch whole, each at most once at a time, and how it went.';
comment on column pipeline.backfill_queue.did is 'DID of the repository.';
comment on column pipeline.backfill_queue.reason is 'Why: discovered, requested, chain, sync, gap.';
comment on column pipeline.backfill_queue.priority is 'Higher goes first.';
comment on column pipeline.backfill_queue.enqueued_at is 'When it was asked for.';
comment on column pipeline.backfill_queue.not_before is 'Not to be tried before this (back-off).';
comment on column pipeline.backfill_queue.claimed_until is 'A worker has it until then; null or past: free.';
comment on column pipeline.backfill_queue.attempts is 'Failures so far.';
comment on column pipeline.backfill_queue.error is 'The last failure in words; null: none.';
comment on column pipeline.backfill_queue.finished_at is 'When it was applied or given up (then error is set); null: not yet.';
comment on column pipeline.backfill_queue.rev is 'Rev of the repository as applied.';
comment on column pipeline.backfill_queue.records is 'Records it had.';

-- ---------------------------------------------------------------------------------------------------------------------
-- What is not yet right.

create table pipeline.pending (
    uri text not null,
    kind text not null,
    missing text not null,
    since timestamptz not null default now(),
    attempts integer not null default 0,
    expires_at timestamptz not null default now() + interval '24 hours',
    primary key (uri, kind, missing)
);
create index pending_missing_idx on pipeline.pending (missing);
create index pending_expires_at_idx on pipeline.pending (expires_at);
comment on table pipeline.pending is
    'What must be judged again once something missing is indexed. Only that judgement deletes the row.';
comment on column pipeline.pending.uri is 'at:// URI of the record that depends on it.';
comment on column pipeline.pending.kind is 'What is to be judged again (reply, quote, gate, ...).';
comment on column pipeline.pending.missing is 'at:// URI or DID of what is missing.';
comment on column pipeline.pending.since is 'When it was found missing.';
comment on column pipeline.pending.attempts is 'How often it was fetched in vain.';
comment on column pipeline.pending.expires_at is 'After this it is no longer fetched; it is still judged should it arrive.';

create table pipeline.dead_letter (
    id bigserial primary key,
    fingerprint bytea not null unique,
    source text not null,
    seq bigint,
    did text,
    path text,
    kind text not null,
    reason text not null,
    bytes bytea,
    byte_length integer,
    first_seen timestamptz not null default now(),
    retried_at timestamptz,
    resolved_at timestamptz
);
create index dead_letter_first_seen_idx on pipeline.dead_letter (first_seen);
create index dead_letter_kind_idx on pipeline.dead_letter (kind, first_seen);
comment on table pipeline.dead_letter is
    'What upstream sent and we could not index: a frame, a commit or one record of it. Its neighbours were indexed.';
comment on column pipeline.dead_letter.id is 'Names the letter for a retry.';
comment on column pipeline.dead_letter.fingerprint is 'Hash of seq, path and bytes: the same thing delivered again adds no row.';
comment on column pipeline.dead_letter.source is 'URL of the relay, PDS or labeler, or the file replayed.';
comment on column pipeline.dead_letter.seq is 'Sequence number of the event; null: unreadable, or the source has none.';
comment on column pipeline.dead_letter.did is 'Repository; null: unreadable.';
comment on column pipeline.dead_letter.path is 'Collection and record key; null: the whole frame or commit.';
comment on column pipeline.dead_letter.kind is 'Short code of the reason, for counting.';
comment on column pipeline.dead_letter.reason is 'The reason in words.';
comment on column pipeline.dead_letter.bytes is 'The offending bytes, cut at APPVIEW_DEAD_LETTER_BYTES; null: none were at hand.';
comment on column pipeline.dead_letter.byte_length is 'How many bytes there were before the cut.';
comment on column pipeline.dead_letter.first_seen is 'When it was first met.';
comment on column pipeline.dead_letter.retried_at is 'When it was last tried again; null: never.';
comment on column pipeline.dead_letter.resolved_at is 'When a retry succeeded; null: not yet.';

create table pipeline.dead_letter_overflow (
    kind text not null,
    minute timestamptz not null,
    count bigint not null,
    primary key (kind, minute)
);
comment on table pipeline.dead_letter_overflow is
    'Dead letters beyond APPVIEW_DEAD_LETTERS_PER_MINUTE: only counted, so that a flood can''t fill the disk.';
comment on column pipeline.dead_letter_overflow.kind is 'Kind of dead letter.';
comment on column pipeline.dead_letter_overflow.minute is 'The minute, its start.';
comment on column pipeline.dead_letter_overflow.count is 'Letters not stored.';

create table pipeline.gap (
    id bigserial primary key,
    kind text not null check (kind in ('sequence', 'outdated_cursor', 'chain', 'sync', 'missing_parent', 'fetch')),
    did text,
    relay text,
    from_text text collate "C",
    to_text text collate "C",
    detected_at timestamptz not null default now(),
    resolved_at timestamptz,
    constraint gap_once unique nulls not distinct (kind, did, relay, from_text, to_text)
);
create index gap_open_idx on pipeline.gap (kind, detected_at) where resolved_at is null;
create index gap_did_idx on pipeline.gap (did) where did is not null;
comment on table pipeline.gap is 'Everything known to be missing; a job works it off. Found again, a gap is the same row.';
comment on column pipeline.gap.id is 'Names the gap.';
comment on column pipeline.gap.kind is
    'sequence: numbers left out; outdated_cursor: older than the relay keeps; chain: a commit does not follow the one we have; '
    'sync: the relay announced a repository reset; missing_parent, fetch: something could not be fetched.';
comment on column pipeline.gap.did is 'Repository; null: the whole stream.';
comment on column pipeline.gap.relay is 'Stream; null: not a matter of a stream.';
comment on column pipeline.gap.from_text is 'Last rev or sequence number (decimal) before the gap; for missing_parent, the URI.';
comment on column pipeline.gap.to_text is 'First rev or sequence number (decimal) after it; null: open.';
comment on column pipeline.gap.detected_at is 'When it was found.';
comment on column pipeline.gap.resolved_at is 'When it was closed; null: still open.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Labels and settings.

create table pipeline.label_definition (
    src text not null,
    val text not null,
    severity text,
    blurs text,
    default_setting text,
    adult_only boolean not null default false,
    locales jsonb not null default '[]',
    updated_at timestamptz not null default now(),
    primary key (src, val)
);
comment on table pipeline.label_definition is
    'What each labeler says its labels mean (app.bsky.labeler.service), and our own definitions.';
comment on column pipeline.label_definition.src is 'DID of the labeler.';
comment on column pipeline.label_definition.val is 'The label''s value.';
comment on column pipeline.label_definition.severity is 'inform, alert or none.';
comment on column pipeline.label_definition.blurs is 'content, media or none.';
comment on column pipeline.label_definition.default_setting is 'ignore, warn or hide.';
comment on column pipeline.label_definition.adult_only is 'Whether it is shown only to those who enabled adult content.';
comment on column pipeline.label_definition.locales is 'Names and descriptions: [{"lang", "name", "description"}].';
comment on column pipeline.label_definition.updated_at is 'When it last changed.';

create table pipeline.label_event (
    id bigserial primary key,
    src text not null,
    uri text not null,
    cid text not null default '',
    val text not null,
    neg boolean not null default false,
    cts text not null,
    exp text,
    seq bigint,
    sig bytea,
    received_at timestamptz not null default now()
);
create index label_event_uri_idx on pipeline.label_event (uri);
create index label_event_received_at_idx on pipeline.label_event using brin (received_at) with (autosummarize = on);
comment on table pipeline.label_event is
    'Every label and negation applied, in order of application: the history behind bsky.label, and what is broadcast.';
comment on column pipeline.label_event.id is 'Order of application; cursor of those who listen.';
comment on column pipeline.label_event.src is 'DID of the labeler.';
comment on column pipeline.label_event.uri is 'at:// URI or DID that is labeled.';
comment on column pipeline.label_event.cid is 'Version of the record that is meant; empty: any.';
comment on column pipeline.label_event.val is 'The label''s value.';
comment on column pipeline.label_event.neg is 'Whether it takes the label back.';
comment on column pipeline.label_event.cts is 'When the labeler made it (ISO text, as signed).';
comment on column pipeline.label_event.exp is 'When it expires (ISO text, as signed); null: never.';
comment on column pipeline.label_event.seq is 'Sequence number in the labeler''s stream; null: made here.';
comment on column pipeline.label_event.sig is 'The labeler''s signature.';
comment on column pipeline.label_event.received_at is 'When we applied it.';

create table pipeline.actor_setting (
    did text primary key,
    data_collection_forbidden boolean not null default false,
    updated_at timestamptz not null default now()
);
comment on table pipeline.actor_setting is 'What an account, or the operator for it, asked of this pipeline.';
comment on column pipeline.actor_setting.did is 'DID of the account.';
comment on column pipeline.actor_setting.data_collection_forbidden is
    'Nothing of the account is indexed, whatever way it arrives.';
comment on column pipeline.actor_setting.updated_at is 'When it last changed.';
