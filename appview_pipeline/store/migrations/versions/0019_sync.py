"""Whether repositories are complete, and why not."""

from appview_pipeline.store.migrations import run

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    run("schema/0019_sync.sql")
