-- Commits that were applied before their signature could be checked.
--
-- Guarantees: one row a repository, the newest such commit: its signature vouches for the tree, and the proofs of the
-- commits lead from tree to tree.

CREATE TABLE pipeline.unchecked_commit (
    did text PRIMARY KEY,
    rev text COLLATE "C" NOT NULL,
    seq bigint,
    block bytea NOT NULL,
    since timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.unchecked_commit IS
    'The newest commit of each repository that was applied while the account''s key was not known: checked when it is.';
COMMENT ON COLUMN pipeline.unchecked_commit.did IS 'DID of the repository.';
COMMENT ON COLUMN pipeline.unchecked_commit.rev IS 'Rev of the commit.';
COMMENT ON COLUMN pipeline.unchecked_commit.seq IS 'Sequence number of its event; null: it has none.';
COMMENT ON COLUMN pipeline.unchecked_commit.block IS 'The signed commit object, DAG-CBOR.';
COMMENT ON COLUMN pipeline.unchecked_commit.since IS 'When the first such commit was applied.';
