"""Commits whose signature is still to be checked."""

from appview_pipeline.store.migrations import run, run_online

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    run_online("schema/online/0021_signatures.sql")
    run("schema/0021_signatures.sql")
