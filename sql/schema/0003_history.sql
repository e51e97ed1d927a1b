-- History: what was, for those records by which others are judged.
--
-- A reply or quote is judged by what existed at its own rev: parent, root, gate, follows, list items (docs/architecture.md).
-- Most of that is what exists now and stands in schema bsky. What has been replaced or deleted since, or came after
-- something newer, stands here. Together they are the set of all events of those records, in whatever order they came.
--
-- Guarantees: (uri, rev) is one event, written once; the state of a record as of a rev is its newest event up to it.

create table pipeline.version (
    uri text not null,
    rev text collate "C" not null,
    collection text not null,
    deleted boolean not null,
    root text,
    parent text,
    invalid boolean,
    mentions jsonb,
    fact text,
    record jsonb,
    primary key (uri, rev)
);
create index version_parent_idx on pipeline.version (parent) where parent is not null;
create index version_fact_idx on pipeline.version (fact) where fact is not null;
comment on table pipeline.version is
    'Events of posts, gates, follows and list items that are not the current state of their record.';
comment on column pipeline.version.uri is 'at:// URI of the record.';
comment on column pipeline.version.rev is 'Rev of the commit that wrote or deleted it.';
comment on column pipeline.version.collection is 'NSID of its collection.';
comment on column pipeline.version.deleted is 'Whether the event deleted the record; the columns below are null then.';
comment on column pipeline.version.root is 'Of a reply: URI of the root it names.';
comment on column pipeline.version.parent is 'Of a reply: URI of the post it replies to.';
comment on column pipeline.version.invalid is 'Of a post: whether it is no valid reply, as post."invalidReplyRoot".';
comment on column pipeline.version.mentions is 'Of a post: array of the DIDs that its facets mention.';
comment on column pipeline.version.fact is 'Of a follow "<follower> <followed>", of a list item "<list> <member>".';
comment on column pipeline.version.record is 'Of a gate: the record.';

create table pipeline.dependency (
    fact text not null,
    uri text not null,
    primary key (fact, uri)
);
comment on table pipeline.dependency is
    'Replies whose thread gate asks for a follow or a list item: judged again when such an event arrives late.';
comment on column pipeline.dependency.fact is 'As version.fact.';
comment on column pipeline.dependency.uri is 'at:// URI of the reply.';

-- All replies of a thread, for gates that arrive late.
create index post_reply_root_idx on bsky.post ("replyRoot") where "replyRoot" is not null;

-- Who subscribed to an author's posts.
create index activity_subscription_subject_idx on bsky.activity_subscription ("subjectDid");

-- A post as of a rev: no row when it did not exist then.
create function pipeline.post_as_of(of_uri text, of_rev text)
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
        where v.uri = of_uri and v.rev <= of_rev collate "C"
        order by 1 desc
        limit 1
    ) e
    where not e.deleted;
end;
comment on function pipeline.post_as_of is
    'The state of a post as of a rev, no row if it did not exist. mentions is null for the current state: see record.';

-- The replies to a post, alive or not.
create function pipeline.replies_to(of_uri text)
returns table (uri text, rev text, live boolean)
language sql stable
begin atomic
    select p.uri, r.rev, true
    from bsky.post p
    join bsky.record r using (uri)
    where p."replyParent" = of_uri
    union all
    select v.uri, v.rev, false
    from pipeline.version v
    where v.parent = of_uri
    offset 0;
end;
comment on function pipeline.replies_to is 'Replies to a post: live ones and past versions.';

-- Any of the other records as of a rev.
create function pipeline.record_as_of(of_uri text, of_rev text)
returns table (record jsonb)
language sql stable
begin atomic
    select e.record
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
    where not e.deleted;
end;
comment on function pipeline.record_as_of is 'A gate record as of a rev, no row if it did not exist.';

-- Whether a past event said `of_fact` and nothing had changed it by `of_rev`.
create function pipeline.fact_in_history(of_fact text, of_rev text)
returns boolean
language sql stable
begin atomic
    select exists (
        select
        from pipeline.version v
        where v.fact = of_fact
            and v.rev <= of_rev collate "C"
            and not exists (
                select
                from pipeline.version later
                where later.uri = v.uri and later.rev > v.rev and later.rev <= of_rev collate "C"
            )
            and not exists (
                select
                from bsky.record r
                where r.uri = v.uri and r.rev > v.rev and r.rev <= of_rev collate "C"
            )
    );
end;

create function pipeline.follows_as_of(follower text, followed text, of_rev text)
returns boolean
language sql stable
begin atomic
    select exists (
        select
        from bsky.follow f
        join bsky.record r using (uri)
        where f.creator = follower and f."subjectDid" = followed and r.rev <= of_rev collate "C"
    )
    or pipeline.fact_in_history(follower || ' ' || followed, of_rev);
end;
comment on function pipeline.follows_as_of is 'Whether one account followed another as of a rev.';

create function pipeline.listed_as_of(list text, member text, of_rev text)
returns boolean
language sql stable
begin atomic
    select exists (
        select
        from bsky.list_item i
        join bsky.record r using (uri)
        where i."listUri" = list and i."subjectDid" = member and r.rev <= of_rev collate "C"
    )
    or pipeline.fact_in_history(list || ' ' || member, of_rev);
end;
comment on function pipeline.listed_as_of is 'Whether an account was on a list as of a rev.';
