"""Functions that read the history of likes, reposts and follows."""

from appview_pipeline.store.migrations import run

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run("schema/0012_pairs.sql")
