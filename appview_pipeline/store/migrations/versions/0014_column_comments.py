"""Comments: every table and column of schema bsky says what it holds."""

from appview_pipeline.store.migrations import run

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run("schema/0014_column_comments.sql")
