-- What else follows from the history (0003_history.sql), asked for by statements of sql/apply/.

-- Whether a gate named a post once. Only a state of it proves that; a deletion may be that of a gate that was refused.
create function pipeline.had_gate(post_uri text, gate_uri text)
returns boolean
language sql stable
begin atomic
    select false
    from pipeline.version v
    where v.uri = gate_uri and not v.deleted and v.record ->> 'post' = post_uri
    limit 1;
end;
comment on function pipeline.had_gate is 'False if a gate that is gone named the post, else null: as post."hasThreadGate".';

comment on table pipeline.version is 'Events of records that are not the current state of their record.';
comment on column pipeline.version.fact is
    'Of a follow "<follower> <followed>", of a list item "<list> <member>", of a verification, like or repost the same after "verified", "like", "repost".';
comment on column pipeline.version.record is
    'Of a gate or declaration: the record. Of a verification, like, repost or follow: "sortAt" and what else its notification has. Of another record: itself if it has a reply, allow or hiddenReplies.';

-- As in 0003_history.sql, now that other records have versions too.
create or replace function pipeline.post_as_of(of_uri text, of_rev text)
returns table (rev text, root text, parent text, invalid boolean, mentions jsonb)
language sql stable
begin atomic
    select e.rev, e.root, e.parent, e.invalid, e.mentions
    from (
        select r.rev, p."replyRoot" as root, p."replyParent" as parent, p."invalidReplyRoot" as invalid,
            null::jsonb as mentions, false as deleted
        from bsky.post p
        join bsky.record r using (uri)
        where p.uri = of_uri and r.rev <= of_rev collate "C"
        union all
        select v.rev, v.root, v.parent, v.invalid, v.mentions, v.deleted
        from pipeline.version v
        where v.uri = of_uri and v.rev <= of_rev collate "C" and v.collection = 'app.bsky.feed.post'
        order by 1 desc
        limit 1
    ) e
    where not e.deleted;
end;

-- What a reply names as its parent, as of a rev. A post, usually; but a reply to a list, a feed generator or any other
-- record is valid just as well.
create function pipeline.parent_as_of(of_uri text, of_rev text)
returns table (rev text, root text, parent text, invalid boolean)
language sql stable
begin atomic
    select p.rev, p.root, p.parent, p.invalid
    from pipeline.post_as_of(of_uri, of_rev) p
    where split_part(of_uri, '/', 4) = 'app.bsky.feed.post'
    union all
    select e.rev, e.record #>> '{reply,root,uri}',
        case when e.record -> 'reply' in ('null', 'false', '0', '""') then null else e.record ->> 'reply' end,
        null::boolean
    from (
        select r.rev, r.json::jsonb as record, false as deleted
        from bsky.record r
        where r.uri = of_uri and r.rev <= of_rev collate "C"
        union all
        select v.rev, v.record, v.deleted
        from pipeline.version v
        where v.uri = of_uri and v.rev <= of_rev collate "C"
        order by 1 desc
        limit 1
    ) e
    where split_part(of_uri, '/', 4) <> 'app.bsky.feed.post' and not e.deleted;
end;
comment on function pipeline.parent_as_of is
    'The state of any record as of a rev, no row if it did not exist: what it replies to, if anything.';

-- Where the thread gate of a root is looked for: under the root's own key if that is a post, else the root is taken for it
-- (the reference does so, and it rarely has an `allow`).
create function pipeline.thread_gate_of(root text)
returns text
language sql immutable
begin atomic
    select case
        when split_part(root, '/', 4) = 'app.bsky.feed.post'
            then 'at://' || split_part(root, '/', 3) || '/app.bsky.feed.threadgate/' || split_part(root, '/', 5)
        else root
    end;
end;
comment on function pipeline.thread_gate_of is 'URI under which the thread gate of a root is looked for.';

create table pipeline.reply_to_other (
    subject text not null,
    uri text not null,
    rev text collate "C" not null,
    primary key (subject, uri, rev)
);
create index reply_to_other_rev_idx on pipeline.reply_to_other (rev);
comment on table pipeline.reply_to_other is
    'Replies whose parent or root is no post: judged again when an event of that arrives late. They are rare.';
comment on column pipeline.reply_to_other.subject is 'at:// URI of the parent or root.';
comment on column pipeline.reply_to_other.uri is 'at:// URI of the reply.';
comment on column pipeline.reply_to_other.rev is 'Rev of the commit that wrote this state of the reply.';
insert into pipeline.reply_to_other (subject, uri, rev)
select distinct s.subject, p.uri, coalesce(r.rev, split_part(p.uri, '/', 5))
from bsky.post p
join bsky.record r using (uri)
cross join lateral (values (p."replyParent"), (p."replyRoot")) s (subject)
where split_part(s.subject, '/', 4) <> 'app.bsky.feed.post';
