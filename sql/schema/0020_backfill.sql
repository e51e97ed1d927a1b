-- The queue of repositories to fetch, the hosts that have them, and how far these were listed.
--
-- Guarantees: what is to be fetched next is found by an index, however long the queue is. Rows that are finished are in
-- none of these indexes.

ALTER TABLE pipeline.backfill_queue
    ADD COLUMN host text NOT NULL DEFAULT '',
    ADD COLUMN bucket smallint NOT NULL GENERATED ALWAYS AS ((hashtext(did) & 63)::smallint) STORED,
    ADD COLUMN parked_at timestamptz,
    ADD COLUMN bytes bigint;
COMMENT ON COLUMN pipeline.backfill_queue.host IS 'Origin of the account''s PDS (https://host); empty: not known yet.';
COMMENT ON COLUMN pipeline.backfill_queue.bucket IS
    'Part of the queue, 0 to 63, by hash of the DID: a partition of the asset repositories.';
COMMENT ON COLUMN pipeline.backfill_queue.parked_at IS
    'When it was given up for now, after too many failures (error has the last); null: it is not.';
COMMENT ON COLUMN pipeline.backfill_queue.bytes IS 'Bytes of its export.';
COMMENT ON COLUMN pipeline.backfill_queue.priority IS
    '3: asked for; 2: something of it is missing; 1: a new account; 0: the rest. Higher goes first.';
COMMENT ON COLUMN pipeline.backfill_queue.enqueued_at IS
    'When it was last asked for. Moved while it is being fetched it says that the repository has to be fetched again.';
COMMENT ON COLUMN pipeline.backfill_queue.not_before IS
    'Not to be taken before this: back-off, or a process has taken it.';
COMMENT ON COLUMN pipeline.backfill_queue.claimed_until IS
    'A process has taken it, and renews this while it is at work; null: no process has. A process that was killed loses '
    'it at that time.';
COMMENT ON COLUMN pipeline.backfill_queue.finished_at IS
    'When it was applied, or found to be gone for good (then error is set); null: not yet.';

DROP INDEX pipeline.backfill_queue_next_idx;
CREATE INDEX backfill_queue_bucket_idx ON pipeline.backfill_queue (bucket, host, priority, not_before)
    WHERE finished_at IS NULL;
CREATE INDEX backfill_queue_urgent_idx ON pipeline.backfill_queue (host, priority, not_before)
    WHERE finished_at IS NULL AND priority >= 2;
CREATE INDEX backfill_queue_parked_idx ON pipeline.backfill_queue (parked_at)
    WHERE finished_at IS NULL AND parked_at IS NOT NULL;

-- The indexes of pipeline.repo are in schema/online/0020_backfill.sql.

CREATE TABLE pipeline.pds_host (
    host text PRIMARY KEY,
    parked_until timestamptz,
    failures integer NOT NULL DEFAULT 0,
    reason text,
    failed_at timestamptz,
    delivered_at timestamptz,
    fetched bigint NOT NULL DEFAULT 0,
    found_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz,
    status text,
    accounts bigint,
    listing_cursor text,
    listing_began_at timestamptz,
    listed bigint NOT NULL DEFAULT 0,
    listed_at timestamptz,
    list_not_before timestamptz,
    list_attempts integer NOT NULL DEFAULT 0,
    list_error text
) WITH (fillfactor = 70);
CREATE INDEX pds_host_parked_idx ON pipeline.pds_host (parked_until) WHERE parked_until IS NOT NULL;
CREATE INDEX pds_host_list_idx ON pipeline.pds_host (list_not_before) WHERE list_not_before IS NOT NULL;
COMMENT ON TABLE pipeline.pds_host IS
    'Hosts of repositories: which of them are parked, and how far each was listed. All processes share it.';
COMMENT ON COLUMN pipeline.pds_host.host IS 'Origin (https://host).';
COMMENT ON COLUMN pipeline.pds_host.parked_until IS 'No repository is fetched from it before; null: it is not parked.';
COMMENT ON COLUMN pipeline.pds_host.failures IS 'Failures in a row, its own and not those of single accounts.';
COMMENT ON COLUMN pipeline.pds_host.reason IS 'The last failure in words; null: none since it last delivered.';
COMMENT ON COLUMN pipeline.pds_host.failed_at IS 'When it last failed; null: never.';
COMMENT ON COLUMN pipeline.pds_host.delivered_at IS 'When it last delivered a repository; null: never.';
COMMENT ON COLUMN pipeline.pds_host.fetched IS 'Repositories that it delivered.';
COMMENT ON COLUMN pipeline.pds_host.found_at IS 'When it was first met.';
COMMENT ON COLUMN pipeline.pds_host.seen_at IS 'When the relay last listed it; null: never.';
COMMENT ON COLUMN pipeline.pds_host.status IS 'What the relay says of it (active, idle, offline, throttled, banned).';
COMMENT ON COLUMN pipeline.pds_host.accounts IS 'Accounts that the relay says it has: a lower limit.';
COMMENT ON COLUMN pipeline.pds_host.listing_cursor IS 'Where listing its repositories goes on; null: at the beginning.';
COMMENT ON COLUMN pipeline.pds_host.listing_began_at IS 'When the listing under way began; null: none is under way.';
COMMENT ON COLUMN pipeline.pds_host.listed IS 'Repositories that the last listing, or the one under way, has named.';
COMMENT ON COLUMN pipeline.pds_host.listed_at IS 'When its repositories were last listed to the end; null: never.';
COMMENT ON COLUMN pipeline.pds_host.list_not_before IS
    'When its repositories are to be listed (on); null: not until a new listing of the network begins.';
