-- The tables that the reference AppView (@atproto/bsky, state of its 61 migrations up to 2026-09-04) reads: same names,
-- columns, types, defaults, generated columns, keys and indexes, under the reference's own constraint and index names, in
-- the reference's order of columns. Its migrator, run on this schema, finds nothing to do.
--
-- Guarantees beyond it, all of which the reference ignores:
--   record.rev, record."appliedAt" (+ BRIN)  which commit a record comes from, and when we applied it
--   notification ("recordUri", did, reason)  unique
--   fillfactor 70                            on the rows that every event updates, so that updates stay on their page (HOT)
--
-- Dates are the reference's ISO strings (UTC, milliseconds, "Z"): least() and every ("sortAt", cid) index compare them as
-- text. pg_trgm and the three trigram indexes are left out, with a notice, where the extension can't be had.

create schema bsky;
comment on schema bsky is
    'What the reference AppView (@atproto/bsky) serves from. Written by appview-pipeline; the private tables by the AppView.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Every record as it stands in its repository, and how far each repository was read.

create table bsky.record (
    uri varchar primary key,
    cid varchar not null,
    did varchar not null,
    json text not null,
    "indexedAt" varchar not null,
    "takedownRef" varchar,
    tags jsonb,
    rev varchar collate "C",  -- ours
    "appliedAt" timestamptz not null default now()  -- ours
);
create index record_did_idx on bsky.record (did);
-- Ours. Time partitions of reruns select by "appliedAt"; it grows with the table, which is what BRIN is for.
create index record_applied_at_idx on bsky.record using brin ("appliedAt") with (autosummarize = on);

create table bsky.duplicate_record (
    uri varchar primary key,
    cid varchar not null,
    "duplicateOf" varchar not null,
    "indexedAt" varchar not null
);
create index duplicate_record_duplicate_of_idx on bsky.duplicate_record ("duplicateOf");

create table bsky.actor_sync (
    did varchar primary key,
    "commitCid" varchar not null,
    "repoRev" varchar
) with (fillfactor = 70);

-- ---------------------------------------------------------------------------------------------------------------------
-- Accounts.

create table bsky.actor (
    did varchar primary key,
    handle varchar,
    "indexedAt" varchar not null,
    "takedownRef" varchar,
    "upstreamStatus" varchar,
    "trustedVerifier" boolean not null default false,
    "ageAssuranceStatus" text,
    "ageAssuranceLastInitiatedAt" varchar,
    "ageAssuranceAccess" text,
    "ageAssuranceCountryCode" text,
    "ageAssuranceRegionCode" text,
    constraint actor_handle_key unique (handle)
);

create table bsky.actor_state (
    did varchar primary key,
    "lastSeenNotifs" varchar not null,
    "priorityNotifs" boolean not null default false
);

create table bsky.profile (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "displayName" varchar,
    description varchar,
    "avatarCid" varchar,
    "bannerCid" varchar,
    "indexedAt" varchar not null,
    "joinedViaStarterPackUri" varchar,
    "createdAt" varchar not null,
    "pinnedPost" varchar,
    "pinnedPostCid" varchar
);
create index profile_creator_idx on bsky.profile (creator);
create index profile_starter_pack_joined_idx on bsky.profile ("joinedViaStarterPackUri", "createdAt");

create table bsky.profile_agg (
    did varchar primary key,
    "followersCount" bigint not null default 0,
    "followsCount" bigint not null default 0,
    "postsCount" bigint not null default 0
) with (fillfactor = 70);

create table bsky.verification (
    uri varchar primary key,
    cid varchar not null,
    rkey varchar not null,
    creator varchar not null,
    subject varchar not null,
    handle varchar not null,
    "displayName" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortedAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored,
    constraint verification_unique_subject_creator unique (subject, creator)
);

create table bsky.did_cache (
    did varchar primary key,
    doc jsonb not null,
    "updatedAt" bigint not null
);

-- ---------------------------------------------------------------------------------------------------------------------
-- Posts, what they embed, and what was done with them.

create table bsky.post (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    text varchar not null,
    "replyRoot" varchar,
    "replyRootCid" varchar,
    "replyParent" varchar,
    "replyParentCid" varchar,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored,
    langs jsonb,
    "invalidReplyRoot" boolean,
    "violatesThreadGate" boolean,
    tags jsonb,
    "violatesEmbeddingRules" boolean,
    "hasThreadGate" boolean,
    "hasPostGate" boolean
);
create index post_creator_cursor_idx on bsky.post (creator, "sortAt", cid);
create index post_order_by_idx on bsky.post ("sortAt", cid);
create index post_replyparent_idx on bsky.post ("replyParent") include (uri);

