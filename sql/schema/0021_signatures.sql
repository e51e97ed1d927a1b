-- Commits that were applied before their signature could be checked, and dead letters that wait for a fresh key.
--
-- Guarantees: one row a repository, the newest such commit: its signature vouches for the tree, and the proofs of the
-- commits lead from tree to tree.

CREATE TABLE pipeline.unchecked_commit (
    did text PRIMARY KEY,
    rev text COLLATE "C" NOT NULL,
    seq bigint,
    block bytea NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    check_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
CREATE INDEX unchecked_commit_due ON pipeline.unchecked_commit (check_at);
COMMENT ON TABLE pipeline.unchecked_commit IS
    'The newest commit of each repository that was applied while the account''s key was not known: checked when it is.';
COMMENT ON COLUMN pipeline.unchecked_commit.did IS 'DID of the repository.';
COMMENT ON COLUMN pipeline.unchecked_commit.rev IS 'Rev of the commit.';
COMMENT ON COLUMN pipeline.unchecked_commit.seq IS 'Sequence number of its event; null: it has none.';
COMMENT ON COLUMN pipeline.unchecked_commit.block IS 'The signed commit object, DAG-CBOR.';
COMMENT ON COLUMN pipeline.unchecked_commit.since IS 'When the first such commit was applied.';
COMMENT ON COLUMN pipeline.unchecked_commit.check_at IS 'When it is looked up next whether the key is known.';

-- dead_letter_unsettled is in schema/online/0021_signatures.sql.

-- Nothing of an excluded account is to be checked. Its batches lock the same row of pipeline.repo first.
CREATE FUNCTION pipeline.forget_unchecked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM pipeline.unchecked_commit WHERE did = NEW.did;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION pipeline.forget_unchecked IS 'Removes the unchecked commit of an account that becomes excluded.';
CREATE TRIGGER unchecked_forgotten AFTER UPDATE OF excluded ON pipeline.repo
    FOR EACH ROW WHEN (NEW.excluded AND NOT OLD.excluded) EXECUTE FUNCTION pipeline.forget_unchecked();
