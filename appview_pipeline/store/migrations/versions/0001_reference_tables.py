"""Schema bsky: what the reference AppView serves from, and our additions to it."""

from appview_pipeline.store.migrations import run

revision = "0001"
down_revision = None


def upgrade() -> None:
    run("schema/0001_reference_tables.sql")