create table bsky.post_agg (
    uri varchar primary key,
    "likeCount" bigint not null default 0,
    "replyCount" bigint not null default 0,
    "repostCount" bigint not null default 0,
    "quoteCount" bigint not null default 0,
    "bookmarkCount" bigint not null default 0
) with (fillfactor = 70);

create table bsky.post_embed_image (
    "postUri" varchar not null,
    position varchar not null,
    "imageCid" varchar not null,
    alt varchar not null,
    primary key ("postUri", position)
);

create table bsky.post_embed_external (
    "postUri" varchar primary key,
    uri varchar not null,
    title varchar not null,
    description varchar not null,
    "thumbCid" varchar
);

create table bsky.post_embed_record (
    "postUri" varchar not null,
    "embedUri" varchar not null,
    "embedCid" varchar not null,
    primary key ("postUri", "embedUri")
);

create table bsky.post_embed_video (
    "postUri" varchar primary key,
    "videoCid" varchar not null,
    alt varchar
);

create table bsky.post_embed_gallery_image (
    "postUri" varchar not null,
    position varchar not null,
    "imageCid" varchar not null,
    alt varchar not null,
    primary key ("postUri", position)
);

create table bsky.quote (
    uri varchar primary key,
    cid varchar not null,
    subject varchar not null,
    "subjectCid" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored
);
create index quote_subject_cursor_idx on bsky.quote (subject, "sortAt", cid);

create table bsky."like" (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    subject varchar not null,
    "subjectCid" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored,
    via varchar,
    "viaCid" varchar,
    constraint like_unique_subject unique (subject, creator)
);
create index like_creator_cursor_idx on bsky."like" (creator, "sortAt", cid);
create index like_subject_sort_at_creator_idx on bsky."like" (subject, "sortAt" desc) include (creator);

create table bsky.repost (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    subject varchar not null,
    "subjectCid" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored,
    via varchar,
    "viaCid" varchar,
    constraint repost_unique_subject unique (creator, subject)
);
create index repost_order_by_idx on bsky.repost ("sortAt", cid);
create index repost_subject_idx on bsky.repost (subject);

create table bsky.thread_gate (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "postUri" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    constraint "thread_gate_postUri_key" unique ("postUri")
);

create table bsky.post_gate (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "postUri" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    constraint "post_gate_postUri_key" unique ("postUri")
);

create table bsky.op_thread_reply (
    "rootUri" varchar not null,
    "parentUri" varchar not null,
    uri varchar not null,
    "deletedAt" varchar,
    primary key ("rootUri", uri)
);

-- ---------------------------------------------------------------------------------------------------------------------
-- Feeds and suggestions.

create table bsky.feed_item (
    uri varchar primary key,
    cid varchar not null,
    type varchar not null,
    "postUri" varchar not null,
    "originatorDid" varchar not null,
    "sortAt" varchar not null
);
create index feed_item_cursor_idx on bsky.feed_item ("sortAt", cid);
create index feed_item_originator_cursor_idx on bsky.feed_item ("originatorDid", "sortAt", cid);
create index feed_item_post_uri_idx on bsky.feed_item ("postUri");

create table bsky.feed_generator (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "feedDid" varchar not null,
    "displayName" varchar,
    description varchar,
    "descriptionFacets" varchar,
    "avatarCid" varchar,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored
);
create index feed_generator_creator_index on bsky.feed_generator (creator);

create table bsky.suggested_feed (
    uri varchar primary key,
    "order" integer not null
);

create table bsky.suggested_follow (
    did varchar primary key,
    "order" integer not null
);

create table bsky.tagged_suggestion (
    tag varchar not null,
    subject varchar not null,
    "subjectType" varchar not null,
    primary key (tag, subject)
);

create table bsky.view_param (
    name varchar primary key,
    value varchar
);

-- ---------------------------------------------------------------------------------------------------------------------
-- The social graph.

create table bsky.follow (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "subjectDid" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored,
    constraint follow_unique_subject unique (creator, "subjectDid")
);
create index follow_creator_cursor_idx on bsky.follow (creator, "sortAt", cid);
create index follow_subject_cursor_idx on bsky.follow ("subjectDid", "sortAt", cid);

