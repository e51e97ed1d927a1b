"""Schema pipeline: our own state."""

from appview_pipeline.store.migrations import run

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run("schema/0002_pipeline_tables.sql")
