-- The temporary tables that all effects of a batch share: one set a connection, emptied at every commit.
--
-- A batch is copied into `stage_*`, in the shape its Python side gives it. The effects run on them in the order that
-- store/apply.py lists, and tell each other what changed through `touched` and the two `delta_*` tables. Text that is
-- only compared for equality keeps the database's collation, so that indexes serve it; revs order events and therefore
-- have collation "C".
--
-- The planner assumes that a temporary table has at least ten pages, and would rather read a whole table than look up
-- so many rows in its index. `= ANY (ARRAY(...))` and `LATERAL (... OFFSET 0)` force look-ups, however little is
-- staged.
--
-- Guarantees: no row of one batch is seen by the next.

-- The newest commit (or #sync) of each repository in the batch, and from which rev the batch's own commits form a
-- chain.
CREATE TEMPORARY TABLE stage_repo (
  did text NOT NULL,
  oldest_rev text COLLATE "C" NOT NULL,  -- oldest rev of the batch
  first_rev text COLLATE "C" NOT NULL,   -- rev that came first
  first_since text COLLATE "C",          -- the rev that the first commit says it follows
  first_prev_data text,                  -- the tree that the first commit says it changes
  first_data text NOT NULL,              -- its tree
  first_is_sync boolean NOT NULL,        -- it is a #sync: its tree, without the way there
  chain_from text COLLATE "C" NOT NULL,  -- oldest rev from which the batch's commits follow one another
  chain_since text COLLATE "C",          -- where that is not first_rev: the rev that this commit says it follows
  chain_prev_data text,                  -- and the tree that it says it changes
  rev text COLLATE "C" NOT NULL,         -- newest rev of the batch
  commit_cid text NOT NULL,
  data_cid text NOT NULL,
  seq bigint,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- The export of a repository that parts of are in the batch; of two exports of a repository the newer one.
CREATE TEMPORARY TABLE stage_export (
  did text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  commit_cid text NOT NULL,
  data_cid text NOT NULL,
  is_end boolean NOT NULL,               -- its last part is in the batch, and it proves something
  is_whole boolean NOT NULL,             -- all of the repository up to rev; otherwise its newest records
  asked_at text,                         -- the fetching that it is of (pipeline.repo.resync_at)
  is_fetched boolean NOT NULL            -- it was asked for then, and is no file
) ON COMMIT DELETE ROWS;

-- What was stored before this batch of its repositories: those that it has commits, exports or gaps of.
CREATE TEMPORARY TABLE known_repo (
  did text NOT NULL,
  rev text COLLATE "C",
  chain_from text COLLATE "C",
  data_cid text,
  active boolean NOT NULL,
  excluded boolean NOT NULL,             -- nothing new of the account is stored
  export_rev text COLLATE "C",           -- commits up to it change nothing any more
  is_fetched boolean NOT NULL            -- its export is being fetched or compared
) ON COMMIT DELETE ROWS;

-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_write (
  uri text NOT NULL,
  cid text NOT NULL,
  did text NOT NULL,
  collection text NOT NULL,
  action text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  json text NOT NULL,
  indexed_at text NOT NULL,
  quiet boolean                          -- true: it notifies nobody; else null
) ON COMMIT DELETE ROWS;

-- The records that the batch deletes in the end.
CREATE TEMPORARY TABLE stage_delete (
  uri text NOT NULL,
  did text NOT NULL,
  collection text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  seq bigint,
  indexed_at text NOT NULL,
  quiet boolean                          -- true: an export lacks the record, and nobody is notified of that; else null
) ON COMMIT DELETE ROWS;

-- Deletions and states of records that the batch itself supersedes.
CREATE TEMPORARY TABLE stage_superseded ( -- long rows (late.sql adds to them)
  uri text NOT NULL,
  did text NOT NULL,
  collection text NOT NULL,
  action text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  cid text,
  json text,
  seq bigint,
  created_at text,
  indexed_at text NOT NULL,
  quiet boolean                          -- as in stage_write and stage_delete
) ON COMMIT DELETE ROWS;

-- Writes and deletes that were no plain creation: `updated` (the record was stored), `recreated` (it was stored, and
-- was deleted in between), `deleted` (it was stored), `stale` (something as new or newer had been applied already; the
-- event must leave no trace). duplicates.sql adds `demoted` (another record takes its natural key).
CREATE TEMPORARY TABLE touched (
  uri text NOT NULL,
  collection text NOT NULL,
  change text NOT NULL,
  rev text COLLATE "C" NOT NULL,         -- of the event that touched it
  at text NOT NULL,
  removed boolean NOT NULL DEFAULT false -- its old row has been taken out of the collection's table
) ON COMMIT DELETE ROWS;

-- Records of which events come late that an export has overtaken, and what the export says of them (late.sql).
CREATE TEMPORARY TABLE export_state (
  uri text NOT NULL,
  did text NOT NULL,
  collection text NOT NULL,
  rev text COLLATE "C" NOT NULL,         -- of the export
  newest text COLLATE "C" NOT NULL,      -- rev of the newest staged event of the record
  state text NOT NULL                    -- `same`: as the event says; `other`: another one; `gone`: there is none
) ON COMMIT DELETE ROWS;

-- Natural keys whose record the batch removes, and the rev of the event that removes it.
CREATE TEMPORARY TABLE freed_key (
  uri text NOT NULL,
  key_1 text NOT NULL,
  key_2 text NOT NULL,
  rev text COLLATE "C" NOT NULL
) ON COMMIT DELETE ROWS;

-- Staged records whose row was added to their collection's table: new ones, and no duplicates. Counters, notifications
-- and feed items follow from these.
CREATE TEMPORARY TABLE added (
  uri text NOT NULL
) ON COMMIT DELETE ROWS;

-- Counter movements of the batch, many rows a key; counters.sql adds them up by key.
CREATE TEMPORARY TABLE delta_post (
  uri text NOT NULL,
  likes int NOT NULL DEFAULT 0,
  replies int NOT NULL DEFAULT 0,
  reposts int NOT NULL DEFAULT 0,
  quotes int NOT NULL DEFAULT 0
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE delta_profile (
  did text NOT NULL,
  followers int NOT NULL DEFAULT 0,
  follows int NOT NULL DEFAULT 0,
  posts int NOT NULL DEFAULT 0
) ON COMMIT DELETE ROWS;

-- Notifications that follow from the batch's new rows; notification.sql decides which are written.
CREATE TEMPORARY TABLE new_notification (
  did text NOT NULL,
  record_uri text NOT NULL,
  record_cid text NOT NULL,
  author text NOT NULL,
  reason text NOT NULL,
  reason_subject text,
  sort_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- Records near the batch that notify nobody (bsky.record.quiet): those that it writes, and stored ones that it
-- evaluates again or that compete for a freed key. notification.sql drops what they would cause.
CREATE TEMPORARY TABLE quiet_record (
  uri text NOT NULL
) ON COMMIT DELETE ROWS;

-- Records that took the place of another one with the same natural key, promoted or older; the notification moves
-- along.
CREATE TEMPORARY TABLE promotion (
  old_uri text NOT NULL,
  new_uri text NOT NULL,
  new_cid text NOT NULL
) ON COMMIT DELETE ROWS;

-- The newest status of each account in the batch.
CREATE TEMPORARY TABLE stage_account (
  did text NOT NULL,
  active boolean NOT NULL,
  status text,
  at timestamptz NOT NULL,
  seq bigint,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- Accounts whose resolution the batch asks for: #identity events, and (account.sql) accounts whose PDS is to be asked
-- for their hosting status. `at` is the time of an #identity event, null for anything else.
CREATE TEMPORARY TABLE stage_identity (
  did text NOT NULL,
  at timestamptz,
  seq bigint,
  status_wanted boolean NOT NULL DEFAULT false
) ON COMMIT DELETE ROWS;

-- Operations of one commit on one collection that is not indexed.
CREATE TEMPORARY TABLE stage_ignored (
  did text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  collection text NOT NULL,
  creates bigint NOT NULL,
  updates bigint NOT NULL,
  deletes bigint NOT NULL
) ON COMMIT DELETE ROWS;

-- Gaps that the batch finds; gap.sql decides which are written.
CREATE TEMPORARY TABLE stage_gap (
  kind text NOT NULL,
  did text,
  relay text,
  shard text,
  from_text text COLLATE "C",
  to_text text COLLATE "C",
  links jsonb,
  resolved boolean NOT NULL DEFAULT false -- the consumer found that nothing is missing
) ON COMMIT DELETE ROWS;

-- Commits of repositories with open gaps, where some of them arrived late.
CREATE TEMPORARY TABLE stage_link (
  did text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  since text COLLATE "C",
  prev_data text,
  data text NOT NULL
) ON COMMIT DELETE ROWS;
