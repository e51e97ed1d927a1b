-- Privacy: accounts that forbid the collection of their data.
--
-- Guarantees: `pipeline.repo.excluded` says at any moment what `pipeline.actor_setting` and `pipeline.removal` say,
-- whoever changes these, by whatever statement. It is in the row that every batch of the account locks: once the
-- transaction that excludes an account has committed, no batch that began earlier can store anything of it any more.

CREATE INDEX actor_setting_forbidden_idx ON pipeline.actor_setting (did) WHERE data_collection_forbidden;
COMMENT ON COLUMN pipeline.actor_setting.data_collection_forbidden IS
    'Nothing new of the account is stored, whatever way it arrives. Changed by pipeline.forbid_data_collection and '
    'pipeline.allow_data_collection, or by hand: what follows from it happens either way.';

ALTER TABLE pipeline.repo
    ADD COLUMN excluded boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN pipeline.repo.excluded IS
    'Nothing new of the account is stored: it forbids the collection of its data (actor_setting), or it was deleted '
    '(removal). Follows those tables by itself.';

ALTER TABLE pipeline.batch
    ADD COLUMN withheld integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN pipeline.batch.withheld IS
    'Events of which something was left out because their account is excluded.';
COMMENT ON COLUMN pipeline.backfill_queue.reason IS
    'Why: discovered, requested, chain, sync, gap, returned (the account was removed here, and is active again), '
    'allowed (the account allows the collection of its data again).';

-- Locks the account's row and sets its `excluded`. Returns true where it has become excluded, false where it is no
-- longer, null where nothing has changed. `reason`: why its repository is fetched where it is no longer excluded.
CREATE FUNCTION pipeline.follow_exclusion(account text, reason text) RETURNS boolean LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now_excluded boolean;
BEGIN
    INSERT INTO pipeline.repo (did) VALUES (account) ON CONFLICT DO NOTHING;
    PERFORM FROM pipeline.repo WHERE did = account FOR UPDATE;
    -- A statement of its own, for it has to see what others committed before they let go of the lock.
    now_excluded := EXISTS (SELECT FROM pipeline.actor_setting WHERE did = account AND data_collection_forbidden)
        OR EXISTS (SELECT FROM pipeline.removal WHERE did = account AND reason = 'deleted');
    UPDATE pipeline.repo SET excluded = now_excluded, updated_at = now()
    WHERE did = account AND excluded <> now_excluded;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF now_excluded THEN
        -- Nothing of it is to be fetched.
        DELETE FROM pipeline.backfill_queue WHERE did = account;
        DELETE FROM pipeline.gap WHERE did = account AND resolved_at IS NULL;
        -- Waits for a resolution that is being saved. Where the hosting status is wanted the account stays queued: its
        -- PDS is to say whether it was deleted.
        UPDATE pipeline.identity SET
            queue = CASE WHEN status_wanted THEN queue END,
            wanted_at = CASE WHEN status_wanted THEN wanted_at END,
            next_check_at = NULL
        WHERE did = account;
    ELSE
        -- What came while it was excluded is missing: no commit up to now is known to be applied, and all is fetched.
        UPDATE pipeline.repo SET chain_from = NULL WHERE did = account;
        INSERT INTO pipeline.gap AS g (kind, did) VALUES ('repository', account)
        ON CONFLICT ON CONSTRAINT gap_once DO UPDATE SET resolved_at = NULL, detected_at = now();
        INSERT INTO pipeline.backfill_queue (did, reason) VALUES (account, follow_exclusion.reason)
        ON CONFLICT (did) DO UPDATE SET
            reason = excluded.reason, enqueued_at = now(), not_before = now(), claimed_until = NULL, attempts = 0,
            error = NULL, finished_at = NULL;
        -- Of a purged account the PDS has not been asked since.
        INSERT INTO pipeline.identity AS i (did, queue, wanted_at, asked_at, status_wanted)
        SELECT account, 'event', now(), now(), NOT r.active FROM pipeline.repo r WHERE r.did = account
        ON CONFLICT (did) DO UPDATE SET
            queue = 'event', wanted_at = now(), asked_at = now(),
            status_wanted = i.status_wanted OR excluded.status_wanted;
        INSERT INTO bsky.actor (did, "indexedAt", "upstreamStatus")
        SELECT did, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
            pipeline.upstream_status(active OR status_doubtful, status)
        FROM pipeline.repo
        WHERE did = account AND rev IS NOT NULL
        ON CONFLICT (did) DO NOTHING;
    END IF;
    RETURN now_excluded;