create table bsky.actor_block (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "subjectDid" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored,
    constraint actor_block_unique_subject unique (creator, "subjectDid")
);
create index actor_block_subjectdid_idx on bsky.actor_block ("subjectDid");

create table bsky.list (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    name varchar not null,
    purpose varchar not null,
    description varchar,
    "descriptionFacets" varchar,
    "avatarCid" varchar,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored
);
create index list_creator_idx on bsky.list (creator);

create table bsky.list_item (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "subjectDid" varchar not null,
    "listUri" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored,
    constraint list_item_unique_subject_in_list unique ("listUri", "subjectDid")
);
create index list_item_creator_idx on bsky.list_item (creator);
create index list_item_subject_idx on bsky.list_item ("subjectDid");

create table bsky.list_block (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "subjectUri" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored,
    constraint list_block_unique_subject unique (creator, "subjectUri")
);

create table bsky.reference_list_opt_out (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "subjectUri" varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored,
    constraint reference_list_opt_out_unique_subject unique (creator, "subjectUri")
);

create table bsky.starter_pack (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored,
    name varchar
);
create index starter_pack_creator_order_by_idx on bsky.starter_pack (creator, "sortAt", cid);

-- ---------------------------------------------------------------------------------------------------------------------
-- Labels and labelers.

create table bsky.label (
    src varchar not null,
    uri varchar not null,
    cid varchar not null,
    val varchar not null,
    neg boolean not null,
    cts varchar not null,
    exp varchar,
    primary key (src, uri, cid, val)
);
create index label_cts_idx on bsky.label (cts);
create index label_uri_index on bsky.label (uri);

create table bsky.labeler (
    uri varchar primary key,
    cid varchar not null,
    creator varchar not null,
    "createdAt" varchar not null,
    "indexedAt" varchar not null,
    "sortAt" varchar not null generated always as (least("createdAt", "indexedAt")) stored
);
create index labeler_order_by_idx on bsky.labeler ("sortAt", cid);

-- ---------------------------------------------------------------------------------------------------------------------
-- Notifications.

create table bsky.notification (
    id bigserial primary key,
    did varchar not null,
    "recordUri" varchar not null,
    "recordCid" varchar not null,
    author varchar not null,
    reason varchar not null,
    "reasonSubject" varchar,
    "sortAt" varchar not null
);
create index notification_author_idx on bsky.notification (author);
create index notification_did_sortat_idx on bsky.notification (did, "sortAt");
create index notification_record_idx on bsky.notification ("recordUri");
-- Ours: replaying an event can't notify twice.
create unique index notification_record_did_reason_idx on bsky.notification ("recordUri", did, reason);

create table bsky.notification_push_token (
    did varchar not null,
    platform varchar not null,
    token varchar not null,
    "appId" varchar not null,
    primary key (did, token)
);

-- ---------------------------------------------------------------------------------------------------------------------
-- Private state of this AppView's own users: written by the reference AppView when it serves them, never from the network.

create table bsky.mute (
    "subjectDid" varchar not null,
    "mutedByDid" varchar not null,
    "createdAt" varchar not null,
    "onlyReposts" boolean not null default false,
    "onlyQuoteposts" boolean not null default false,
    primary key ("mutedByDid", "subjectDid")
);

create table bsky.list_mute (
    "listUri" varchar not null,
    "mutedByDid" varchar not null,
    "createdAt" varchar not null,
    primary key ("mutedByDid", "listUri")
);

create table bsky.thread_mute (
    "rootUri" varchar not null,
    "mutedByDid" varchar not null,
    "createdAt" varchar not null,
    primary key ("rootUri", "mutedByDid")
);

create table bsky.activity_subscription (
    creator varchar not null,
    "subjectDid" varchar not null,
    key varchar not null,
    "indexedAt" varchar not null,
    post boolean not null,
    reply boolean not null,
    primary key (creator, key),
    constraint activity_subscription_unique_creator_subject_did unique (creator, "subjectDid")
);

create table bsky.bookmark (
    creator varchar not null,
    key varchar not null,
    "subjectUri" varchar not null,
    "subjectCid" varchar not null,
    "indexedAt" varchar not null,
    primary key (creator, key),
    constraint bookmark_unique_uri_creator unique ("subjectUri", creator)
);

create table bsky.draft (
    creator varchar not null,
    key varchar not null,
    "createdAt" varchar not null,
    "updatedAt" varchar not null,
    payload text not null,
    primary key (creator, key)
);
create index draft_creator_updated_at_key_idx on bsky.draft (creator, "updatedAt", key);

