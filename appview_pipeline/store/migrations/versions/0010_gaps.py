"""Refused commits and records as gaps, gaps that close by themselves, and a day's budget of dead letters."""

from appview_pipeline.store.migrations import run, run_online

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_online("schema/online/0010_gaps.sql")
    run("schema/0010_gaps.sql")