COMMENT ON COLUMN pipeline.pds_host.list_attempts IS 'Failures to list it since a page was last read.';
COMMENT ON COLUMN pipeline.pds_host.list_error IS 'The last of them in words, or why its list was cut off; null: none.';

CREATE TABLE pipeline.relay_listing (
    relay text NOT NULL,
    listing text NOT NULL CHECK (listing IN ('hosts', 'repositories', 'survey')),
    cursor text,
    began_at timestamptz NOT NULL DEFAULT now(),
    moved_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    entries bigint NOT NULL DEFAULT 0,
    queued bigint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),
    error text,
    PRIMARY KEY (relay, listing)
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.relay_listing IS
    'Lists that are read from the relay, page by page, and how far: a process that is killed loses one page.';
COMMENT ON COLUMN pipeline.relay_listing.relay IS 'URL of the relay, as in cursor.';
COMMENT ON COLUMN pipeline.relay_listing.listing IS
    'hosts: its hosts; repositories: its repositories, where it does not list hosts; survey: its repositories and their '
    'revs, after a gap of the stream.';
COMMENT ON COLUMN pipeline.relay_listing.cursor IS 'Where it goes on; null: at the beginning.';
COMMENT ON COLUMN pipeline.relay_listing.began_at IS 'When this reading of the list began.';
COMMENT ON COLUMN pipeline.relay_listing.moved_at IS 'When a page was last read.';
COMMENT ON COLUMN pipeline.relay_listing.finished_at IS 'When it was read to its end; null: it goes on.';
COMMENT ON COLUMN pipeline.relay_listing.entries IS 'Entries read so far.';
COMMENT ON COLUMN pipeline.relay_listing.queued IS 'Repositories queued because of it.';
COMMENT ON COLUMN pipeline.relay_listing.attempts IS 'Failures since a page was last read.';
COMMENT ON COLUMN pipeline.relay_listing.not_before IS 'Not to be gone on with before this (back-off).';
COMMENT ON COLUMN pipeline.relay_listing.error IS 'The last failure in words; null: none since a page was last read.';

CREATE TABLE pipeline.backfill_batch (
    id bigserial PRIMARY KEY,
    bucket smallint,
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seconds real NOT NULL,
    repositories integer NOT NULL DEFAULT 0,
    records bigint NOT NULL DEFAULT 0,
    created bigint NOT NULL DEFAULT 0,
    updated bigint NOT NULL DEFAULT 0,
    deleted bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    parked integer NOT NULL DEFAULT 0,
    fetching integer NOT NULL DEFAULT 0,
    failures jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX backfill_batch_ended_at_idx ON pipeline.backfill_batch (ended_at);
COMMENT ON TABLE pipeline.backfill_batch IS
    'What each process that fetches repositories has done, every few seconds: what Dagster plots. Swept after some days.';
COMMENT ON COLUMN pipeline.backfill_batch.id IS 'Grows with every row.';
COMMENT ON COLUMN pipeline.backfill_batch.bucket IS 'Part of the queue that the process works off; null: all of it.';
COMMENT ON COLUMN pipeline.backfill_batch.ended_at IS 'Until when.';
COMMENT ON COLUMN pipeline.backfill_batch.seconds IS 'In how many seconds.';
COMMENT ON COLUMN pipeline.backfill_batch.repositories IS 'Repositories fetched and applied.';
COMMENT ON COLUMN pipeline.backfill_batch.records IS 'Records that they had.';
COMMENT ON COLUMN pipeline.backfill_batch.created IS 'Records that were missing here.';
COMMENT ON COLUMN pipeline.backfill_batch.updated IS 'Records that were different here.';
COMMENT ON COLUMN pipeline.backfill_batch.deleted IS 'Records that were only here.';
COMMENT ON COLUMN pipeline.backfill_batch.refused IS 'Records that can''t be indexed: dead letters.';
COMMENT ON COLUMN pipeline.backfill_batch.bytes IS 'Bytes of the exports.';
COMMENT ON COLUMN pipeline.backfill_batch.failed IS 'Attempts that failed.';
COMMENT ON COLUMN pipeline.backfill_batch.parked IS 'Repositories given up for now.';
COMMENT ON COLUMN pipeline.backfill_batch.fetching IS 'Repositories that were being fetched at that moment.';
COMMENT ON COLUMN pipeline.backfill_batch.failures IS 'Failures by kind: {"<kind>": n}.';
