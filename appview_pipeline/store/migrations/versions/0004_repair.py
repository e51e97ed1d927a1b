"""Notifications that reruns keep, the position of the rotating recount, and what a retry of a dead letter needs."""

from appview_pipeline.store.migrations import run, run_online

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_online("schema/online/0004_repair.sql")
    run("schema/0004_repair.sql")
