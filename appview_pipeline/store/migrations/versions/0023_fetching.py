"""What the fetch process reports."""

from appview_pipeline.store.migrations import run

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    run("schema/0023_fetching.sql")
