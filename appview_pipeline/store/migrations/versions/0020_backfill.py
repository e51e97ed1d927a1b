"""The queue of repositories to fetch, hosts, and listings."""

from appview_pipeline.store.migrations import run, run_online

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    run_online("schema/online/0020_backfill.sql")
    run("schema/0020_backfill.sql")