create table bsky.private_data (
    "actorDid" varchar not null,
    namespace varchar not null,
    key varchar not null,
    payload text not null,
    "indexedAt" varchar not null,
    "updatedAt" varchar not null,
    primary key ("actorDid", namespace, key)
);

-- ---------------------------------------------------------------------------------------------------------------------
-- Moderation. The reference's migrations still create these; its indexer only uses blob_takedown.

create table bsky.blob_takedown (
    did varchar not null,
    cid varchar not null,
    "takedownRef" varchar not null,
    primary key (did, cid)
);

create table bsky.moderation_action (
    id serial primary key,
    action varchar not null,
    "subjectType" varchar not null,
    "subjectDid" varchar not null,
    "subjectUri" varchar,
    "subjectCid" varchar,
    reason text not null,
    "createdAt" varchar not null,
    "createdBy" varchar not null,
    "reversedAt" varchar,
    "reversedBy" varchar,
    "reversedReason" text,
    "createLabelVals" varchar,
    "negateLabelVals" varchar,
    "durationInHours" integer,
    "expiresAt" varchar
);

create table bsky.moderation_action_subject_blob (
    "actionId" integer not null,
    cid varchar not null,
    primary key ("actionId", cid),
    constraint "moderation_action_subject_blob_actionId_fkey" foreign key ("actionId")
        references bsky.moderation_action (id)
);
create index moderation_action_subject_blob_cid_idx on bsky.moderation_action_subject_blob (cid);

create table bsky.moderation_event (
    id serial primary key,
    action varchar not null,
    "subjectType" varchar not null,
    "subjectDid" varchar not null,
    "subjectUri" varchar,
    "subjectCid" varchar,
    comment text,
    meta jsonb,
    "createdAt" varchar not null,
    "createdBy" varchar not null,
    "reversedAt" varchar,
    "reversedBy" varchar,
    "durationInHours" integer,
    "expiresAt" varchar,
    "reversedReason" text,
    "createLabelVals" varchar,
    "negateLabelVals" varchar,
    "legacyRefId" integer
);

create table bsky.moderation_report (
    id serial primary key,
    "subjectType" varchar not null,
    "subjectDid" varchar not null,
    "subjectUri" varchar,
    "subjectCid" varchar,
    "reasonType" varchar not null,
    reason text,
    "reportedByDid" varchar not null,
    "createdAt" varchar not null
);

create table bsky.moderation_report_resolution (
    "reportId" integer not null,
    "actionId" integer not null,
    "createdBy" varchar not null,
    "createdAt" varchar not null,
    primary key ("reportId", "actionId"),
    constraint "moderation_report_resolution_actionId_fkey" foreign key ("actionId")
        references bsky.moderation_action (id),
    constraint "moderation_report_resolution_reportId_fkey" foreign key ("reportId")
        references bsky.moderation_report (id)
);
create index moderation_report_resolution_action_id_idx on bsky.moderation_report_resolution ("actionId");

create table bsky.moderation_subject_status (
    id serial primary key,
    did varchar not null,
    "recordPath" varchar not null default '',
    "blobCids" jsonb,
    "recordCid" varchar,
    "reviewState" varchar not null,
    comment varchar,
    "muteUntil" varchar,
    "lastReviewedAt" varchar,
    "lastReviewedBy" varchar,
    "lastReportedAt" varchar,
    takendown boolean not null default false,
    "suspendUntil" varchar,
    "createdAt" varchar not null,
    "updatedAt" varchar not null,
    constraint moderation_status_unique_idx unique (did, "recordPath")
);
create index moderation_subject_status_blob_cids_idx on bsky.moderation_subject_status using gin ("blobCids");

create table bsky.subscription (
    service varchar not null,
    method varchar not null,
    state varchar not null,
    primary key (service, method)
);

-- ---------------------------------------------------------------------------------------------------------------------
-- Search by trigrams. The reference looks for the operator class along "bsky", public; where a database already has the
-- extension elsewhere, it is used from there.

do $$
declare
    operator_class text;
