-- What reruns and retries need to know: whom records told in a way that can't be told from what they say now, where the
-- rotating recount stands, and where a dead letter came from.

create table pipeline.silenced (
    record_uri text not null,
    did text not null,
    reason text not null,
    primary key (record_uri, did, reason)
);
comment on table pipeline.silenced is
    'Notifications not written because their recipient had muted the thread then; he may have unmuted it since.';
comment on column pipeline.silenced.record_uri is 'As notification."recordUri".';
comment on column pipeline.silenced.did is 'Who was not told.';
comment on column pipeline.silenced.reason is 'As notification.reason.';

create table pipeline.told_otherwise (
    uri text primary key
);
comment on table pipeline.told_otherwise is
    'Likes, reposts and follows that were edited, or took a duplicate''s place: whom they told is not to be read off them.';
comment on column pipeline.told_otherwise.uri is 'at:// URI of the record.';

create table pipeline.recount_position (
    name text primary key,
    after_key text not null,
    rounds bigint not null default 0,
    updated_at timestamptz not null default now()
);
comment on table pipeline.recount_position is 'How far the rotating recount of the counters has come.';
comment on column pipeline.recount_position.name is 'Table of schema bsky.';
comment on column pipeline.recount_position.after_key is 'Last key compared; empty: a round begins.';
comment on column pipeline.recount_position.rounds is 'Rounds completed: how often every counter has been compared.';
comment on column pipeline.recount_position.updated_at is 'When some were last compared.';

alter table pipeline.dead_letter
    add column form text check (form in ('frame', 'block', 'json', 'other')),
    add column rev text collate "C",
    add column cid text,
    add column action text,
    add column event_time text;
comment on column pipeline.dead_letter.form is
    'What bytes is: a frame, a record''s DAG-CBOR block, a record''s JSON, or other (not to be retried); null: not known.';
comment on column pipeline.dead_letter.rev is 'Rev of the commit, for a retry of one record of it.';
comment on column pipeline.dead_letter.cid is 'CID of the record, as the commit names it.';
comment on column pipeline.dead_letter.action is 'create or update, as the commit says.';
comment on column pipeline.dead_letter.event_time is 'Time that the event states; the record''s "indexedAt" when a retry succeeds.';
