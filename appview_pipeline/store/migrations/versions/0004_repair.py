"""What reruns leave alone, where the rotating recount stands, and what a retry of a dead letter needs."""

from appview_pipeline.store.migrations import run

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run("schema/0004_repair.sql")
