"""What resolution keeps of each DID, its queue and its reports."""

from appview_pipeline.store.migrations import run

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    run("schema/0016_identity.sql")
