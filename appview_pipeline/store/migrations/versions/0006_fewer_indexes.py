"""The indexes of the reference that another one makes superfluous."""

from appview_pipeline.store.migrations import run

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run("schema/0006_fewer_indexes.sql")
