"""Whether repositories are complete, and why not."""

from appview_pipeline.store.migrations import run, run_online

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    run_online("schema/online/0019_sync.sql")
    run("schema/0019_sync.sql")