begin
    begin
        create extension if not exists pg_trgm with schema public;
    exception
        -- 58P01 and 0A000: not installed on the server; 42501: we may not; 3F000: no schema public.
        when undefined_file or feature_not_supported or insufficient_privilege or invalid_schema_name then
            raise notice 'pg_trgm is not available (%): actors, profiles and starter packs get no trigram indexes', sqlerrm;
            return;
    end;
    select format('%I.gist_trgm_ops', n.nspname) into strict operator_class
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where e.extname = 'pg_trgm';
    execute 'create index actor_handle_tgrm_idx on bsky.actor using gist (handle ' || operator_class || ')';
    execute 'create index profile_display_name_tgrm_idx on bsky.profile using gist ("displayName" ' || operator_class || ')';
    execute 'create index starter_pack_name_tgrm_idx on bsky.starter_pack using gist (name ' || operator_class || ')';
end
$$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Popular posts of the last day, refreshed by whoever serves them.

insert into bsky.view_param (name, value) values ('whats_hot_like_threshold', '2'), ('whats_hot_interval', '1day');

create materialized view bsky.algo_whats_hot_view as
select
    post.uri,
    post.cid,
    round(
        1000000 * (
            post_agg."likeCount"
            / ((extract(epoch from age(now(), post."indexedAt"::timestamp)) / 3600 + 2) ^ 1.8)
        )
    ) as score
from bsky.post
join bsky.post_agg on post_agg.uri = post.uri
where post."indexedAt" > (
        select to_char(now() - value::interval, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as val
        from bsky.view_param
        where name = 'whats_hot_interval'
    )
    and post."replyParent" is null
    and post_agg."likeCount" > (
        select value::integer as val
        from bsky.view_param
        where name = 'whats_hot_like_threshold'
    );
create unique index algo_whats_hot_view_uri_idx on bsky.algo_whats_hot_view (uri);
create index algo_whats_hot_view_cursor_idx on bsky.algo_whats_hot_view (score, cid);

-- ---------------------------------------------------------------------------------------------------------------------
-- The reference's own migrator: these are done, only newer ones would run.

create table bsky.kysely_migration (
    name varchar(255) primary key,
    "timestamp" varchar(255) not null
);
create table bsky.kysely_migration_lock (
    id varchar(255) primary key,
    is_locked integer not null default 0
);
insert into bsky.kysely_migration_lock (id, is_locked) values ('migration_lock', 0);
insert into bsky.kysely_migration (name, "timestamp")
select name, to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
from unnest(array[
    '_20230309T045948368Z', '_20230408T152211201Z', '_20230417T210628672Z', '_20230420T211446071Z',
    '_20230427T194702079Z', '_20230605T144730094Z', '_20230607T211442112Z', '_20230608T155101190Z',
    '_20230608T201813132Z', '_20230608T205147239Z', '_20230609T153623961Z', '_20230609T232122649Z',
    '_20230610T203555962Z', '_20230611T215300060Z', '_20230620T161134972Z', '_20230627T212437895Z',
    '_20230629T220835893Z', '_20230703T045536691Z', '_20230720T164800037Z', '_20230807T035309811Z',
    '_20230808T172902639Z', '_20230810T203349843Z', '_20230817T195936007Z', '_20230830T205507322Z',
    '_20230904T211011773Z', '_20230906T222220386Z', '_20230920T213858047Z', '_20230929T192920807Z',
    '_20231003T202833377Z', '_20231220T225126090Z', '_20240124T023719200Z', '_20240226T225725627Z',
    '_20240530T170337073Z', '_20240606T171229898Z', '_20240606T222548219Z', '_20240719T203853939Z',
    '_20240723T220700077Z', '_20240723T220703655Z', '_20240801T193939827Z', '_20240808T224251220Z',
    '_20240829T211238293Z', '_20240831T134810923Z', '_20241114T153108102Z', '_20250116T222618297Z',
    '_20250207T174822012Z', '_20250404T163421487Z', '_20250526T023712742Z', '_20250528T221913281Z',
    '_20250602T190357447Z', '_20250611T140649895Z', '_20250627T025331240Z', '_20250812T183735692Z',
    '_20250813T174955711Z', '_20251120T004738098Z', '_20260112T133951271Z', '_20260604T224952774Z',
    '_20260618T200000000Z', '_20260729T223157563Z', '_20260819T170000000Z', '_20260827T200000000Z',
    '_20260904T130000000Z'
]) as done (name);

-- ---------------------------------------------------------------------------------------------------------------------
-- Our additions.

comment on column bsky.record.rev is
    'Rev of the commit that this state of the record comes from; null: read from a repository export, rev unknown.';
comment on column bsky.record."appliedAt" is
    'When we applied this state. Time partitions of reruns select by it.';
comment on index bsky.notification_record_did_reason_idx is
    'One notification per record, recipient and reason, however often an event is applied.';