END
$$;
COMMENT ON FUNCTION pipeline.follow_exclusion IS
    'Brings pipeline.repo.excluded of an account in line with actor_setting and removal. Their triggers call it.';

CREATE FUNCTION pipeline.setting_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    account text;
BEGIN
    FOR account IN SELECT DISTINCT a FROM unnest(ARRAY[OLD.did, NEW.did]) a WHERE a IS NOT NULL ORDER BY a LOOP
        PERFORM pipeline.follow_exclusion(account, 'allowed');
        IF EXISTS (SELECT FROM pipeline.actor_setting WHERE did = account AND data_collection_forbidden) THEN
            -- Dead letters are stored without the lock of the repository, which may not be known: after this lock,
            -- those of batches that began earlier are there, and later batches find the account excluded.
            PERFORM pg_advisory_xact_lock(hashtext('appview-pipeline: accounts without a repository'));
            UPDATE pipeline.dead_letter SET bytes = NULL WHERE did = account AND bytes IS NOT NULL;
        END IF;
        PERFORM pg_notify('appview_privacy', account);
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION pipeline.setting_changed IS
    'What follows from a change of actor_setting.data_collection_forbidden; notifies the channel appview_privacy.';
CREATE TRIGGER setting_added AFTER INSERT ON pipeline.actor_setting
    FOR EACH ROW WHEN (NEW.data_collection_forbidden) EXECUTE FUNCTION pipeline.setting_changed();
CREATE TRIGGER setting_updated AFTER UPDATE OF did, data_collection_forbidden ON pipeline.actor_setting
    FOR EACH ROW WHEN (OLD.data_collection_forbidden OR NEW.data_collection_forbidden)
    EXECUTE FUNCTION pipeline.setting_changed();
CREATE TRIGGER setting_deleted AFTER DELETE ON pipeline.actor_setting
    FOR EACH ROW WHEN (OLD.data_collection_forbidden) EXECUTE FUNCTION pipeline.setting_changed();

CREATE FUNCTION pipeline.removal_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    account text;
BEGIN
    FOR account IN SELECT DISTINCT a FROM unnest(ARRAY[OLD.did, NEW.did]) a WHERE a IS NOT NULL ORDER BY a LOOP
        PERFORM pipeline.follow_exclusion(account, 'returned');
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION pipeline.removal_changed IS 'What follows from a change of the accounts that were deleted.';
CREATE TRIGGER removal_added AFTER INSERT ON pipeline.removal
    FOR EACH ROW WHEN (NEW.reason = 'deleted') EXECUTE FUNCTION pipeline.removal_changed();
CREATE TRIGGER removal_updated AFTER UPDATE OF did, reason ON pipeline.removal
    FOR EACH ROW WHEN ((OLD.did, OLD.reason) IS DISTINCT FROM (NEW.did, NEW.reason))
    EXECUTE FUNCTION pipeline.removal_changed();
CREATE TRIGGER removal_deleted AFTER DELETE ON pipeline.removal
    FOR EACH ROW WHEN (OLD.reason = 'deleted') EXECUTE FUNCTION pipeline.removal_changed();

-- An excluded account keeps its row in pipeline.repo, for writers learn from it that the account is excluded.
CREATE FUNCTION pipeline.keep_excluded() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is excluded: its row in pipeline.repo has to stay', OLD.did
        USING HINT = 'Call pipeline.allow_data_collection first, or leave the row.';
END
$$;
COMMENT ON FUNCTION pipeline.keep_excluded IS 'Refuses to delete the row by which writers know an excluded account.';
CREATE TRIGGER excluded_kept BEFORE DELETE ON pipeline.repo
    FOR EACH ROW WHEN (OLD.excluded) EXECUTE FUNCTION pipeline.keep_excluded();

