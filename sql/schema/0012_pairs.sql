-- What the history knows of likes, reposts and follows, for their notifications (sql/apply/told_pair.sql).

-- What a record says of another, as version.fact. Likes, reposts and follows.
create function pipeline.fact_of(of_uri text, body jsonb)
returns text
language sql immutable
begin atomic
    select case split_part(of_uri, '/', 4)
        when 'app.bsky.feed.like' then 'like ' || split_part(of_uri, '/', 3) || ' ' || (body #>> '{subject,uri}')
        when 'app.bsky.feed.repost' then 'repost ' || split_part(of_uri, '/', 3) || ' ' || (body #>> '{subject,uri}')
        when 'app.bsky.graph.follow' then split_part(of_uri, '/', 3) || ' ' || (body ->> 'subject')
    end;
end;
comment on function pipeline.fact_of is 'What a like, repost or follow says, as version.fact.';

-- All states, past and current, of the likes, reposts or follows of one subject by one account. (Of a current duplicate the
-- time is not known: it never notified by this state.)
create function pipeline.states_of_pair(kind text, of_creator text, of_subject text)
returns table (uri text, rev text, cid text, sort_at text, via text, fact text)
language sql stable
begin atomic
    with said as (
        select case kind
            when 'app.bsky.feed.like' then 'like ' || of_creator || ' ' || of_subject
            when 'app.bsky.feed.repost' then 'repost ' || of_creator || ' ' || of_subject
            when 'app.bsky.graph.follow' then of_creator || ' ' || of_subject
        end as fact
    ), live as materialized (
        select l.uri, l."sortAt" as sort_at, l.via from bsky."like" l
        where kind = 'app.bsky.feed.like' and l.subject = of_subject and l.creator = of_creator
        union all
        select l.uri, l."sortAt", l.via from bsky.repost l
        where kind = 'app.bsky.feed.repost' and l.subject = of_subject and l.creator = of_creator
        union all
        select l.uri, l."sortAt", null from bsky.follow l
        where kind = 'app.bsky.graph.follow' and l."subjectDid" = of_subject and l.creator = of_creator
    )
    select r.uri, coalesce(r.rev, split_part(r.uri, '/', 5)), r.cid, l.sort_at, l.via, s.fact
    from said s
    cross join live l
    join bsky.record r on r.uri = l.uri
    union all
    select r.uri, coalesce(r.rev, split_part(r.uri, '/', 5)), r.cid, null, null, s.fact
    from said s
    cross join live l
    join bsky.duplicate_record d on d."duplicateOf" = l.uri
    join bsky.record r on r.uri = d.uri
    union all
    select v.uri, v.rev, null, v.record ->> 'sortAt', v.record ->> 'via', v.fact
    from said s
    join pipeline.version v on v.fact = s.fact
    where not v.deleted and v.collection = kind;
end;
comment on function pipeline.states_of_pair is 'States, past and current, of likes, reposts or follows of a subject by an account.';

-- As in 0011_revs_of_posts.sql, but for what is no post nothing is looked up: it may have thousands of versions.
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
            where v.uri = of_uri and v.rev <= of_rev collate "C"
            order by v.rev desc
            limit 1
        )
        order by 1 desc
        limit 1
    ) e
    where not e.deleted and split_part(of_uri, '/', 4) = 'app.bsky.feed.post';
end;
