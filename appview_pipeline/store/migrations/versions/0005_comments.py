"""Comments: verifications have a history too."""

from appview_pipeline.store.migrations import run

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run("schema/0005_comments.sql")
