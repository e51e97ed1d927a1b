"""Accounts that forbid the collection of their data."""

from appview_pipeline.store.migrations import run

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    run("schema/0018_privacy.sql")
