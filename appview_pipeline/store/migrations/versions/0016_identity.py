"""What resolution keeps of each DID, its queue and its reports."""

from appview_pipeline.store.migrations import run, run_online

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    run_online("schema/online/0016_identity.sql")
    run("schema/0016_identity.sql")
