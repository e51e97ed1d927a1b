"""What statements of the write path ask of the history: gates that were there, parents of any collection."""

from appview_pipeline.store.migrations import run

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run("schema/0009_as_of_rev.sql")
