"""The queue of repositories to fetch, hosts, and listings."""

from appview_pipeline.store.migrations import run

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    run("schema/0020_backfill.sql")
