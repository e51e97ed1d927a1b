-- What is missing, written down when it happens: refused commits and records are gaps too, a stream's gaps belong to a shard,
-- and gaps close by themselves. Dead letters get a budget for each kind and day.
--
-- Guarantees: found again, a gap is the same row; of one repository or stream only so many are added a day (gap.sql).

alter table pipeline.gap
    add column shard text,
    add column links jsonb;
alter table pipeline.gap
    drop constraint gap_kind_check,
    drop constraint gap_once,
    add constraint gap_kind_check check (kind in (
        'sequence', 'outdated_cursor', 'chain', 'sync', 'commit', 'record', 'repository', 'missing_parent', 'fetch'
    )),
    add constraint gap_once unique nulls not distinct (kind, did, relay, shard, from_text, to_text);
update pipeline.gap set shard = '0/1' where relay is not null;
drop index pipeline.gap_did_idx;
create index gap_did_idx on pipeline.gap (did, detected_at) where did is not null;
create index gap_relay_idx on pipeline.gap (relay, detected_at) where relay is not null;
create index gap_resolved_idx on pipeline.gap (resolved_at) where resolved_at is not null;
comment on column pipeline.gap.kind is
    'sequence: numbers left out, or the stream went back; outdated_cursor: older than the relay keeps; chain: a commit does not '
    'follow the one we have; sync: the relay announced a repository reset; commit: a commit (or another event) of the repository '
    'was refused; record: a record of an applied commit is missing; repository: more gaps of it than are listed one by one; '
    'missing_parent, fetch: something could not be fetched.';
comment on column pipeline.gap.shard is 'Shard of the stream that found it, as in cursor; null: not a matter of a stream.';
comment on column pipeline.gap.from_text is
    'Last rev or sequence number (decimal) before the gap; for commit the rev that it follows, for record its path, for '
    'missing_parent the URI; null: unknown.';
comment on column pipeline.gap.to_text is
    'First rev or sequence number (decimal) after it; for commit and record the rev of the commit itself; null: open or unknown.';
comment on column pipeline.gap.links is
    'Of chain and sync: the commits known between both ends and these, {"<rev>": [since, prevData, data]}; once they lead from '
    'to_text to from_text nothing is missing.';

create index dead_letter_did_idx on pipeline.dead_letter (did) where resolved_at is null;

create table pipeline.dead_letter_day (
    kind text not null,
    day date not null,
    letters bigint not null,
    bytes bigint not null,
    primary key (kind, day)
) with (fillfactor = 70);
comment on table pipeline.dead_letter_day is 'Dead letters stored, by kind and day (UTC): what APPVIEW_DEAD_LETTER_DAY_BYTES limits.';
comment on column pipeline.dead_letter_day.kind is 'Kind of dead letter.';
comment on column pipeline.dead_letter_day.day is 'The day.';
comment on column pipeline.dead_letter_day.letters is 'Letters stored.';
comment on column pipeline.dead_letter_day.bytes is 'What they take: their bytes, and 500 a letter for its row and indexes.';
comment on table pipeline.dead_letter_overflow is
    'Dead letters beyond APPVIEW_DEAD_LETTERS_PER_MINUTE or APPVIEW_DEAD_LETTER_DAY_BYTES: only counted, so that a flood can''t '
    'fill the disk.';

alter table pipeline.batch
    add column skipped bigint not null default 0,
    add column doubtful integer not null default 0;
comment on column pipeline.batch.skipped is 'Sequence numbers that the relay left out; that may be legal.';
comment on column pipeline.batch.doubtful is
    'Frames whose sequence number does not fit its neighbours: they are indexed, the cursor does not move by them.';
