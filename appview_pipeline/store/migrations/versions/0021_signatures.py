"""Commits whose signature is still to be checked."""

from appview_pipeline.store.migrations import run

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    run("schema/0021_signatures.sql")