-- ---------------------------------------------------------------------------------------------------------------------
-- The switch, for any program that speaks SQL. A program that may do nothing else needs USAGE on the schema and EXECUTE
-- on the two functions.

CREATE FUNCTION pipeline.forbid_data_collection(did text, purge boolean DEFAULT false) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    account CONSTANT text := forbid_data_collection.did;
    changed boolean;
BEGIN
    IF account IS NULL OR account !~ '^did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]$' OR length(account) > 2048 THEN
        RAISE EXCEPTION '% is not a DID', coalesce(left(account, 100), 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO pipeline.actor_setting AS s (did, data_collection_forbidden) VALUES (account, true)
    ON CONFLICT (did) DO UPDATE SET data_collection_forbidden = true, updated_at = now()
    WHERE NOT s.data_collection_forbidden;
    changed := FOUND;
    IF forbid_data_collection.purge THEN
        -- The repository before the removal, as batches that remove lock them.
        PERFORM FROM pipeline.repo WHERE did = account FOR UPDATE;
        -- A removal under way goes on. One because of the account's deletion becomes this one: should the account not
        -- be deleted after all, the purge still stands.
        INSERT INTO pipeline.removal AS r (did, reason) VALUES (account, 'opt-out')
        ON CONFLICT (did) DO UPDATE SET
            reason = 'opt-out', requested_at = now(), started_at = NULL, finished_at = NULL, records = 0, error = NULL
        WHERE (r.reason = 'opt-out') = (r.finished_at IS NOT NULL);
        changed := changed OR FOUND;
    END IF;
    RETURN changed;
END
$$;
COMMENT ON FUNCTION pipeline.forbid_data_collection IS
    'Forbids the collection of an account''s data: once this is committed nothing new of it is stored, whatever way it '
    'arrives. With purge what is stored is removed as well, by the job remove_accounts; a purge that is finished is '
    'done again. Otherwise a second call changes nothing. Returns whether anything has changed. docs/privacy.md';

CREATE FUNCTION pipeline.allow_data_collection(did text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    account CONSTANT text := allow_data_collection.did;
BEGIN
    PERFORM FROM pipeline.actor_setting WHERE did = account AND data_collection_forbidden FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- The repository before the removal, as batches that remove lock them.
    PERFORM FROM pipeline.repo WHERE did = account FOR UPDATE;
    DELETE FROM pipeline.removal WHERE did = account AND reason = 'opt-out';
    -- An account that was deleted meanwhile, or before, is still to be removed.
    INSERT INTO pipeline.removal (did, reason)
    SELECT did, 'deleted' FROM pipeline.repo WHERE did = account AND pipeline.is_deleted(active, status, pds_status)
    ON CONFLICT (did) DO NOTHING;
    UPDATE pipeline.actor_setting SET data_collection_forbidden = false, updated_at = now() WHERE did = account;
    RETURN true;
END
$$;
COMMENT ON FUNCTION pipeline.allow_data_collection IS
    'Allows the collection of an account''s data again: a purge that is not finished is called off, and the repository '
    'is queued to be fetched whole (pipeline.backfill_queue). An account that was deleted stays excluded, and is '
    'removed. Called again it changes nothing. Returns whether anything has changed. docs/privacy.md';

REVOKE ALL ON FUNCTION pipeline.forbid_data_collection, pipeline.allow_data_collection FROM PUBLIC;

CREATE FUNCTION pipeline.is_excluded(did text) RETURNS boolean LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = is_excluded.did AND r.excluded);
END;
COMMENT ON FUNCTION pipeline.is_excluded IS
    'Whether nothing new of an account is stored. A writer that relies on it locks the account''s row of pipeline.repo '
    'first, as store/apply.py does, or looks at pipeline.repo in the statement that writes.';

-- Accounts whose setting is older than what follows from it.
INSERT INTO pipeline.repo (did, excluded)
SELECT did, true FROM pipeline.actor_setting WHERE data_collection_forbidden
ORDER BY did
ON CONFLICT (did) DO UPDATE SET excluded = true;
UPDATE pipeline.identity i SET queue = NULL, wanted_at = NULL, next_check_at = NULL
FROM pipeline.actor_setting s
WHERE s.did = i.did AND s.data_collection_forbidden;
