-- Posts know their own rev, so that the replies to a post from a rev on are a range of an index.
--
-- An edit of a post affects only replies that are newer than the edit. With the rev beside the parent and the root they are
-- found without reading the older ones, of which a popular post has tens of thousands. States as of a rev are found by one
-- look-up each, however often a record was edited.

alter table bsky.post
    add column rev text collate "C";
comment on column bsky.post.rev is 'Rev of the commit that wrote this state, as record.rev.';

update bsky.post p set rev = r.rev from bsky.record r where r.uri = p.uri;

-- Posts that are no replies need no entry here; the reference asks by equality, which never finds them.
drop index bsky.post_replyparent_idx;
create index post_reply_parent_idx on bsky.post ("replyParent", rev) include (uri) where "replyParent" is not null;
drop index bsky.post_reply_root_idx;
create index post_reply_root_idx on bsky.post ("replyRoot", rev) where "replyRoot" is not null;
drop index pipeline.version_parent_idx;
create index version_parent_idx on pipeline.version (parent, rev) where parent is not null;

-- A post as of a rev: no row when it did not exist then.
create or replace function pipeline.post_as_of(of_uri text, of_rev text)
returns table (rev text, root text, parent text, invalid boolean, mentions jsonb)
language sql stable
begin atomic
    select e.rev, e.root, e.parent, e.invalid, e.mentions
    from (
        select p.rev, p."replyRoot" as root, p."replyParent" as parent, p."invalidReplyRoot" as invalid,
            null::jsonb as mentions, false as deleted
        from bsky.post p
        where p.uri = of_uri and p.rev <= of_rev collate "C"
        union all
        (
            select v.rev, v.root, v.parent, v.invalid, v.mentions, v.deleted
            from pipeline.version v
            where v.uri = of_uri and v.rev <= of_rev collate "C" and v.collection = 'app.bsky.feed.post'
            order by v.rev desc
            limit 1
        )
        order by 1 desc
        limit 1
    ) e
    where not e.deleted;
end;

-- The replies to a post, alive or not, from a rev on and before another one.
create function pipeline.replies_between(of_uri text, since text, until text)
returns table (uri text, rev text, live boolean)
language sql stable
begin atomic
    select p.uri, p.rev, true
    from bsky.post p
    where p."replyParent" = of_uri and p.rev >= since collate "C" and p.rev < until collate "C"
    union all
    select v.uri, v.rev, false
    from pipeline.version v
    where v.parent = of_uri and v.rev >= since collate "C" and v.rev < until collate "C"
    offset 0;
end;
comment on function pipeline.replies_between is
    'Replies to a post, live ones and past versions, of since <= rev < until; E''\x7f'' is later than any rev.';

-- When the next event of a post came after a rev; later than any rev when none did. (A function that returns a table is made
-- part of the query that calls it; one that returns a value and looks into a table is not.)
create function pipeline.next_rev(of_uri text, of_rev text)
returns table (rev text)
language sql stable
begin atomic
    select coalesce(least(
        (select p.rev from bsky.post p where p.uri = of_uri and p.rev > of_rev collate "C"),
        (
            select v.rev
            from pipeline.version v
            where v.uri = of_uri and v.rev > of_rev collate "C"
            order by v.rev
            limit 1
        )
    ), E'\x7f');
end;

-- Which state of a record there was as of a rev: its rev, and whether it is the current one; no row for none.
create function pipeline.state_as_of(of_uri text, of_rev text)
returns table (rev text, is_current boolean)
language sql stable
begin atomic
    select e.rev, e.is_current
    from (
        select r.rev, true as is_current, false as deleted
        from bsky.record r
        where r.uri = of_uri and r.rev <= of_rev collate "C"
        union all
        (
            select v.rev, false, v.deleted
            from pipeline.version v
            where v.uri = of_uri and v.rev <= of_rev collate "C"
            order by v.rev desc
            limit 1
        )
        order by 1 desc
        limit 1
    ) e
    where not e.deleted;
end;
comment on function pipeline.state_as_of is
    'The state of a gate, declaration or other record as of a rev. Its record is read by record_at, once for all who ask for it.';

create function pipeline.record_at(of_uri text, of_rev text, is_current boolean)
returns table (record jsonb)
language sql stable
begin atomic
    select case
        when is_current then (select r.json::jsonb from bsky.record r where r.uri = of_uri)
        else (select v.record from pipeline.version v where v.uri = of_uri and v.rev = of_rev collate "C")
    end;
end;
comment on function pipeline.record_at is 'The record of a state that state_as_of found.';

-- What a rule of a thread gate asks for; null where it asks for no follow or list item.
create function pipeline.fact_of_rule(kind text, list text, owner text, replier text)
returns text
language sql immutable
return case kind
    when 'app.bsky.feed.threadgate#followerRule' then replier || ' ' || owner
    when 'app.bsky.feed.threadgate#followingRule' then owner || ' ' || replier
    when 'app.bsky.feed.threadgate#listRule' then list || ' ' || replier
end;
comment on function pipeline.fact_of_rule is 'The fact (as version.fact) that lets an account reply by a rule of a gate.';

drop function pipeline.replies_to;
drop function pipeline.record_as_of;
drop function pipeline.parent_as_of;
drop function pipeline.follows_as_of;
drop function pipeline.listed_as_of;
drop function pipeline.fact_in_history;
