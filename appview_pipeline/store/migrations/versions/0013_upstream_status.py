"""The status of an account is one that readers know."""

from appview_pipeline.store.migrations import run

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run("schema/0013_upstream_status.sql")
