"""Hosting statuses confirmed by the PDS, removals, local moderation."""

from appview_pipeline.store.migrations import run, run_online

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    run_online("schema/online/0017_accounts.sql")
    run("schema/0017_accounts.sql")
