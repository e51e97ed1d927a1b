"""Sizes of tables over time."""

from appview_pipeline.store.migrations import run

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    run("schema/0025_operations.sql")
