-- The role that the reference AppView has on the database that the pipeline fills: it reads schema bsky, and writes
-- there what its users and moderators do and nothing else. It sees nothing of schema pipeline. Run it as the role that runs
-- `appview-pipeline migrate`, after that; running it again changes nothing. docs/serve.md says how.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'appview_server') THEN
        CREATE ROLE appview_server LOGIN;
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO appview_server', current_database());
END
$$;

-- The reference compares dates without their time zone. docker/appview/serve.mjs sets it, too; a pooler may drop that.
ALTER ROLE appview_server SET timezone = 'UTC';

-- What keeps its plans to index look-ups (docs/serve.md, "Plans and speed"). docker/appview/serve.mjs sets these, too.
ALTER ROLE appview_server SET random_page_cost = 1.1;
ALTER ROLE appview_server SET work_mem = '4MB';
ALTER ROLE appview_server SET hash_mem_multiplier = 1;
ALTER ROLE appview_server SET jit = off;

-- Later migrations' tables, too.
GRANT USAGE ON SCHEMA bsky TO appview_server;
GRANT SELECT ON ALL TABLES IN SCHEMA bsky TO appview_server;
ALTER DEFAULT PRIVILEGES IN SCHEMA bsky GRANT SELECT ON TABLES TO appview_server;

-- What accounts keep to themselves.
GRANT INSERT, UPDATE, DELETE ON
    bsky.activity_subscription, bsky.actor_state, bsky.bookmark, bsky.draft, bsky.list_mute, bsky.mute,
    bsky.private_data, bsky.thread_mute
TO appview_server;

-- Takedowns by its own moderators, age assurance, and how often a post is bookmarked.
GRANT INSERT, DELETE ON bsky.blob_takedown TO appview_server;
GRANT UPDATE ("takedownRef") ON bsky.record TO appview_server;
GRANT UPDATE (
    "takedownRef", "upstreamStatus", "ageAssuranceStatus", "ageAssuranceLastInitiatedAt", "ageAssuranceAccess",
    "ageAssuranceCountryCode", "ageAssuranceRegionCode"
) ON bsky.actor TO appview_server;
GRANT INSERT (uri, "bookmarkCount"), UPDATE ("bookmarkCount") ON bsky.post_agg TO appview_server;
